"""How far each case is, for annotators, reviewers and /info/: from labels, reviews, leases and who has it open."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from monailabel.interfaces.datastore import Datastore

from lib.activelearning.leases import Leases
from lib.activelearning.presence import Presence
from lib.datastore.history import Version
from lib.datastore.versioned import VersionedDatastore

NEW, DRAFT, IN_WORK, SUBMITTED, REVIEWED, REJECTED = "new", "draft", "in work", "submitted", "reviewed", "rejected"
STATES = (NEW, DRAFT, IN_WORK, SUBMITTED, REVIEWED, REJECTED)


@dataclass(frozen=True)
class CaseState:
    """`version`, `by` and `when` are those of the newest label, 0 and empty without one; `reviewer` and `comment` those
    of what was said of it. `in_work_by` is who was given the case, or clicked on it last."""

    id: str
    state: str
    version: int = 0
    by: str = ""
    when: str = ""
    reviewer: str = ""
    comment: str = ""
    in_work_by: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class CaseStates:
    """The states of a datastore's cases; of one that is not ours it is known which have a label, and no more."""

    def __init__(self, leases: Leases, presence: Presence) -> None:
        self._leases, self.presence = leases, presence

    def all(self, datastore: Datastore) -> list[CaseState]:
        """Of every case, by id."""
        return self._of(sorted(datastore.list_images()), datastore)

    def of(self, image: str, datastore: Datastore) -> CaseState:
        """Of one case."""
        return self._of([image], datastore)[0]

    def _of(self, images: Sequence[str], datastore: Datastore) -> list[CaseState]:
        labelled = set(datastore.get_labeled_images())
        drafts = set(datastore.drafts()) if isinstance(datastore, VersionedDatastore) else set()
        holders = self._leases.holders()
        return [self._state(image, datastore, labelled, drafts, holders) for image in images]

    def _state(
        self, image: str, datastore: Datastore, labelled: set[str], drafts: set[str], holders: Mapping[str, str]
    ) -> CaseState:
        in_work_by = self.presence.name_of(holders[image]) if image in holders else ""
        waiting = IN_WORK if in_work_by else ""
        if image not in labelled:
            return CaseState(image, waiting or (DRAFT if image in drafts else NEW), in_work_by=in_work_by)
        version, review = datastore.standing_label(image) if isinstance(datastore, VersionedDatastore) else (None, None)
        if version is None:  # put into the folder a moment ago, or in an archive and not fetched yet
            return CaseState(image, SUBMITTED, in_work_by=in_work_by)
        found = CaseState(image, SUBMITTED, version.number, submitter(version), version.when, in_work_by=in_work_by)
        if review is None:
            return found
        state = REVIEWED if review.is_approval else waiting or REJECTED
        return replace(found, state=state, reviewer=review.by, comment=review.comment)


def counts(states: Iterable[CaseState]) -> dict[str, int]:
    """How many cases are in each state."""
    return {**dict.fromkeys(STATES, 0), **Counter(each.state for each in states)}


def rejected(datastore: Datastore) -> dict[str, str]:
    """The cases whose newest label was sent back, the one that waits longest first, and what is to be done about it."""
    if not isinstance(datastore, VersionedDatastore):
        return {}
    found = [(image, datastore.standing_label(image)[1]) for image in datastore.get_labeled_images()]
    sent_back = [(image, review) for image, review in found if review is not None and not review.is_approval]
    return {
        image: f"sent back by {review.by}: {review.comment}"
        for image, review in sorted(sent_back, key=lambda each: each[1].when)
    }


def submitter(version: Version) -> str:
    """Who submitted a label, as people call them."""
    named = version.info.get("user") or version.info.get("client_name")
    return str(named)[:80] if named else version.client
