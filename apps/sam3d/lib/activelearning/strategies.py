"""What Next Sample gives: one of the unlabelled cases that nobody else has been given, with the reason for it.

The stock strategies ask the datastore about every image there is; these ask it once or twice.
"""

from __future__ import annotations

import logging
import random
import time
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from fastapi import HTTPException
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy

from lib.activelearning.case_states import rejected
from lib.activelearning.leases import Leases
from lib.activelearning.unopened import Unopened
from lib.datastore.versioned import VersionedDatastore
from lib.infers.failures import answer
from lib.naming import is_uid
from lib.scoring.selection import Choice, Pool

logger = logging.getLogger(__name__)

# Of the images that are free to choose from.
Chooser = Callable[[Sequence[str]], Choice]
AGAIN = "skipped before, and no other case is left"
NONE_LEFT = "every case has a label: add studies, or open one by hand to correct its label"
# Not so long that a client gives up, while one image after the other does not open.
TRYING_S = 60.0
NAMED = 5


class LeasedStrategy(Strategy):
    """A choice among the unlabelled images that no other client has, after those whose label was sent back;
    `client_id` in the request says who asks, and `series_only` that only whole DICOM series can be shown there, by
    their UIDs, as OHIF does."""

    def __init__(self, description: str, leases: Leases) -> None:
        super().__init__(description)
        self.leases = leases

    def __call__(
        self, request: Mapping[str, Any], datastore: Datastore, without: Collection[str] = ()
    ) -> dict[str, Any] | None:
        found = datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels"))
        is_shown = is_uid if request.get("series_only") else bool
        unlabelled = [image for image in found if image not in without and is_shown(image)]
        waiting = rejected(datastore)
        sent_back = {image: why for image, why in waiting.items() if image not in without and is_shown(image)}
        chooser, reasons = self.chooser(datastore, unlabelled), dict[str, str]()

        def choose(free: Sequence[str]) -> str:
            # What somebody waits for comes before what nobody has begun.
            returned = [image for image in sent_back if image in set(free)]
            choice = Choice(returned[0], "") if returned else chooser(free)
            reasons[choice.image] = choice.reason
            return choice.image

        image = self.leases.give([*sent_back, *unlabelled], str(request.get("client_id")), choose)
        if image is None:
            return None
        return {"id": image, "reason": sent_back.get(image) or reasons.get(image, AGAIN)}

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


def next_case(
    strategies: Mapping[str, Strategy], request: Mapping[str, Any], datastore: Datastore, unopened: Unopened
) -> dict[str, Any]:
    """Id and path of a case that opens, by the strategy that the request names, and why it is that one; only `detail`,
    a sentence, if none is left, HTTPException if refused.

    Cases that do not open are passed over, and the reason names them. One that cannot be had for now stays leased, so
    that the one who asks again gets another.
    """
    name = request.get("strategy") or "random"
    strategy = strategies.get(name) if isinstance(name, str) else None
    if not isinstance(strategy, LeasedStrategy):
        raise answer(404, f"there is no strategy {str(name)[:80]!r} here: the strategies are {sorted(strategies)}")
    limit = time.monotonic() + TRYING_S
    while sample := strategy(request, datastore, without := unopened.known(datastore)):
        try:
            path = unopened.open(sample["id"], datastore)
        except HTTPException as refusal:
            if sample["id"] not in unopened.known(datastore):
                raise
            strategy.leases.drop(sample["id"])
            logger.warning("%s is passed over: %s", sample["id"], refusal.detail)
            if time.monotonic() > limit:
                raise answer(503, f"{_passed_over(unopened.known(datastore))}; ask again for others") from refusal
        else:
            note = f"; {_passed_over(without)}" if without else ""
            return {**sample, "reason": f"{sample['reason']}{note}", "path": path}
    return {"detail": _none_left(datastore, unopened.known(datastore), bool(request.get("series_only")))}


def _none_left(datastore: Datastore, unopened: Mapping[str, str], is_series_only: bool) -> str:
    """Why there is no case to give: there is none at all, none that opens or can be shown, or all have labels."""
    unshown = [image for image in datastore.get_unlabeled_images() if image not in unopened and not is_uid(image)]
    if is_series_only and unshown:
        return f"every series has a label; {len(unshown)} other cases (phases, image files) open in 3D Slicer alone"
    unlabelled = {image: unopened[image] for image in datastore.get_unlabeled_images() if image in unopened}
    if unlabelled:
        reasons = "; ".join(list(unlabelled.values())[:NAMED])
        start = "every case that opens has a label, and" if datastore.get_labeled_images() else "no case opens:"
        return f"{start} {_passed_over(unlabelled)} ({reasons})"
    if datastore.list_images():
        return NONE_LEFT
    if isinstance(datastore, VersionedDatastore):
        count = datastore.left_out()["left_out"]["count"]
        others = f"; {count} other files, folders or series lie there, and /info/ names them" if count else ""
        return f"there is no case here at all: {datastore.refusal or 'add images that open'}{others}"
    return "there is no case here at all: add studies"


def _passed_over(unopened: Mapping[str, str]) -> str:
    named = ", ".join(list(unopened)[:NAMED])
    more = ", ..." if len(unopened) > NAMED else ""
    said = "1 case does not open and is" if len(unopened) == 1 else f"{len(unopened)} cases do not open and are"
    return f"{said} passed over: {named}{more}"
