"""The trained versions of one set of weights: which is served, which came before, which were not good enough.

A folder for each parent (named by its hash) holds `v1.safetensors`, `v1.json`, ... and `served.json`, a list of the
versions published so far, the last of which is served. That list is the last thing a publication writes, by one
rename: before it the old version is served, after it the new one, and a kill in between leaves a file nobody names.
"""

from __future__ import annotations

import fcntl
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lib.errors import WeightsError
from lib.network.deltas import load_delta, read_delta, save_delta
from lib.network.sam3d import Sam3D
from lib.network.weights import Card, card_path, read_card, write_atomically
from lib.settings import Settings
from lib.weights.checkpoints import open_network, overruled

logger = logging.getLogger(__name__)

FORMAT = 1
POINTER = "served.json"
ENDING = ".safetensors"
BASE = "base"

# What of the pointer file changes with every publication and rollback; None where there was none yet.
Stamp = tuple[int, int, int] | None


@dataclass(frozen=True)
class Served:
    """The network to answer clicks with, its papers, and how it came: `name` is a version's or `base`."""

    network: Sam3D
    card: Card
    name: str
    base: Card
    store: VersionStore
    stamp: Stamp
    notes: tuple[str, ...] = ()


class VersionStore:
    """The versions of the weights `parent` below `folder`. Several processes may read; one at a time writes."""

    def __init__(self, folder: Path, parent: Card) -> None:
        assert parent.sha256, "weights without a hash have no versions"
        self.parent = parent
        self.folder = folder / parent.sha256[:16]

    def stamp(self) -> Stamp:
        """Changes whenever another version is served; cheap enough to ask at every click."""
        try:
            status = (self.folder / POINTER).stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

    def published(self) -> list[str]:
        """Names of the published versions, oldest first: the last is served, those before are what it falls back on.

        Raises WeightsError when the list is damaged.
        """
        path = self.folder / POINTER
        try:
            content = json.loads(path.read_bytes())
            names = content["published"]
            is_sound = content["format"] == FORMAT and all(_number(name) for name in names)
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError):
            is_sound = False
        if not is_sound:
            raise WeightsError(f"{POINTER} is damaged: roll back or train to mend it; until then the base is served")
        return list(names)

    def served(self) -> tuple[str, Card, tuple[str, ...]]:
        """Name and card of the newest published version that is whole, or of the base; and what is amiss."""
        names, notes = self._intact_list()
        for name in reversed(names):
            try:
                card, _ = read_delta(self.parent, self.path(name))
            except WeightsError as error:
                notes.append(f"version {name} is not served: {error}")
            else:
                return name, card, tuple(notes)
        return BASE, self.parent, tuple(notes)

    def load_served(self, network: Sam3D) -> tuple[str, Card, tuple[str, ...]]:
        """The same, its tensors put on a network that holds the parent's weights."""
        names, notes = self._intact_list()
        for name in reversed(names):
            try:
                return name, load_delta(network, self.parent, self.path(name)), tuple(notes)
            except WeightsError as error:
                notes.append(f"version {name} is not served: {error}")
        return BASE, self.parent, tuple(notes)

    def path(self, name: str) -> Path:
        """The tensors of a version."""
        return self.folder / f"{name}{ENDING}"

    def publish(self, network: Sam3D, card: Card, kept: int, is_half: bool = False) -> str:
        """Keep a version and serve it from now on; returns its name. The last `kept` published ones stay."""
        with self._locked():
            name = self._save(network, card, is_half)
            names, _ = self._intact_list()
            self._point([*names, name][-kept:])
            self._prune(kept)
        return name

    def keep_candidate(self, network: Sam3D, card: Card, kept: int, is_half: bool = False) -> str:
        """Keep a version that is not served, for somebody to look at; returns its name."""
        with self._locked():
            name = self._save(network, card, is_half)
            self._prune(kept)
        return name

    def candidates(self) -> dict[str, Card]:
        """The versions that are kept but not in line to be served, oldest first."""
        published = set(self._intact_list()[0])
        found = {}
        for name in self._names():
            if name not in published and card_path(self.path(name)).is_file():
                try:
                    found[name] = read_card(self.path(name))
                except WeightsError as error:
                    logger.warning("candidate %s: %s", name, error)
        return found

    def rollback(self) -> str:
        """Serve what was served before, in the end the base; returns the name. WeightsError when it is the base."""
        with self._locked():
            names, notes = self._intact_list()
            if not names and not notes:
                raise WeightsError("the base weights are served: there is no version to roll back")
            self._point(names[:-1])
            return self.served()[0]

    def clean_leftovers(self) -> list[str]:
        """Remove what killed runs left: temporary files, and tensors whose card was never written.

        Only for the one process that may write; returns the names of the files.
        """
        with self._locked():
            published = set(self._intact_list()[0])
            nameless = [
                self.path(name)
                for name in self._names()
                if name not in published and not card_path(self.path(name)).is_file()
            ]
            for path in nameless:
                path.unlink(missing_ok=True)
            return [*remove_temporaries(self.folder), *(path.name for path in nameless)]

    def _save(self, network: Sam3D, card: Card, is_half: bool) -> str:
        known = [*self._names(), *self._intact_list()[0]]
        name = f"v{1 + max([0, *map(_number, known)])}"
        save_delta(network, _named(card, self.parent, name), self.path(name), is_half)
        return name

    def _point(self, names: list[str]) -> None:
        content = {"format": FORMAT, "parent": self.parent.sha256, "published": names}
        write_atomically(self.folder / POINTER, (json.dumps(content, indent=1) + "\n").encode())

    def _prune(self, kept: int) -> None:
        """Remove all but the published versions and the last `kept` others."""
        published = set(self._intact_list()[0])
        others = [name for name in self._names() if name not in published]
        for name in others[:-kept]:
            card_path(self.path(name)).unlink(missing_ok=True)
            self.path(name).unlink(missing_ok=True)

    def _names(self) -> list[str]:
        """All versions that have tensors, by number."""
        found = [path.name.removesuffix(ENDING) for path in self.folder.glob(f"v*{ENDING}")]
        return sorted((name for name in found if _number(name)), key=_number)

    def _intact_list(self) -> tuple[list[str], list[str]]:
        try:
            return self.published(), []
        except WeightsError as error:
            return [], [str(error)]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time, whichever process; the system lets go of the lock of a process that is killed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def remove_temporaries(folder: Path) -> list[str]:
    """Remove what `write_atomically` leaves when it is killed; returns the names. Only while nobody writes there."""
    found = [path for path in folder.glob(".*") if re.search(r"\.[0-9a-f]{32}$", path.name) and path.is_file()]
    for path in found:
        path.unlink(missing_ok=True)
    return [path.name for path in found]


