"""What Next Sample gives: the first or any of the unlabelled cases that nobody else has been given.

The stock strategies ask the datastore about every image there is; these ask it once.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy

from lib.activelearning.leases import Leases
from lib.infers.failures import answer
from lib.infers.images import find_image


class LeasedStrategy(Strategy):
    """A choice among the unlabelled images that no other client has; `client_id` in the request says who asks."""

    def __init__(self, description: str, leases: Leases) -> None:
        super().__init__(description)
        self._leases = leases

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        unlabelled = datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels"))
        image = self._leases.give(unlabelled, str(request.get("client_id")), self.choose)
        return None if image is None else {"id": image}

    @abstractmethod
    def choose(self, images: Sequence[str]) -> str:
        """One of `images`, of which there is at least one."""


class First(LeasedStrategy):
    """In the order of their names, one after the other."""

    def __init__(self, leases: Leases) -> None:
        super().__init__("The first unlabelled case that nobody else has", leases)

    def choose(self, images: Sequence[str]) -> str:
        return min(images)


class Random(LeasedStrategy):
    """Any, each as likely as the other."""

    def __init__(self, leases: Leases) -> None:
        super().__init__("Any unlabelled case that nobody else has", leases)

    def choose(self, images: Sequence[str]) -> str:
        return random.choice(images)


def next_case(strategies: Mapping[str, Strategy], request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
    """Id and path of a case by the strategy that the request names; empty if none is left, HTTPException if refused.

    A case whose image cannot be had stays leased, so that the one who asks again gets another.
    """
    name = request.get("strategy") or "random"
    strategy = strategies.get(name) if isinstance(name, str) else None
    if strategy is None:
        raise answer(404, f"there is no strategy {str(name)[:80]!r} here: the strategies are {sorted(strategies)}")
    sample = strategy(request, datastore)
    return {**sample, "path": find_image(sample["id"], datastore, ())} if sample else {}
