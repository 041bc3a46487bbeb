"""Every label that was ever stored for an image, in the order of its making; nothing here is overwritten or deleted.

A version is two files in `<folder>/<image>/<tag>`: the label as it came in, and a card (JSON) that says who, when and
with what. The card is written last: a label without one was never stored.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from lib.network.weights import write_atomically

# Where a version came from: submitted by a client, found in an archive, or found in the labels' folder.
CLIENT, ARCHIVE, FOUND = "client", "archive", "found"


@dataclass(frozen=True)
class Version:
    """One stored label. `when` is UTC, ISO 8601; `series` the UID of the SEG it was read from, if it was."""

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

    @property
    def seg(self) -> Path:
        """Where this version's DICOM SEG is, once it is made."""
        return self.file.with_name(f"{self.number:04d}.dcm")

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "file": self.file.name}


class LabelHistory:
    """For one writer at a time: whoever adds holds the datastore's lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def versions(self, image: str, tag: str) -> list[Version]:
        """The versions of an image's label, the newest last."""
        place = self._place(image, tag)
        found = [_read(path, place) for path in place.glob("[0-9]*.json")]
        return sorted((each for each in found if each is not None), key=lambda each: (each.when, each.number))

    def newest(self, image: str, tag: str) -> Version | None:
        """The version that counts; None where there is none."""
        versions = self.versions(image, tag)
        return versions[-1] if versions else None

    def get(self, image: str, tag: str, number: int) -> Version | None:
        """One version by its number."""
        place = self._place(image, tag)
        return _read(place / f"{number:04d}.json", place)

    def add(
        self,
        image: str,
        tag: str,
        label: Path,
        ending: str,
        info: Mapping[str, Any],
        *,
        source: str = CLIENT,
        when: str | None = None,
        served: str = "",
        series: str = "",
        announce: Callable[[int], object] = lambda number: None,
    ) -> Version:
        """Store a copy of a label file as a new version, whole or not at all.

        `announce` is told the version's number before the version exists: what is to be done about it, is noted first.
        """
        place = self._place(image, tag)
        place.mkdir(parents=True, exist_ok=True)
        number = self._next(place)
        announce(number)
        version = Version(
            image=image,
            tag=tag,
            number=number,
            file=copy_atomically(label, place / f"{number:04d}{ending}"),
            when=when or now(),
            sha256=digest(label),
            source=source,
            client=_text(info.get("client_id") or info.get("user")),
            model=_text(info.get("model")),
            model_version=_text(info.get("model_version") or served),
            clicks=info.get("clicks"),
            series=series,
            info=dict(info),
        )
        card = json.dumps(version.as_json(), indent=1, ensure_ascii=False, default=str) + "\n"
        write_atomically(place / f"{number:04d}.json", card.encode())
        return version

    def _place(self, image: str, tag: str) -> Path:
        return self.folder / quote(image, safe=" ") / tag

    @staticmethod
    def _next(place: Path) -> int:
        """One more than any file has, those without a card included."""
        return 1 + max((int(path.name[:4]) for path in place.glob("[0-9][0-9][0-9][0-9]*")), default=0)


def copy_atomically(source: Path, target: Path) -> Path:
    """A copy of a file, or what was there before; survives a kill or a full disk at any moment."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid4().hex}")
    try:
        shutil.copyfile(source, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def digest(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        read = sha256()
        while block := file.read(2**20):
            read.update(block)
    return read.hexdigest()


def now() -> str:
    """This moment, as versions are ordered by."""
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")


def _read(card: Path, place: Path) -> Version | None:
    """The version of a card; None if there is none."""
    try:
        values = json.loads(card.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return Version(**{**values, "file": place / Path(values["file"]).name})


def _text(value: object) -> str:
    return str(value)[:256] if value else ""
