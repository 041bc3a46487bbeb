"""What label files store: whole numbers on a grid of their own, with names where the file brings them.

NIfTI and plain NRRD have values alone; segmentations of 3D Slicer (.seg.nrrd) name theirs, and may lie in several
layers. Placing them on an image is the business of `lib.labels.masks`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from lib.errors import LabelError
from lib.geometry import check_affine
from lib.images.files import read_image_file, reader_of
from lib.images.itk_files import ITK_DTYPES, NRRD, SPACING_FIELD, check_data_file, check_spacing, itk_reader
from lib.images.stored import check_size, itk_affine
from lib.images.uploads import shown_name

Floats = NDArray[np.float64]

SEGMENT_NAME = re.compile(r"Segment(\d+)_Name")
# Resampling in float32 and scaling by 1/255 leave whole numbers this far off.
WHOLE = 1e-3
# float64 files hold larger numbers than any list of names is long.
MAX_VALUE = 2**31 - 1
# A voxel's numbers in all layers of a label.
MAX_VOXEL_BYTES = 64


@dataclass(frozen=True, eq=False)
class Layer:
    """Whole numbers (I, J, K), affine to RAS mm, the file's own names of the numbers, None where it has none, notes
    about its header, and whether that says where the grid lies at all."""

    values: NDArray[Any]
    affine: Floats
    names: Mapping[int, str] | None = None
    notes: tuple[str, ...] = ()
    is_placed: bool = True


def limit_bytes_on(shape: tuple[int, int, int]) -> int:
    """What a label drawn on a volume of this shape (I, J, K) can need; a larger one is another's, and not unpacked."""
    return int(np.prod(shape)) * MAX_VOXEL_BYTES + 2**20


def read_layers(path: Path, limit_bytes: int) -> list[Layer]:
    """The layers of a NIfTI, NRRD or MetaImage file.

    Raises LabelError for values that are no whole numbers from 0, VolumeError or GeometryError for a file that cannot
    be read or placed.
    """
    name = shown_name(path)
    if path.is_file() and path.stat().st_size and reader_of(path) == NRRD:
        reader = _header(path)
        if reader is not None and any(SEGMENT_NAME.fullmatch(key) for key in reader.GetMetaDataKeys()):
            return _read_segmentation(reader, name, limit_bytes)
    stored = read_image_file(path, limit_bytes)
    values = _whole(stored.array, stored.slope, stored.intercept, name)
    return [Layer(values, check_affine(stored.affine), notes=stored.notes, is_placed=stored.is_placed)]


def _header(path: Path) -> Any:
    """A reader that knows the header; None if it makes no sense, which the reader of images words better."""
    check_data_file(path)
    reader = itk_reader(path, NRRD)
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return None
    return reader


def _read_segmentation(reader: Any, name: str, limit_bytes: int) -> list[Layer]:
    """The layers of a .seg.nrrd, whose list axis, where it has one, ITK takes for components."""
    shape = tuple(int(length) for length in reader.GetSize())
    n_layers = int(reader.GetNumberOfComponents())
    if len(shape) != 3 or reader.GetPixelID() not in ITK_DTYPES:
        raise LabelError(f"{name} is no segmentation of whole numbers in 3D: its shape is {shape}; export it again")
    n_values = int(np.prod([float(length) for length in shape])) * n_layers
    check_size(name, n_values * np.dtype(ITK_DTYPES[reader.GetPixelID()]).itemsize, limit_bytes)
    check_spacing(name, np.array(reader.GetSpacing()), SPACING_FIELD[NRRD])
    names = _segment_names(reader, n_layers, name)
    affine = check_affine(itk_affine(reader, shape))
    try:
        voxels = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        raise LabelError(f"{name} is damaged or cut short; save it again") from error
    stacked = voxels.reshape(*shape[::-1], n_layers)
    return [Layer(_whole(stacked[..., n].T, 1.0, 0.0, name), affine, names[n]) for n in range(n_layers)]


def _segment_names(reader: Any, n_layers: int, name: str) -> list[dict[int, str]]:
    """For each layer, the names of its values."""
    names: list[dict[int, str]] = [{} for _ in range(n_layers)]
    keys = set(reader.GetMetaDataKeys())
    for key in sorted(keys):
        if (segment := SEGMENT_NAME.fullmatch(key)) is None:
            continue
        # Slicer before 4.11 wrote neither layer nor value: its segments were one layer each, of ones.
        stored = [f"Segment{segment[1]}_LabelValue", f"Segment{segment[1]}_Layer"]
        texts = [reader.GetMetaData(key) if key in keys else "" for key in stored]
        try:
            value, layer = int(texts[0] or 1), int(texts[1] or (segment[1] if n_layers > 1 else 0))
            names[layer if layer >= 0 else n_layers][value] = str(reader.GetMetaData(key)).strip()
        except (ValueError, IndexError):
            raise LabelError(
                f"{name} has a segment {segment[1]} of value {texts[0]!r} in layer {texts[1]!r}, which makes no sense; "
                "save it again"
            ) from None
    return names


def _whole(raw: NDArray[Any], slope: float, intercept: float, name: str) -> NDArray[Any]:
    """slope * raw + intercept as the whole numbers (I, J, K) near by; the array itself where it holds them as they
    are."""
    if raw.dtype.kind in "bu" and (slope, intercept) == (1.0, 0.0):
        return raw
    whole = np.empty(raw.shape, dtype=np.int32, order="F")
    for k in range(raw.shape[2]):  # by slices, so that float64 never holds more than one
        values = raw[..., k].astype(np.float64) * slope + intercept
        if not np.isfinite(values).all():
            raise LabelError(f"{name} holds NaN or infinity, which name no label; save it as whole numbers")
        nearest = np.rint(values)
        wrong = values[(np.abs(values - nearest) > WHOLE) | (nearest < 0) | (nearest > MAX_VALUE)]
        if wrong.size:
            raise LabelError(
                f"{name} holds the value {wrong[0]:.6g}, which is no label; save it as whole numbers from 0, without "
                "smoothing"
            )
        whole[..., k] = nearest
    return whole
