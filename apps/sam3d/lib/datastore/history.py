"""Every label that was ever stored for an image, in the order of its making; nothing here is overwritten or deleted.

A version is two files in `<folder>/<image>/<tag>`: the label as it came in, and a card (JSON) that says who, when, with
what, and on which content of an image. The card is written last: a label without one was never stored. A label counts
for the content that it was drawn on, whatever that is called today; that a label was removed is a card of its own.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from lib.datastore.contents import COARSE_S, Content, digest_of
from lib.network.weights import sync_folder, write_atomically

logger = logging.getLogger(__name__)

# Where a version came from: submitted by a client, found in an archive, or found in the labels' folder.
CLIENT, ARCHIVE, FOUND = "client", "archive", "found"
# A card that ends what was before: somebody removed the label.
REMOVED = "removed"
LONGEST_NAME = 200


@dataclass(frozen=True)
class Version:
    """One stored label. `when` is UTC, ISO 8601; `series` the UID of the SEG it was read from, if it was.

    `image_digest` and the other fields of an image say what it was drawn on; empty for a series of an archive, which
    its UID names, and in cards that are older than these fields.
    """

    image: str
    tag: str
    number: int
    file: Path
    when: str
    sha256: str
    source: str = CLIENT
    client: str = ""
    model: str = ""
    model_version: str = ""
    clicks: Any = None
    series: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)
    image_digest: str = ""
    image_bytes: int = 0
    image_sample: str = ""
    image_file: str = ""

    @property
    def seg(self) -> Path:
        """Where this version's DICOM SEG is, once it is made."""
        return self.file.with_name(f"{self.number:04d}.dcm")

    @property
    def is_label(self) -> bool:
        """Whether this is a label, and not the removal of one."""
        return self.source != REMOVED

    @property
    def copies(self) -> frozenset[str]:
        """The digests of this label's file, and of what was made of it for clients."""
        return frozenset({self.sha256, str(self.info.get("current_sha256", ""))} - {""})

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "file": self.file.name}


FIELDS = frozenset(each.name for each in fields(Version))


