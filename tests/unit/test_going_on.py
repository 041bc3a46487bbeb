"""Work that goes on when a cluster leaves and comes back; the cluster is one of the test's, and so are its deaths."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Any

import pytest

from lib.cluster.going_on import carried
from lib.cluster.orders import Failure, Order, Outcome
from lib.errors import ClusterError


class Cluster:
    """Carries out at most so many orders, and then goes; two more were on their way."""

    def __init__(self, life: int) -> None:
        self.life, self.sent = life, list[str]()

    def executor(self, weights: Any) -> Cluster:
        self.weights = weights
        return self

    def stream(
        self, orders: Iterable[Order], is_stopped: Callable[[], bool] = lambda: False
    ) -> Generator[tuple[Order, Outcome], None, None]:
        flying = list[Order]()
        source = iter(orders)
        while True:
            for order in source:
                self.sent.append(order.key)
                flying.append(order)
                if len(flying) == 2:
                    break
            if not flying:
                return
            if self.life == 0:
                raise ClusterError("it has gone")
            self.life -= 1
            order = flying.pop()
            yield order, f"there {order.key}"


class Link:
    def __init__(self, *clusters: Cluster | None) -> None:
        self.clusters, self.lost_with = list(clusters), list[str]()

    def awaited(self, is_stopped: Callable[[], bool]) -> Cluster | None:
        return self.clusters[0] if len(self.clusters) == 1 else self.clusters.pop(0)

    def lost(self, error: ClusterError) -> None:
        self.lost_with.append(str(error))


def go(link: Link, asked: Callable[[str], Any] = lambda item: Order("score", item)) -> list[tuple[str, Outcome]]:
    return list(carried("abcdef", asked, lambda item: f"here {item}", link, lambda: "weights"))


@pytest.mark.parametrize(
    ("link", "n_there"),
    [
        (Link(None), 0),
        (Link(Cluster(9)), 6),
        (Link(Cluster(3), None), 3),
        (Link(Cluster(0), None), 0),
        (Link(Cluster(2), Cluster(1), Cluster(9)), 6),
        (Link(None, None, Cluster(9)), 4),
        (Link(Cluster(1), None, Cluster(9)), 5),
    ],
)
def test_every_item_has_one_outcome_whoever_dies(link: Link, n_there: int) -> None:
    found = go(link)
    assert sorted(item for item, _ in found) == list("abcdef")
    assert all(outcome in (f"here {item}", f"there {item}") for item, outcome in found)
    assert sum(str(outcome).startswith("there") for _, outcome in found) == n_there


def test_refusals_come_through_and_what_cannot_travel_is_done_here() -> None:
    asked = {"a": Failure("labelled"), "b": None, "c": Order("score", "x" * 2000)}
    cluster = Cluster(9)
    found = dict(go(Link(cluster), lambda item: asked.get(item, Order("score", item))))
    assert found == {
        "a": Failure("labelled"),
        **{item: f"here {item}" for item in "bc"},
        **{item: f"there {item}" for item in "def"},
    }
    assert cluster.sent == ["d", "e", "f"]


def test_two_items_of_one_key_are_both_done() -> None:
    found = dict(go(Link(Cluster(9)), lambda item: Order("score", "same" if item in "ab" else item)))
    assert found.keys() == set("abcdef")
    assert sorted(str(found[item]).split()[0] for item in "ab") == ["here", "there"]
