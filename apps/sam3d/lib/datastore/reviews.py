"""What reviewers said of labels: each of their words is a card (JSON) beside the version that they looked at.

Nothing is overwritten: `reviews/<version>-<number>.json` in the version's folder, and the card with the highest number
counts. A version that nobody looked at has none.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lib.datastore.contents import COARSE_S
from lib.datastore.history import Version, now
from lib.errors import RequestError
from lib.network.weights import write_atomically

logger = logging.getLogger(__name__)

REVIEWS_FOLDER = "reviews"
APPROVED, SENT_BACK = "approved", "sent back"
LONGEST_COMMENT = 2000


@dataclass(frozen=True)
class Review:
    """What one reviewer said of one version; `when` is UTC, ISO 8601."""

    version: int
    sha256: str
    verdict: str
    by: str
    when: str
    comment: str = ""

    @property
    def is_approval(self) -> bool:
        return self.verdict == APPROVED


def check_comment(comment: object, verdict: str) -> str:
    """A comment as it is kept; RequestError for one that is none, and for a label sent back without a word."""
    text = comment.strip() if isinstance(comment, str) else comment
    if text is None:
        text = ""
    if not isinstance(text, str):
        raise RequestError(f"the comment is {str(comment)[:40]!r}: it must be a text")
    if len(text) > LONGEST_COMMENT:
        raise RequestError(f"the comment has {len(text)} signs: write at most {LONGEST_COMMENT}")
    if verdict == SENT_BACK and not text:
        raise RequestError("the comment is empty: say what is to be done about the label")
    return text


class Reviews:
    """For several threads at once; whoever adds holds the datastore's lock. Cards are read once and kept."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read: dict[Path, dict[str, Review]] = {}
        self._states: dict[Path, int] = {}

    def of(self, version: Version) -> Review | None:
        """The last that was said of a version."""
        said = self._cards(_folder_of(version))
        # A label that was restored under a number that another had is not the one that was looked at.
        found = [name for name, each in said.items() if (each.version, each.sha256) == _identity(version)]
        return said[max(found)] if found else None

    def add(self, version: Version, verdict: str, by: str, comment: str) -> Review:
        """Keep what somebody says of a version, whole or not at all."""
        folder = _folder_of(version)
        folder.mkdir(parents=True, exist_ok=True)
        number = 1 + len(list(folder.glob(f"{version.number:04d}-*.json")))
        review = Review(version.number, version.sha256, verdict, by, now(), comment)
        card = json.dumps(asdict(review), indent=1, ensure_ascii=False) + "\n"
        write_atomically(folder / f"{version.number:04d}-{number:04d}.json", card.encode())
        with self._lock:
            self._states.pop(folder, None)
        return review

    def _cards(self, folder: Path) -> Mapping[str, Review]:
        with self._lock:
            try:
                changed_ns = folder.stat().st_mtime_ns
            except FileNotFoundError:
                return {}
            if self._states.get(folder) != changed_ns:
                known = self._read.get(folder, {})
                names = sorted(path.name for path in folder.glob("[0-9]*.json"))
                cards = {name: known.get(name) or _review(folder / name) for name in names}
                self._read[folder] = {name: card for name, card in cards.items() if card is not None}
                # Where times are coarse, another card may come without another time.
                if abs(time.time() - changed_ns / 1e9) > COARSE_S:
                    self._states[folder] = changed_ns
            return self._read[folder]


def _folder_of(version: Version) -> Path:
    return version.file.parent / REVIEWS_FOLDER


def _identity(version: Version) -> tuple[int, str]:
    return version.number, version.sha256


def _review(card: Path) -> Review | None:
    """A card as it was written; None, logged, if it is damaged: the label counts as one that nobody looked at."""
    try:
        values: dict[str, Any] = json.loads(card.read_text(encoding="utf-8"))
        review = Review(**{name: values[name] for name in Review.__dataclass_fields__})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        logger.warning("the review %s of %s is damaged: %s", card.name, card.parents[2].name, error)
        return None
    return review if review.verdict in (APPROVED, SENT_BACK) else None
