"""One DICOM series in a folder, as an array and an affine; everything that is not an even stack of slices is refused.

Headers are checked before a pixel is decoded. Index order is SimpleITK's: i along a row (columns), j down a column
(rows), k from slice to slice along the normal, row x column direction.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError

from lib.errors import VolumeError

Floats = NDArray[np.float64]

PLACE_TAGS = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
MODALITIES_WITHOUT_PIXELS = frozenset({"KO", "PLAN", "PR", "REG", "RTPLAN", "RTRECORD", "RTSTRUCT", "SR"})
TAGS = [
    "Modality",
    "SOPClassUID",
    "SeriesInstanceUID",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SharedFunctionalGroupsSequence",
    "SamplesPerPixel",
    *PLACE_TAGS,
    "SliceThickness",
    "SpacingBetweenSlices",
]
# How far, in slice spacings, a slice may lie from its place in an even stack: scanners round their positions.
EVEN_TOLERANCE = 0.1
# How far, in millimetres per millimetre of stack, slices may drift sideways before they make a sheared (tilted) stack.
TILT_TOLERANCE = 0.005
# A step between slices this many times the usual one is called a gap, not unevenness.
GAP_RATIO = 1.5
COSINE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class _Slice:
    """What the header of one file says; lengths in LPS millimetres."""

    path: Path
    series: str
    size: tuple[int, int]
    frame: Floats
    position: Floats
    pixel_spacing: Floats
    thickness: float


def read_series(folder: Path, limit_bytes: int) -> tuple[NDArray[np.float32], Floats]:
    """Voxels (I, J, K) and RAS affine (4, 4) of the only series in a folder; VolumeError if it is no even stack."""
    slices = [found for path in sorted(folder.iterdir()) if (found := _slice_of(path, folder.name)) is not None]
    if not slices:
        raise VolumeError(f"{folder.name} holds no DICOM slices; give the folder of one CT or MR series")
    _refuse_mixtures(slices, folder.name)
    columns, rows = slices[0].size
    size_bytes = columns * rows * len(slices) * 4
    if size_bytes > limit_bytes:
        raise VolumeError(
            f"{folder.name} would take {size_bytes / 2**20:.0f} MiB of memory, more than the {limit_bytes / 2**20:.0f} "
            "MiB allowed; crop or resample it"
        )
    normal = np.cross(slices[0].frame[0], slices[0].frame[1])
    slices.sort(key=lambda each: float(each.position @ normal))
    step = _even_step(slices, normal, folder.name)
    return _pixels(slices, folder.name), _affine(slices[0], step)


def _slice_of(path: Path, name: str) -> _Slice | None:
    """The slice in a file; None for files that were never one (checksums, plans, contours)."""
    if not path.is_file() or path.name.upper() == "DICOMDIR":
        return None
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=TAGS)
        if header.get("Modality") in MODALITIES_WITHOUT_PIXELS:
            return None
        if "Rows" in header:
            return _checked(header, path, name)
    except InvalidDicomError:
        if path.suffix.lower() != ".dcm":
            return None
    except (OSError, EOFError, ValueError, TypeError, AttributeError) as error:
        raise VolumeError(f"{path.name} in {name} has a DICOM header that cannot be read ({error})") from error
    raise VolumeError(f"{path.name} in {name} is cut short or no DICOM image; fetch it again, or take it out")


def _checked(header: Any, path: Path, name: str) -> _Slice:
    if int(header.get("NumberOfFrames") or 1) > 1 or "SharedFunctionalGroupsSequence" in header:
        raise VolumeError(
            f"{path.name} in {name} is a multi-frame DICOM file, which is not supported; convert it to NIfTI or to "
            "one file per slice"
        )
    if int(header.get("SamplesPerPixel") or 1) != 1:
        raise VolumeError(f"{path.name} in {name} is a colour image; a volume needs one grey value per voxel")
    missing = [tag for tag in PLACE_TAGS if not header.get(tag)]
    if missing:
        raise VolumeError(
            f"{path.name} in {name} has no {' and no '.join(missing)}, so its place is unknown; leave localizers and "
            "secondary captures out"
        )
    spacing = np.array(header.PixelSpacing, dtype=np.float64)
    frame = np.array(header.ImageOrientationPatient, dtype=np.float64).reshape(2, 3)
    position = np.array(header.ImagePositionPatient, dtype=np.float64).reshape(3)
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise VolumeError(f"{path.name} in {name} has pixel spacing {spacing.tolist()} mm; it must be more than 0")
    if not (np.isfinite(position).all() and np.abs(frame @ frame.T - np.eye(2)).max() < 10 * COSINE_TOLERANCE):
        raise VolumeError(f"{path.name} in {name} has a position or orientation that makes no sense: {frame.tolist()}")
    frame /= np.linalg.norm(frame, axis=1, keepdims=True)
    thickness = float(header.get("SpacingBetweenSlices") or header.get("SliceThickness") or 1.0)
    size = (int(header.Columns), int(header.Rows))
    return _Slice(path, str(header.get("SeriesInstanceUID")), size, frame, position, spacing, abs(thickness) or 1.0)


def _refuse_mixtures(slices: list[_Slice], name: str) -> None:
    first = slices[0]
    n_series = len({each.series for each in slices})
    if n_series > 1:
        raise VolumeError(f"{name} mixes {n_series} DICOM series; put each series in a folder of its own")
    if 0 in first.size:
        raise VolumeError(f"{first.path.name} in {name} has no pixels: its size is {first.size}")
    for each in slices[1:]:
        if each.size != first.size:
            raise VolumeError(
                f"{name} mixes slices of {first.size} and {each.size} pixels ({each.path.name}); leave out what is no "
                "part of the stack"
            )
        if np.abs(each.frame - first.frame).max() > COSINE_TOLERANCE:
            raise VolumeError(f"{name} mixes slices of different orientation ({each.path.name}); split the series")
        if np.abs(each.pixel_spacing - first.pixel_spacing).max() > COSINE_TOLERANCE * first.pixel_spacing.max():
            raise VolumeError(f"{name} mixes slices of different pixel spacing ({each.path.name}); split the series")


def _even_step(slices: list[_Slice], normal: Floats, name: str) -> Floats:
    """The way from a slice to the next (3,), LPS mm, of slices sorted along the normal."""
    if len(slices) == 1:
        return normal * slices[0].thickness
    positions = np.array([each.position for each in slices])
    heights = positions @ normal
    gaps = np.diff(heights)
    usual = float(np.median(gaps))
    closest = int(gaps.argmin())
    if gaps[closest] < COSINE_TOLERANCE:
        raise VolumeError(
            f"{name} has two slices at one place ({slices[closest].path.name} and {slices[closest + 1].path.name}); "
            "it may hold several time points: keep one"
        )
    even = np.linspace(heights[0], heights[-1], len(heights))
    if np.abs(heights - even).max() > EVEN_TOLERANCE * usual:
        widest = int(gaps.argmax())
        if gaps[widest] > GAP_RATIO * usual:
            raise VolumeError(
                f"{name} misses slices: {gaps[widest]:.4g} mm lie between {slices[widest].path.name} and "
                f"{slices[widest + 1].path.name}, where slices are {usual:.4g} mm apart; fetch the whole series"
            )
        raise VolumeError(
            f"{name} has unevenly spaced slices, {gaps.min():.4g} to {gaps.max():.4g} mm apart; resample the series to "
            "even spacing first"
        )
    way = positions[-1] - positions[0]
    height = heights[-1] - heights[0]
    sideways = float(np.linalg.norm(way - height * normal)) / height
    if sideways > TILT_TOLERANCE:
        raise VolumeError(
            f"{name} was taken with a tilted gantry ({np.degrees(np.arctan(sideways)):.1f} degrees); resample it to "
            "slices that stand upright on each other first"
        )
    step: Floats = way / (len(slices) - 1)
    return step


def _pixels(slices: list[_Slice], name: str) -> NDArray[np.float32]:
    try:
        # Float32, because each slice may have a rescale slope of its own (PET has).
        image = sitk.ReadImage([str(each.path) for each in slices], sitk.sitkFloat32)
    except RuntimeError as error:
        raise VolumeError(f"the pixels of {name} cannot be decoded; a file may be damaged or cut short") from error
    array: NDArray[np.float32] = sitk.GetArrayFromImage(image).T
    return array


def _affine(first: _Slice, step: Floats) -> Floats:
    affine = np.eye(4)
    affine[:3, 0] = first.frame[0] * first.pixel_spacing[1]  # along a row, a column further: the second number
    affine[:3, 1] = first.frame[1] * first.pixel_spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = first.position
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # LPS to RAS
