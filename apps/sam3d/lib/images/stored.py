"""What any image file stores, and the checks that do not depend on its format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.errors import VolumeError

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Stored:
    """Stored values (I, J, K), affine to RAS mm, slope and intercept of the values, notes about the header, and whether
    that says where the image lies: some say no more than how large voxels are."""

    array: NDArray[Any]
    affine: Floats
    slope: float = 1.0
    intercept: float = 0.0
    notes: tuple[str, ...] = ()
    is_placed: bool = True


def itk_affine(reader: Any, shape: tuple[int, ...]) -> Floats:
    """RAS affine of the three axes that are space: the first three, or the last three behind a single channel."""
    n_axes = len(shape)
    matrix = np.array(reader.GetDirection()).reshape(n_axes, n_axes) * np.array(reader.GetSpacing())
    first = 1 if n_axes == 4 and shape[0] == 1 and shape[3] != 1 else 0
    space = slice(first, min(first + 3, n_axes))
    affine = np.eye(4)
    n_space = space.stop - space.start
    affine[:n_space, :n_space] = matrix[space, space]
    affine[:n_space, 3] = np.array(reader.GetOrigin())[space]
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # LPS to RAS


def check_volume(name: str, shape: tuple[int, ...], is_grey: bool, itemsize: int, limit_bytes: int) -> None:
    """VolumeError for what is no single grey volume, or too large."""
    if not is_grey:
        raise VolumeError(f"{name} has colours or several values per voxel; save one grey value per voxel")
    if len(shape) < 2 or min(shape) < 1:
        raise VolumeError(f"{name} has no voxels: its shape is {shape}")
    if len(_without_ones(shape)) > 3:
        raise VolumeError(
            f"{name} has {len(shape)} dimensions, shape {shape}: a volume has 3; save one channel or time point as a "
            "file of its own"
        )
    check_size(name, int(np.prod([float(length) for length in shape])) * max(itemsize, 4), limit_bytes)


def check_size(name: str, size_bytes: int, limit_bytes: int) -> None:
    """VolumeError for what would take more memory than allowed."""
    if size_bytes > limit_bytes:
        raise VolumeError(
            f"{name} would take {size_bytes / 2**20:.0f} MiB of memory, more than the {limit_bytes / 2**20:.0f} MiB "
            "allowed; crop or resample it"
        )


def as_3d(array: NDArray[Any]) -> NDArray[Any]:
    """Without single channels, and with one slice where there is no depth."""
    shape = _without_ones(array.shape)
    return array.reshape((*shape, 1) if len(shape) == 2 else shape)


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without the single channels behind, or the one before, its three axes of space."""
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return shape[1:] if len(shape) == 4 and shape[0] == 1 else shape