class LabelHistory:
    """For one writer at a time: whoever adds holds the datastore's lock. Any number of threads may read.

    Cards are read once and kept; `refresh` looks for those that other processes wrote.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.RLock()
        # The folders that were read, with the time of their last change where that says all.
        self._places: dict[Path, dict[str, Version]] = {}
        self._states: dict[Path, int] = {}
        self._by_content: dict[tuple[str, str], list[Version]] = {}
        self._tags: dict[str | Path, set[str]] = {}
        self._copies: dict[str, set[str]] = {}

    # ----------------------------------------------------------------- reading

    def versions(self, image: str, tag: str) -> list[Version]:
        """The labels stored under an image's id, the newest last, whatever they were drawn on."""
        place = self._place(image, tag)
        found = [_read(path, place) for path in place.glob("[0-9]*.json")]
        return _in_order(each for each in found if each is not None and each.is_label)

    def newest(self, image: str, tag: str, digest: str = "") -> Version | None:
        """The version that counts, of what `refresh` found; None where there is none, or the last was removed."""
        cards = self.cards(image, tag, digest)
        return cards[-1] if cards and cards[-1].is_label else None

    def cards(self, image: str, tag: str, digest: str = "") -> list[Version]:
        """What was stored on a content, removals included, the newest last; cards that name no content by the id."""
        with self._lock:
            by_id = self._places.get(self._place(image, tag), {}).values()
            drawn_on = self._by_content.get((digest, tag), []) if digest else []
            return _in_order([*drawn_on, *(each for each in by_id if not each.image_digest)])

    def standing(self, image: str, tag: str, digest: str = "") -> list[Version]:
        """The labels of a content since the last removal, the newest last."""
        cards = self.cards(image, tag, digest)
        removals = [place for place, each in enumerate(cards) if not each.is_label]
        return cards[removals[-1] + 1 if removals else 0 :]

    def under(self, image: str, tag: str) -> list[Version]:
        """As `versions`, of what `refresh` found, removals included."""
        with self._lock:
            return list(self._places.get(self._place(image, tag), {}).values())

    def get(self, image: str, tag: str, number: int) -> Version | None:
        """One version by its number."""
        place = self._place(image, tag)
        return _read(place / f"{number:04d}.json", place)

    def tags(self, image: str, digest: str = "") -> set[str]:
        """The tags of which something was stored on a content."""
        with self._lock:
            return self._tags.get(digest, set()) | self._tags.get(self._place(image, "tag").parent, set())

    def copies(self, tag: str) -> Set[str]:
        """The digests of all labels of a tag, of whatever image."""
        with self._lock:
            return self._copies.get(tag, set())

    def refresh(self) -> None:
        """Read the cards that are new; OSError if the history is away, which is not the same as empty."""
        with self._lock:
            if not self.folder.is_dir():
                if self._places:
                    raise FileNotFoundError(f"the history of the labels, {self.folder.name}, is away")
                return
            images = [path for path in self.folder.iterdir() if path.is_dir()]
            places = [path for image in images for path in image.iterdir() if path.is_dir()]
            gone = self._places.keys() - set(places)
            changed = [place for place in places if self._load(place)]
            for place in gone:
                del self._places[place]
                self._states.pop(place, None)
            if gone or changed:
                self._index()

    def all_cards(self) -> list[Version]:
        """Every card, of what `refresh` found, the newest last."""
        with self._lock:
            return _in_order(each for cards in self._places.values() for each in cards.values())

    def labelled(self, tag: str) -> set[str]:
        """The ids whose cards name no content and end with a label."""
        last = {each.image: each for each in self.all_cards() if each.tag == tag and not each.image_digest}
        return {image for image, each in last.items() if each.is_label}

    def drawn_on(self) -> dict[int, frozenset[str]]:
        """The samples of the images that labels were drawn on, by the images' bytes: any other has no label."""
        found = defaultdict[int, set[str]](set)
        for each in self.all_cards():
            if each.image_digest:
                found[each.image_bytes].add(each.image_sample)
        return {n_bytes: frozenset(samples) for n_bytes, samples in found.items()}

    def claims(self) -> dict[str, str]:
        """The names of the files that labels were drawn on, by the id that they had."""
        return {each.image: each.image_file for each in self.all_cards() if each.image_file}

    def _load(self, place: Path) -> bool:
        """Read the new cards of a folder; whether there were any."""
        changed_ns = place.stat().st_mtime_ns
        if self._states.get(place) == changed_ns:
            return False
        known = self._places.get(place, {})
        names = [path.name for path in place.glob("[0-9]*.json")]
        cards = {name: known.get(name) or _read(place / name, place) for name in names}
        self._places[place] = {name: card for name, card in cards.items() if card is not None}
        # Where times are coarse, another card may come without another time.
        if abs(time.time() - changed_ns / 1e9) > COARSE_S:
            self._states[place] = changed_ns
        return self._places[place].keys() != known.keys()

    def _index(self) -> None:
        found, tags = defaultdict[tuple[str, str], list[Version]](list), defaultdict[str | Path, set[str]](set)
        for place, cards in self._places.items():
            for each in cards.values():
                if each.image_digest:
                    found[each.image_digest, each.tag].append(each)
                    tags[each.image_digest].add(each.tag)
                else:
                    tags[place.parent].add(each.tag)
        self._by_content, self._tags = dict(found), dict(tags)
        copies = defaultdict[str, set[str]](set)
        for each in (each for cards in self._places.values() for each in cards.values()):
            copies[each.tag] |= each.copies
        self._copies = dict(copies)

    # ----------------------------------------------------------------- writing

    def add(
        self,
        image: str,
        tag: str,
        label: Path,
        ending: str,
        info: Mapping[str, Any],
        *,
        of: Content | None = None,
        source: str = CLIENT,
        when: str | None = None,
        served: str = "",
        series: str = "",
        announce: Callable[[int], object] = lambda number: None,
    ) -> Version:
        """Store a copy of a label file, drawn on `of`, as a new version, whole or not at all.

        `announce` is told the version's number before the version exists: what is to be done about it, is noted first.
        """
        place = self._place(image, tag)
        place.mkdir(parents=True, exist_ok=True)
        number = self._next(image, tag, of)
        announce(number)
        version = Version(
            image=image,
            tag=tag,
            number=number,
            file=copy_atomically(label, place / f"{number:04d}{ending}"),
            when=when or self._now(image, tag, of),
            sha256=digest(label),
            source=source,
            client=_text(info.get("client_id") or info.get("user")),
            model=_text(info.get("model")),
            model_version=_text(info.get("model_version") or served),
            clicks=info.get("clicks"),
            series=series,
            info=dict(info),
        )
        return self._write(version, of)

    def remove(self, image: str, tag: str, of: Content | None = None) -> None:
        """Note that the label of an image no longer counts; its versions stay."""
        place = self._place(image, tag)
        place.mkdir(parents=True, exist_ok=True)
        number, when = self._next(image, tag, of), self._now(image, tag, of)
        self._write(Version(image, tag, number, place / f"{number:04d}.json", when, "", REMOVED), of)

    def bind(self, version: Version, of: Content) -> None:
        """Say of a card from before cards did what it was drawn on."""
        self._write(version, of)

    def _write(self, version: Version, of: Content | None) -> Version:
        if of is not None:
            version = replace(
                version,
                image_digest=of.digest,
                image_bytes=of.n_bytes,
                image_sample=of.sample,
                image_file=of.name,
            )
        place, name = self._place(version.image, version.tag), f"{version.number:04d}.json"
        card = json.dumps(version.as_json(), indent=1, ensure_ascii=False, default=str) + "\n"
        write_atomically(place / name, card.encode())
        with self._lock:
            self._load(place)
            self._places[place][name] = version
            self._index()
        return version

    def _place(self, image: str, tag: str) -> Path:
        name = quote(image, safe=" ")
        if len(name) > LONGEST_NAME:  # a file system takes 255 bytes, and quoting makes three of one
            name = f"{name[: LONGEST_NAME - 17]}-{sha256(image.encode()).hexdigest()[:16]}"
        return self.folder / name / tag

    def _next(self, image: str, tag: str, of: Content | None) -> int:
        """One more than any file has, those without a card included, and any label drawn on the same content."""
        numbers = [int(path.name[:4]) for path in self._place(image, tag).glob("[0-9][0-9][0-9][0-9]*")]
        return 1 + max(
            [*numbers, *(each.number for each in self.cards(image, tag, of.digest if of else ""))], default=0
        )

    def _now(self, image: str, tag: str, of: Content | None) -> str:
        """This moment, or the one right after the newest card's, should the clock have been set back since."""
        cards = self.cards(image, tag, of.digest if of else "")
        return max(now(), cards[-1].when) if cards and cards[-1].source != ARCHIVE else now()


def copy_atomically(source: Path, target: Path) -> Path:
    """A copy of a file, or what was there before; survives a kill or a full disk at any moment."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid4().hex}")
    try:
        shutil.copyfile(source, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
        sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def digest(path: Path) -> str:
    """sha256 of a file."""
    return digest_of([path])


def now() -> str:
    """This moment, as versions are ordered by."""
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")


def _read(card: Path, place: Path) -> Version | None:
    """The version of a card; None if there is none, or, logged, if it is damaged: the others count all the same."""
    try:
        values = json.loads(card.read_text(encoding="utf-8"))
        known = {name: value for name, value in values.items() if name in FIELDS}
        return Version(**{**known, "file": place / Path(values["file"]).name})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        logger.warning("the card %s/%s/%s is damaged: %s", place.parent.name, place.name, card.name, error)
        return None


def _in_order(cards: Iterable[Version]) -> list[Version]:
    return sorted(cards, key=lambda each: (each.when, each.number))


def _text(value: object) -> str:
    return str(value)[:256] if value else ""