def versions_folder(settings: Settings) -> Path:
    """Where the versions of all parents are."""
    return settings.model_folder / "versions"


def open_served(settings: Settings) -> Served:
    """The network that the settings describe, as the newest whole version of it; WeightsError without a base."""
    network, base = open_network(settings)
    store = VersionStore(versions_folder(settings), base)
    stamp = store.stamp()  # before the list is read, so that a change in between is noticed at the next click
    name, card, notes = store.load_served(network)
    for note in notes:
        logger.warning("%s", note)
    return Served(network, overruled(card, settings), name, base, store, stamp, notes)


def roll_back(settings: Settings) -> str:
    """Serve the version before, in the end the base; returns a sentence. A running server follows at its next click."""
    _, base = open_network(settings)
    name = VersionStore(versions_folder(settings), base).rollback()
    return f"rolled back: {base.version if name == BASE else name} is served from the next click on"


def _named(card: Card, parent: Card, name: str) -> Card:
    return replace(card, version=f"{parent.version}+{name}", parent_sha256=parent.sha256)


def _number(name: Any) -> int:
    """The number of a version's name, 0 for any other text."""
    match = re.fullmatch(r"v([1-9][0-9]{0,8})", name) if isinstance(name, str) else None
    return int(match[1]) if match else 0
