"""The labels where MONAI Label's clients look for them, `labels/<tag>/<image><ending>`: copies of what the history has.

A file there that is no copy was put there by hand. It counts until somebody submits another label, and becomes a
version.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from lib.datastore.contents import Digests, state_of
from lib.datastore.history import LabelHistory, Version, copy_atomically
from lib.datastore.intake import ENDINGS

# A version that is kept as an archive sent it; clients get what was made of it.
AS_SENT = ".dcm"


class Standing(NamedTuple):
    """An image's label of one tag: the version that counts, the file put there by hand that counts instead, and the
    files that are copies of versions, whichever."""

    newest: Version | None
    stray: Path | None
    copies: tuple[Path, ...]


class CurrentLabels:
    """The files in a folder of labels, next to the history that they are made of."""

    def __init__(self, folder: Path, history: LabelHistory, digests: Digests) -> None:
        self.folder, self._history, self._digests = folder, history, digests

    def names(self) -> dict[str, frozenset[str]]:
        """The files of each tag; OSError if the folder is away."""
        tags = [path.name for path in self.folder.iterdir() if path.is_dir()]
        return {tag: frozenset(path.name for path in (self.folder / tag).iterdir()) for tag in sorted(tags)}

    def files(self, image: str, tag: str, names: Collection[str] | None = None) -> list[Path]:
        """The files of an image's label, of those `names` or as they are now."""
        if names is None:
            return [path for ending in ENDINGS if (path := self.folder / tag / f"{image}{ending}").is_file()]
        return [self.folder / tag / name for ending in ENDINGS if (name := f"{image}{ending}") in names]

    def standing(self, image: str, tag: str, digest: str, files: Iterable[Path]) -> Standing:
        """What counts for an image whose content has this digest; no file that was drawn on another content does."""
        cards = self._history.cards(image, tag, digest)
        newest = cards[-1] if cards and cards[-1].is_label else None
        removed_at = datetime.fromisoformat(cards[-1].when).timestamp() if cards and newest is None else None
        # Of any image: this one may have taken the name of another, whose label's copy still lies there.
        known = self._history.copies(tag)
        strays, copies = list[Path](), list[Path]()
        for path in files:
            is_put_back = removed_at is not None and path.stat().st_ctime > removed_at
            (strays if is_put_back or self.digest(path) not in known else copies).append(path)
        stray = max(strays, key=lambda path: state_of([path])[0][1], default=None)
        return Standing(newest, stray, tuple(copies))

    def digest(self, path: Path) -> str:
        """sha256 of one of the files."""
        return self._digests.of(path.relative_to(self.folder.parent).as_posix(), [path])

    def bring(self, image: str, tag: str, standing: Standing) -> Path | None:
        """Make the copies what they should be: one, of the version that counts. The label's file; None without one."""
        newest, kept = standing.newest, standing.stray
        if kept is None and newest is not None:
            kept = next((path for path in standing.copies if self.digest(path) in newest.copies), None)
            if kept is None:
                kept = newest.file if ending_of(newest) == AS_SENT else self.put(newest.file, image, newest)
        for path in standing.copies:
            if path != kept:
                path.unlink(missing_ok=True)
        return kept

    def put(self, source: Path, image: str, version: Version, ending: str = "") -> Path:
        """A copy of a version, or of what was made of it, as the label of an image."""
        return copy_atomically(source, self.folder / version.tag / f"{image}{ending or ending_of(version)}")


def ending_of(version: Version) -> str:
    """The ending of a version's file."""
    return version.file.name[4:]
