"""What Next Sample gives: one of the unlabelled cases that nobody else has been given, with the reason for it.

The stock strategies ask the datastore about every image there is; these ask it once or twice.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy

from lib.activelearning.leases import Leases
from lib.infers.failures import answer
from lib.infers.images import find_image
from lib.scoring.selection import Choice, Pool

# Of the images that are free to choose from.
Chooser = Callable[[Sequence[str]], Choice]
AGAIN = "skipped before, and no other case is left"


class LeasedStrategy(Strategy):
    """A choice among the unlabelled images that no other client has; `client_id` in the request says who asks."""

    def __init__(self, description: str, leases: Leases) -> None:
        super().__init__(description)
        self._leases = leases

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        unlabelled = datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels"))
        chooser, reasons = self.chooser(datastore, unlabelled), dict[str, str]()

        def choose(free: Sequence[str]) -> str:
            choice = chooser(free)
            reasons[choice.image] = choice.reason
            return choice.image

        image = self._leases.give(unlabelled, str(request.get("client_id")), choose)
        return None if image is None else {"id": image, "reason": reasons.get(image, AGAIN)}

    @abstractmethod
    def chooser(self, datastore: Datastore, unlabelled: Sequence[str]) -> Chooser:
        """What chooses among images, of which there is at least one, out of those that are `unlabelled`."""


class First(LeasedStrategy):
    """In the order of their names, one after the other."""

    def __init__(self, leases: Leases) -> None:
        super().__init__("The first unlabelled case that nobody else has", leases)

    def chooser(self, datastore: Datastore, unlabelled: Sequence[str]) -> Chooser:
        return lambda free: Choice(min(free), f"the first of {len(free)} by name")


class Random(LeasedStrategy):
    """Any, each as likely as the other."""

    def __init__(self, leases: Leases) -> None:
        super().__init__("Any unlabelled case that nobody else has", leases)

    def chooser(self, datastore: Datastore, unlabelled: Sequence[str]) -> Chooser:
        return lambda free: Choice(random.choice(free), f"any of {len(free)}")


DESCRIPTIONS = {
    "diversity": "The case that stands for most images unlike the labelled ones",
    "uncertainty": "The case that is expected to take most clicks",
    "hybrid": "A case that stands for many and is expected to take many clicks, the more so the more are labelled",
}


class Scored(LeasedStrategy):
    """By the scores that are known (lib.scoring.selection): no image is opened, and no network asked."""

    def __init__(self, method: str, leases: Leases, pool: Pool) -> None:
        super().__init__(DESCRIPTIONS[method], leases)
        self._method, self._pool = method, pool

    def chooser(self, datastore: Datastore, unlabelled: Sequence[str]) -> Chooser:
        labelled = set(datastore.get_labeled_images())

        def choose(free: Sequence[str]) -> Choice:
            taken = set(unlabelled) - set(free)
            choice = self._pool.choose(free, labelled, taken, self._method)
            return choice or Choice(random.choice(free), f"any of {len(free)}, none of which is scored yet")

        return choose


def next_case(strategies: Mapping[str, Strategy], request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
    """Id and path of a case by the strategy that the request names, and why it is that one; empty if none is left,
    HTTPException if refused.

    A case whose image cannot be had stays leased, so that the one who asks again gets another.
    """
    name = request.get("strategy") or "random"
    strategy = strategies.get(name) if isinstance(name, str) else None
    if strategy is None:
        raise answer(404, f"there is no strategy {str(name)[:80]!r} here: the strategies are {sorted(strategies)}")
    sample = strategy(request, datastore)
    return {**sample, "path": find_image(sample["id"], datastore, ())} if sample else {}
