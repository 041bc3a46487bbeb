"""Image files as volumes: one array, one affine, one identity. Whatever cannot be one is refused in one sentence.

Formats: NIfTI and Analyze, NRRD and MetaImage (lib.images.files), and folders that hold one DICOM series.
Messages name a file by its name only, for they travel to clients; nothing here writes a file.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.cache import ByteCache
from lib.errors import GeometryError, VolumeError
from lib.geometry import check_affine, spacing_of
from lib.images.dicom_series import read_series
from lib.images.files import files_of, read_image_file
from lib.images.uploads import shown_name

Floats = NDArray[np.float64]

DEFAULT_LIMIT_BYTES = 8 * 2**30


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels (I, J, K), int16 where that is exact and float32 elsewhere, read-only; affine to RAS mm.

    `key` names the content (voxels and affine), so that the same image under two paths has one key, and a changed one
    another. `notes` are sentences about what had to be mended, and about a header that readers differ in.
    """

    array: NDArray[Any]
    affine: Floats
    key: str
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        first, second, third = self.array.shape
        return first, second, third

    @property
    def spacing(self) -> Floats:
        """Millimetres per voxel along i, j and k, (3,)."""
        return spacing_of(self.affine)


def open_volume(path: str | Path, limit_bytes: int = DEFAULT_LIMIT_BYTES, phase: int | None = None) -> Volume:
    """The volume in a file or DICOM folder, of which `phase` may choose one; VolumeError if there is none, or if it
    needs more than `limit_bytes`."""
    path = Path(path)
    if not path.name:  # an empty path means the working directory, which nobody asked for
        raise VolumeError("no image was named; choose one of the study list")
    try:
        if path.is_dir():
            array, affine, notes = read_series(path, limit_bytes, phase)
            volume = make_volume(array, affine, path.name)
            return replace(volume, notes=(*notes, *volume.notes))
        stored = read_image_file(path, limit_bytes)
        volume = make_volume(stored.array, stored.affine, shown_name(path), stored.slope, stored.intercept)
        return replace(volume, notes=(*stored.notes, *volume.notes))
    except GeometryError as error:
        raise VolumeError(f"{shown_name(path)} cannot be placed in space: {error}; correct its header") from error


def make_volume(
    array: NDArray[Any], affine: NDArray[Any], name: str = "the volume", slope: float = 1.0, intercept: float = 0.0
) -> Volume:
    """The volume slope * array + intercept of an array (I, J, K) in memory, which is copied.

    Voxels that are not finite take the lowest finite value, and a note says how many; VolumeError if none is finite,
    GeometryError if the affine is singular. `name` is what messages call it.
    """
    placed = check_affine(affine).copy()
    voxels, n_mended = _scaled(array, slope, intercept, name)
    notes = (f"{n_mended} voxels of {name} were not finite and count as its lowest value",) if n_mended else ()
    voxels.flags.writeable = False
    placed.flags.writeable = False
    return Volume(voxels, placed, _content_key(voxels, placed), notes)


class VolumeCache:
    """Opened volumes, the least recently used dropped first once they hold more than `limit_bytes`.

    Thread-safe; several threads that ask for one path wait for one reading of it. A file that changed on disk (size or
    modification time) is read again. A volume larger than the limit is opened but not kept.
    """

    def __init__(self, limit_bytes: int, limit_volume_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self._limit_bytes, self._limit_volume_bytes = limit_bytes, limit_volume_bytes
        self._volumes: ByteCache[Volume] = ByteCache(limit_bytes, lambda volume: volume.array.nbytes)

    @property
    def used_bytes(self) -> int:
        return self._volumes.used_bytes

    def open(self, path: str | Path, is_foreign: bool = False) -> Volume:
        """The volume at a path, from memory if it is there; errors are those of `open_volume` and are not kept. What a
        client sent along is no larger than the whole cache."""
        limit = min(self._limit_bytes, self._limit_volume_bytes) if is_foreign else self._limit_volume_bytes
        return self._volumes.get(file_stamp(Path(path)), lambda: open_volume(path, limit))


def file_stamp(path: Path) -> tuple[object, ...]:
    """What changes when a file, the voxels beside a header, or a file in a folder does."""
    try:
        files = sorted(path.iterdir()) if path.is_dir() else files_of(path)
        states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    except FileNotFoundError:
        states = []
    return (str(path.resolve()), *states)


def _scaled(raw: NDArray[Any], slope: float, intercept: float, name: str) -> tuple[NDArray[Any], int]:
    """slope * raw + intercept in Fortran order, int16 where exact and float32 elsewhere, and how many were mended."""
    limits = np.iinfo(np.int16)
    is_scaled = (slope, intercept) != (1.0, 0.0)
    if raw.dtype.kind in "biu" and not is_scaled and raw.min() >= limits.min and raw.max() <= limits.max:
        return raw.astype(np.int16, order="F"), 0
    values = np.empty(raw.shape, dtype=np.float32, order="F")
    is_whole, low, n_bad = True, np.inf, 0
    for k in range(raw.shape[2]):  # by slices, so that float64 never holds more than one
        with np.errstate(over="ignore", invalid="ignore"):
            values[..., k] = raw[..., k].astype(np.float64) * slope + intercept
        finite = values[..., k][np.isfinite(values[..., k])]
        n_bad += values[..., k].size - finite.size
        if finite.size:
            low = min(low, float(finite.min()))
            is_whole = is_whole and bool((finite == np.rint(finite)).all() and np.abs(finite).max() <= limits.max)
    if not np.isfinite(low):
        raise VolumeError(f"{name} holds no finite value at all, only NaN or infinity; export it again")
    if n_bad:
        values[~np.isfinite(values)] = low
    return (values.astype(np.int16) if is_whole else values), n_bad


def _content_key(array: NDArray[Any], affine: Floats) -> str:
    # All voxels, for a sample would miss a small edit; it costs a fraction of the unpacking that came before.
    digest = hashlib.sha1(f"{array.shape} {array.dtype}".encode(), usedforsecurity=False)
    digest.update(affine.tobytes())
    digest.update(array.T.data)
    return digest.hexdigest()
