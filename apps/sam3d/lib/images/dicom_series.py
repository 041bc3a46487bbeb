"""One DICOM series in a folder, as an array and an affine, plain or enhanced (multi-frame).

Headers are checked before a pixel is decoded. Index order is SimpleITK's: i along a row (columns), j down a column
(rows), k from slice to slice along the normal, row x column direction.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError
from scipy import ndimage

from lib.errors import VolumeError
from lib.images.dicom_phases import Phases
from lib.images.dicom_pixels import rescaled, stored_frames
from lib.images.dicom_slices import Misfit, Slice, slices_of
from lib.images.dicom_stacks import TILT_TOLERANCE, Stack, main_stack, phases_among

Floats = NDArray[np.float64]

UNDECODABLE = (
    *(InvalidDicomError, RuntimeError, NotImplementedError, OSError, EOFError, ValueError, TypeError, AttributeError),
    *(KeyError, IndexError, zlib.error),
)


def read_series(
    folder: Path, limit_bytes: int, phase: int | None = None
) -> tuple[NDArray[np.float32], Floats, tuple[str, ...]]:
    """Voxels (I, J, K) and RAS affine (4, 4) of the only series in a folder, and sentences on what was left out or
    mended; of its main phase unless one is named by its number. VolumeError if it has no even stack."""
    name, stack = folder.name, read_stack(folder, phase)
    is_tilted = len(stack.slices) > 1 and stack.tilt > TILT_TOLERANCE
    upright, notes = (_Upright(stack), stack.notes) if is_tilted else (None, stack.notes)
    columns, rows = upright.size if upright else stack.slices[0].size
    size_bytes = columns * rows * len(stack.slices) * 4
    if size_bytes > limit_bytes:
        raise VolumeError(
            f"{name} would take {size_bytes / 2**20:.0f} MiB of memory, more than the {limit_bytes / 2**20:.0f} "
            "MiB allowed; crop or resample it"
        )
    try:
        array = _pixels(stack.slices)
    except UNDECODABLE as error:
        raise VolumeError(f"the pixels of {name} cannot be decoded; a file may be damaged or cut short") from error
    if upright is None:
        return array, _affine(stack.slices[0], stack.slices[0].position, stack.step), notes
    degrees = np.degrees(np.arctan(stack.tilt))
    note = f"{name} was taken with a tilted gantry ({degrees:.1f} degrees) and is resampled to upright slices"
    return upright.resampled(array), upright.affine, (*notes, note)


def read_stack(folder: Path, phase: int | None = None) -> Stack:
    """The slices that the volume of a series' folder consists of; VolumeError as for `read_series`."""
    return main_stack(_slices(folder), folder.name, phase)


def read_phases(folder: Path) -> Phases | None:
    """The phases of the series in a folder; None where it holds one."""
    return phases_among(_slices(folder))


def _slices(folder: Path) -> list[Slice | Misfit]:
    return [each for path in sorted(folder.iterdir()) for each in slices_of(path, folder.name)]


def _pixels(slices: Sequence[Slice]) -> NDArray[np.float32]:
    """Rescaled values (I, J, K)."""
    if any(each.n_frames > 1 or each.is_inverted for each in slices):
        return _frame_by_frame(slices)
    # Float32, because each slice may have a rescale slope of its own (PET has).
    image = sitk.ReadImage([str(each.path) for each in slices], sitk.sitkFloat32)
    array: NDArray[np.float32] = sitk.GetArrayFromImage(image).T
    return array


def _frame_by_frame(slices: Sequence[Slice]) -> NDArray[np.float32]:
    """As `_pixels`, for what ITK reads otherwise: files of many frames, each with a rescaling of its own, and
    MONOCHROME1, of which ITK inverts the values. That it is shown white on black changes no value."""
    array = np.empty((*slices[0].size, len(slices)), dtype=np.float32, order="F")
    for path, planes in _by_file(slices):
        data = pydicom.dcmread(path)
        stored = stored_frames(data)
        for k, each in planes:
            array[:, :, k] = rescaled(stored[each.index], each.slope, each.intercept).T
    return array


def _by_file(slices: Sequence[Slice]) -> Iterator[tuple[Path, list[tuple[int, Slice]]]]:
    files: dict[Path, list[tuple[int, Slice]]] = {}
    for k, each in enumerate(slices):
        files.setdefault(each.path, []).append((k, each))
    yield from files.items()


def _affine(first: Slice, origin: Floats, step: Floats) -> Floats:
    affine = np.eye(4)
    affine[:3, 0] = first.frame[0] * first.pixel_spacing[1]  # along a row, a column further: the second number
    affine[:3, 1] = first.frame[1] * first.pixel_spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = origin
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # LPS to RAS


class _Upright:
    """The grid of a tilted stack's pixels and slice heights on which slices stand upright, wide enough for all."""

    def __init__(self, stack: Stack) -> None:
        first = stack.slices[0]
        # Pixels that a slice lies further along i and j than the one before.
        drift = np.array([stack.step @ first.frame[0], stack.step @ first.frame[1]]) / first.pixel_spacing[::-1]
        self._drifts: Floats = np.arange(len(stack.slices))[:, None] * drift
        low = np.floor(self._drifts.min(axis=0)).astype(int)
        extra = np.ceil(self._drifts.max(axis=0)).astype(int) - low
        self.size = (first.size[0] + int(extra[0]), first.size[1] + int(extra[1]))
        self._low = low
        origin = first.position + first.frame.T @ (low * first.pixel_spacing[::-1])
        rise = float(stack.step @ stack.normal) * stack.normal
        self.affine = _affine(first, origin, rise)

    def resampled(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """The voxels (I, J, K) moved to their places, linearly; where no slice lies, the lowest value."""
        outside = float(array.min())
        moved = np.full((*self.size, array.shape[2]), outside, dtype=np.float32, order="F")
        for k, drift in enumerate(self._drifts):
            ndimage.affine_transform(
                array[:, :, k],
                np.ones(2),
                offset=self._low - drift,
                output_shape=self.size,
                output=moved[:, :, k],
                order=1,
                mode="constant",
                cval=outside,
            )
        return moved
