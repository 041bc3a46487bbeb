"""Cases made ready for training, kept on disk within a byte limit and mapped rather than read.

An entry is a folder: the image and each label's box as .npy, and `case.json`, which also holds the checksum of every
file. It is written under another name and then renamed, so that a kill leaves an entry whole or not there; what the
disk lost behind our back, the checksums tell, and the entry is made again.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from lib.boxes import Index, bounding_box
from lib.geometry import PatchGrid
from lib.images.volumes import Volume
from lib.settings import Intensity

logger = logging.getLogger(__name__)

FORMAT = 2
CARD = "case.json"
WRITING = ".writing-"
# Zeros kept around a label's box, so that interpolation at its border sees what it would see in the whole volume.
MARGIN = 2
CHUNK_BYTES = 2**20
DAMAGED = (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError)


@dataclass(frozen=True, eq=False)
class Region:
    """One label of one case: its mask in a box that begins at the voxel `start`, and how many voxels each of the
    box's planes k holds."""

    start: Index
    mask: NDArray[np.bool_]
    counts: tuple[int, ...]

    @classmethod
    def around(cls, mask: NDArray[np.bool_]) -> Region:
        """Of a mask (I, J, K) that is not empty."""
        box = bounding_box(mask)
        assert box is not None, "read_label hands out no empty mask"
        wide = [slice(max(0, part.start - MARGIN), part.stop + MARGIN) for part in box]
        inner = np.asfortranarray(mask[wide[0], wide[1], wide[2]])
        start = (wide[0].start, wide[1].start, wide[2].start)
        return cls(start, inner, tuple(int(count) for count in inner.sum(axis=(0, 1))))

    def draw(self, rng: np.random.Generator) -> Index:
        """A voxel (i, j, k) of the volume, each of the label's as likely as any other."""
        ends = np.cumsum(self.counts)
        number = int(rng.integers(ends[-1]))
        k = int(np.searchsorted(ends, number, side="right"))
        plane = np.flatnonzero(self.mask[:, :, k])
        i, j = np.unravel_index(plane[number - int(ends[k]) + self.counts[k]], self.mask.shape[:2])
        return int(i) + self.start[0], int(j) + self.start[1], k + self.start[2]

    def holds(self, voxel: Index) -> bool:
        """Whether a voxel (i, j, k) of the volume has the label."""
        inner = tuple(at - start for at, start in zip(voxel, self.start, strict=True))
        is_near = all(0 <= at < n for at, n in zip(inner, self.mask.shape, strict=True))
        return is_near and bool(self.mask[inner])

    def target(self, grid: PatchGrid) -> NDArray[np.float32]:
        """The mask under a patch of the volume, (P, P, P), 0 or 1.

        Without antialiasing: a sample that falls on a voxel has that voxel's value, however thin the label is.
        """
        i, j, k = (place - start for place, start in zip(grid.centre, self.start, strict=True))
        own = replace(grid, centre=(i, j, k))
        return np.asarray(own.sample(self.mask, fill=0.0, antialias=False) > 0.5, dtype=np.float32)

    def whole(self, shape: tuple[int, int, int]) -> NDArray[np.bool_]:
        """The mask (I, J, K) on the volume's grid."""
        mask = np.zeros(shape, dtype=np.bool_, order="F")
        box = [slice(start, start + n) for start, n in zip(self.start, self.mask.shape, strict=True)]
        mask[box[0], box[1], box[2]] = self.mask
        return mask


@dataclass(frozen=True, eq=False)
class PreparedCase:
    """An image, the numbers to normalise it with, and its labels by name; arrays may be mapped files."""

    volume: Volume
    intensity: Intensity
    regions: Mapping[str, Region]
    notes: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        return int(self.volume.array.nbytes) + sum(region.mask.nbytes for region in self.regions.values())


