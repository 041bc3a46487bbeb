"""Work that goes on: by the workers of a cluster while there are any, on this machine else, and back again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from lib.cluster.link import Link
from lib.cluster.orders import Failure, Order, Outcome
from lib.cluster.travelling import Weights
from lib.errors import ClusterError

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
# What an item becomes when its turn comes: an order, why there is none, or None for what this machine alone can do.
Asked = Order | Failure | None


def carried(
    items: Iterable[Item],
    order_of: Callable[[Item], Asked],
    here: Callable[[Item], Outcome],
    link: Link,
    weights: Callable[[], Weights],
) -> Iterator[tuple[Item, Outcome]]:
    """Every item with its outcome, once, in the order in which they come. `weights` are those that the orders need now.
    What was on its way when a cluster went is sent again, or done here."""
    left = dict(enumerate(items))
    only_here: set[int] = set()
    while left:
        cluster = link.awaited(lambda: False) if left.keys() - only_here else None
        if cluster is None:
            number = next(iter(left))
            item = left.pop(number)
            yield item, here(item)
            continue
        asked: dict[str, int] = {}
        refused: list[tuple[int, Failure]] = []
        stream = cluster.executor(weights()).stream(_orders(left, only_here, order_of, asked, refused))
        try:
            for order, outcome in stream:
                yield left.pop(asked[order.key]), outcome
                while refused:
                    number, failure = refused.pop()
                    yield left.pop(number), failure
        except ClusterError as error:
            link.lost(error)
        finally:
            stream.close()
        while refused:
            number, failure = refused.pop()
            yield left.pop(number), failure


def _orders(
    left: dict[int, Item],
    only_here: set[int],
    order_of: Callable[[Item], Asked],
    asked: dict[str, int],
    refused: list[tuple[int, Failure]],
) -> Iterator[Order]:
    """The orders of what is left, as there is room for them."""
    for number, item in list(left.items()):
        found = None if number in only_here else order_of(item)
        if isinstance(found, Failure):
            refused.append((number, found))
        elif found is None or not found.is_short or found.key in asked:
            only_here.add(number)
        else:
            asked[found.key] = number
            yield found