class CaseCache:
    """Prepared cases in a folder of its own, the least recently used deleted first beyond `limit_bytes`.

    Several processes may share the folder. A case larger than the limit, or that the disk refuses, is handed out from
    memory and made again each time.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._opened: dict[str, PreparedCase] = {}
        for path in self._entries(WRITING):
            if not _is_alive(path.name.removeprefix(WRITING).partition("-")[0]):
                shutil.rmtree(path, ignore_errors=True)
        self._evict()

    @property
    def used_bytes(self) -> int:
        return sum(_size_of(path) for path in self._entries())

    def get(self, key: str, make: Callable[[], PreparedCase]) -> PreparedCase:
        """The case under a key, which must be fit for a file name, or what `make` returns; its errors pass through."""
        if key not in self._opened:
            entry = self._folder / key
            opened = _opened(entry)
            if opened is None:
                made = make()
                opened = self._written(entry, made)
                if opened is None:
                    return made
            self._opened[key] = opened
        self._touch(key)
        return self._opened[key]

    def _written(self, entry: Path, case: PreparedCase) -> PreparedCase | None:
        """The case as it can be mapped from disk, or None where it cannot be kept."""
        if case.nbytes > self._limit_bytes:
            return None
        temporary = self._folder / f"{WRITING}{os.getpid()}-{uuid4().hex}"
        try:
            temporary.mkdir(parents=True)
            _write(temporary, case)
            size = _size_of(temporary)
            if size > self._limit_bytes:
                return None
            self._evict(room=size)
            shutil.rmtree(entry, ignore_errors=True)  # damaged, or it would have opened
            temporary.replace(entry)
        except OSError as error:
            logger.warning("a case is not cached: %s", error.strerror or error)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return _opened(entry)

    def _evict(self, room: int = 0) -> None:
        """Delete entries until all of them, and `room` bytes more, are within the limit."""
        entries = [(_used_at(path), path, _size_of(path)) for path in self._entries()]
        total = room + sum(size for _, _, size in entries)
        for _, path, size in sorted(entries):
            if total <= self._limit_bytes:
                return
            self._opened.pop(path.name, None)  # a file that is still mapped would go on filling the disk
            shutil.rmtree(path, ignore_errors=True)
            total -= size

    def _entries(self, beginning: str = "") -> list[Path]:
        if not self._folder.is_dir():
            return []
        return [
            path
            for path in self._folder.iterdir()
            if path.is_dir() and path.name.startswith(WRITING) == bool(beginning)
        ]

    def _touch(self, key: str) -> None:
        now = time.time_ns()
        try:
            os.utime(self._folder / key, ns=(now, now))
        except FileNotFoundError:  # another process dropped it; what is mapped stays
            logger.debug("%s is used but no longer kept", key)


def _write(folder: Path, case: PreparedCase) -> None:
    arrays = {"image.npy": case.volume.array}
    arrays |= {f"label_{number}.npy": region.mask for number, region in enumerate(case.regions.values())}
    for name, array in arrays.items():
        np.save(folder / name, array, allow_pickle=False)
    regions = [{"name": name, "start": region.start, "counts": region.counts} for name, region in case.regions.items()]
    card = {
        "format": FORMAT,
        "affine": case.volume.affine.tolist(),
        "key": case.volume.key,
        "intensity": asdict(case.intensity),
        "regions": regions,
        "notes": case.notes,
        "checksums": {name: _checksum(folder / name) for name in arrays},
    }
    (folder / CARD).write_text(json.dumps(card), encoding="utf-8")


def _opened(folder: Path) -> PreparedCase | None:
    """The case in a folder, its arrays mapped; None where there is none or it is damaged."""
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        if card["format"] != FORMAT:
            return None
        for name, checksum in card["checksums"].items():
            if _checksum(folder / name) != checksum:
                logger.warning("the cached case %s is damaged and made again", folder.name)
                return None
        affine = np.array(card["affine"], dtype=np.float64)
        affine.flags.writeable = False
        regions = {
            str(each["name"]): Region(tuple(each["start"]), _mapped(folder / f"label_{n}.npy"), tuple(each["counts"]))
            for n, each in enumerate(card["regions"])
        }
        volume = Volume(_mapped(folder / "image.npy"), affine, str(card["key"]))
        return PreparedCase(volume, Intensity(**card["intensity"]), regions, tuple(card["notes"]))
    except DAMAGED:
        return None


def _mapped(path: Path) -> NDArray[Any]:
    array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def _checksum(path: Path) -> int:
    """CRC-32 of a file: against a failing disk or a cut write, not against an attacker."""
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            checksum = zlib.crc32(chunk, checksum)
    return checksum


def _size_of(folder: Path) -> int:
    try:
        return sum(path.stat().st_size for path in folder.iterdir())
    except FileNotFoundError:
        return 0


def _used_at(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _is_alive(pid: str) -> bool:
    """Whether a process runs that may still be writing."""
    try:
        os.kill(int(pid), 0)
    except (ValueError, OverflowError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
