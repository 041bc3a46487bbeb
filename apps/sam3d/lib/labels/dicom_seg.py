"""DICOM SEG files as label layers: each segment by its SegmentLabel, each frame where its own position puts it.

Read are BINARY and FRACTIONAL, with a segment for each frame, and LABELMAP, whose voxels are numbers of segments.

Frames come in any order, on fewer slices than the image has, and segments may overlap. Index order is that of
`lib.images.dicom_series`: i along a row, j down a column, k from plane to plane along the normal.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError

from lib.errors import LabelError
from lib.images.dicom_pixels import group_of, is_encapsulated, stored_frames
from lib.images.dicom_slices import COSINE_TOLERANCE
from lib.images.dicom_stacks import EVEN_TOLERANCE
from lib.images.stored import check_size
from lib.labels.files import Layer

Floats = NDArray[np.float64]

LPS_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
TIME_TAGS = ["SeriesDate", "SeriesTime", "ContentDate", "ContentTime"]
DAMAGED = (InvalidDicomError, OSError, EOFError, ValueError, TypeError, AttributeError, KeyError, IndexError)
UNDECODABLE = (NotImplementedError, RuntimeError, zlib.error)
LABELMAP = "LABELMAP"
# Bits per voxel of each type.
BITS = {"BINARY": (1,), "FRACTIONAL": (8,), LABELMAP: (8, 16)}
# A segment of all voxels, for frames that are of no segment in particular.
ALL = 0


@dataclass(frozen=True)
class _Frame:
    """Where one frame lies, LPS mm, and what it shows."""

    segment: int
    position: Floats
    frame: Floats
    pixel_spacing: Floats
    stated_step: float


def is_dicom(path: Path) -> bool:
    """Whether a file has DICOM's signature, whatever it is called."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def newest_seg(folder: Path) -> tuple[Path, list[str]]:
    """The newest SEG of a folder, and a note that names the others; LabelError if it holds none."""
    found: list[tuple[list[str], Path]] = []
    for path in sorted(folder.iterdir()):
        if path.is_file() and is_dicom(path):
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["Modality", *TIME_TAGS])
            if header.get("Modality") == "SEG":
                found.append(([str(header.get(tag) or "") for tag in TIME_TAGS], path))
    if not found:
        raise LabelError(f"{folder.name} holds no DICOM SEG; give the label as one file")
    _, newest = max(found)
    notes = [f"of {len(found)} SEGs in {folder.name} the newest, {newest.name}, was read"] if len(found) > 1 else []
    return newest, notes


def read_seg(path: Path, image_affine: Floats, limit_bytes: int) -> list[Layer]:
    """One layer of zeros and ones for each segment that has frames, as small as its planes allow.

    `image_affine` helps only where a file does not say how far its planes lie apart. Raises LabelError for what is no
    SEG or no even stack of planes, VolumeError for one too large.
    """
    name = path.name
    try:
        data = pydicom.dcmread(path)
        refuse_header(data, name)
        return _layers(data, name, image_affine, limit_bytes)
    except DAMAGED as error:
        raise LabelError(f"{name} is damaged, cut short or no complete DICOM SEG; store it again") from error
    except UNDECODABLE as error:
        raise LabelError(f"the pixels of {name} cannot be decoded; store it without compression") from error


def refuse_header(data: Any, name: str) -> None:
    """LabelError for a SEG that cannot be read, as far as its header, which is all that `data` needs to have, tells."""
    if data.get("Modality") != "SEG" or "SegmentSequence" not in data:
        raise LabelError(f"{name} is a DICOM file without segments; give a DICOM SEG, NIfTI or NRRD")
    kind = data.get("SegmentationType")
    if kind not in BITS:
        raise LabelError(f"{name} has segmentation type {kind}; only {', '.join(BITS)} are read")
    try:
        frames = [_frame(data, index) for index in range(int(data.get("NumberOfFrames") or 0))]
        bits = int(data.BitsAllocated)
    except DAMAGED as error:
        raise LabelError(f"{name} does not say where its frames lie; store it again") from error
    if bits not in BITS[kind]:
        raise LabelError(f"{name} has {bits} bits per voxel where {kind} has {' or '.join(map(str, BITS[kind]))}")
    if not frames:
        raise LabelError(f"{name} has no frames: nothing is drawn in it")
    _refuse_turned(frames, name)
    if nameless := sorted({each.segment for each in frames} - {*_names(data), ALL}):
        raise LabelError(f"{name} has frames of segment {nameless[0]}, which it does not name; store it again")


def drawn_names(data: Any) -> set[str]:
    """The names of the segments that have frames in a SEG, by its header; of a LABELMAP all names."""
    names = _names(data)
    numbers = {_frame(data, index).segment for index in range(int(data.NumberOfFrames))}
    return set(names.values()) if ALL in numbers else {names[number] for number in numbers if number in names}


def source_frames(data: Any) -> set[tuple[str, int]]:
    """UIDs of the instances that a SEG was drawn on, each with the number of the frame, 0 where it names none, by its
    header: those that its frames name, or else those of the whole."""
    named = [
        source
        for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
        for group in data.get(groups) or ()
        for derivation in group.get("DerivationImageSequence") or ()
        for source in derivation.get("SourceImageSequence") or ()
    ]
    for series in (data.get("ReferencedSeriesSequence") or ())[:1] if not named else ():
        named += series.get("ReferencedInstanceSequence") or ()
    return {pair for source in named for pair in _named_frames(source)}


def _named_frames(source: Any) -> list[tuple[str, int]]:
    numbers = source.get("ReferencedFrameNumber") or 0
    each = [numbers] if isinstance(numbers, (int, str, float)) else numbers
    return [(str(source.get("ReferencedSOPInstanceUID")), int(number)) for number in each]


def _names(data: Any) -> dict[int, str]:
    return {int(segment.SegmentNumber): str(segment.SegmentLabel).strip() for segment in data.SegmentSequence}


def _layers(data: Any, name: str, image_affine: Floats, limit_bytes: int) -> list[Layer]:
    names = _names(data)
    frames = [_frame(data, index) for index in range(int(data.NumberOfFrames))]
    affine, planes = _stack(frames, image_affine, name)
    pixels = _Pixels(data, name, limit_bytes)
    layers = []
    for number in sorted({each.segment for each in frames}):
        shown = [index for index, each in enumerate(frames) if each.segment == number]
        low, high = int(planes[shown].min()), int(planes[shown].max())
        shape = (pixels.columns, pixels.rows, high - low + 1)
        check_size(name, int(np.prod([float(length) for length in shape])) * pixels.itemsize, limit_bytes)
        values = np.zeros(shape, dtype=pixels.dtype, order="F")
        for index in shown:
            np.maximum(values[:, :, planes[index] - low], pixels.frame(index), out=values[:, :, planes[index] - low])
        placed = affine.copy()
        placed[:3, 3] += low * affine[:3, 2]
        shown_names = {each: text for each, text in names.items() if each > 0} if number == ALL else {1: names[number]}
        layers.append(Layer(values, LPS_RAS @ placed, shown_names))
    return layers


class _Pixels:
    """The frames of a SEG, unpacked one at a time, for a bit a voxel becomes a byte."""

    def __init__(self, data: Any, name: str, limit_bytes: int) -> None:
        self.columns, self.rows = int(data.Columns), int(data.Rows)
        self._bits = int(data.BitsAllocated)
        self._is_labelmap = data.SegmentationType == LABELMAP
        # A fraction counts from more than half on.
        self._maximum = int(data.MaximumFractionalValue) if data.SegmentationType == "FRACTIONAL" else 1
        self.dtype = np.dtype(f"u{self._bits // 8}") if self._is_labelmap else np.dtype(np.bool_)
        self.itemsize = self.dtype.itemsize
        self._frames: NDArray[Any] | None = None
        size = int(data.NumberOfFrames) * self.rows * self.columns
        if is_encapsulated(data):
            check_size(name, size * max(1, self._bits // 8), limit_bytes)
            self._frames = stored_frames(data)
            return
        self._data = data.PixelData
        if len(self._data) * 8 < size * self._bits:
            said = size * self._bits // 8
            raise LabelError(f"{name} is cut short: it has {len(self._data)} of {said} bytes of pixels")

    def frame(self, index: int) -> NDArray[Any]:
        """A frame (columns, rows) as true and false, or of a LABELMAP as numbers."""
        values = self._stored(index).reshape(self.rows, self.columns).T
        if self._is_labelmap:
            return values.astype(self.dtype)
        shown: NDArray[np.bool_] = 2 * values.astype(np.int16) > self._maximum
        return shown

    def _stored(self, index: int) -> NDArray[Any]:
        size = self.rows * self.columns
        if self._frames is not None:
            stored: NDArray[Any] = self._frames[index]
            return stored
        if self._bits > 1:
            return np.frombuffer(
                self._data, dtype=f"<u{self._bits // 8}", count=size, offset=index * size * self._bits // 8
            )
        # Frames follow each other without padding, so one may start within a byte.
        start = index * size
        packed = np.frombuffer(self._data[start // 8 : (start + size + 7) // 8], dtype=np.uint8)
        return np.unpackbits(packed, bitorder="little")[start % 8 :][:size]


def _frame(data: Any, index: int) -> _Frame:
    """The place of a frame, each part said for it alone or shared by all."""

    def group(sequence: str) -> Any:
        found = group_of(data, index, sequence)
        if found is None:
            raise ValueError(f"frame {index} has no {sequence}")
        return found

    measures = group("PixelMeasuresSequence")
    frame = np.array(group("PlaneOrientationSequence").ImageOrientationPatient, dtype=np.float64).reshape(2, 3)
    position = np.array(group("PlanePositionSequence").ImagePositionPatient, dtype=np.float64).reshape(3)
    spacing = np.array(measures.PixelSpacing, dtype=np.float64).reshape(2)
    is_square = np.abs(frame @ frame.T - np.eye(2)).max() < 10 * COSINE_TOLERANCE
    if not (np.isfinite(position).all() and is_square and np.isfinite(spacing).all() and (spacing > 0).all()):
        raise ValueError(f"frame {index} lies nowhere")
    is_labelmap = data.get("SegmentationType") == LABELMAP
    return _Frame(
        segment=ALL if is_labelmap else int(group("SegmentIdentificationSequence").ReferencedSegmentNumber),
        position=position,
        frame=frame / np.linalg.norm(frame, axis=1, keepdims=True),
        pixel_spacing=spacing,
        stated_step=abs(float(measures.get("SpacingBetweenSlices") or 0.0)),
    )


def _refuse_turned(frames: Sequence[_Frame], name: str) -> None:
    first = frames[0]
    for each in frames[1:]:
        is_turned = np.abs(each.frame - first.frame).max() > COSINE_TOLERANCE
        if is_turned or np.abs(each.pixel_spacing - first.pixel_spacing).max() > COSINE_TOLERANCE:
            raise LabelError(f"{name} mixes frames of different orientation or pixel spacing; store one SEG for each")


def _stack(frames: Sequence[_Frame], image_affine: Floats, name: str) -> tuple[Floats, NDArray[np.int64]]:
    """LPS affine (4, 4) of the stack of planes that the frames lie in, and the plane of each frame, from 0 up."""
    first = frames[0]
    positions = np.array([each.position for each in frames])
    normal = np.cross(first.frame[0], first.frame[1])
    heights = positions @ normal
    low, high = int(heights.argmin()), int(heights.argmax())
    rise = heights - heights[low]
    usual = _step(rise, [first.stated_step, _image_step(image_affine, normal)], name)
    planes = np.rint(rise / usual).astype(np.int64)
    step = (positions[high] - positions[low]) / planes[high] if planes[high] else normal * usual
    apart = positions - (positions[low] + planes[:, None] * step)
    if np.abs(apart).max() > EVEN_TOLERANCE * max(usual, float(first.pixel_spacing.max())):
        raise LabelError(f"{name} has frames that do not lie above each other; store it again")
    affine = np.eye(4)
    affine[:3, 0] = first.frame[0] * first.pixel_spacing[1]  # along a row, a column further: the second number
    affine[:3, 1] = first.frame[1] * first.pixel_spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = positions[low]
    return affine, planes


def _step(rise: Floats, candidates: Sequence[float], name: str) -> float:
    """Millimetres between planes, such that every frame lies in one: the first candidate that fits, or the least gap.

    The least gap comes last: where a segment was drawn on every second slice only, it is two slices wide.
    """
    gaps = np.diff(np.sort(rise))
    least = float(gaps[gaps > COSINE_TOLERANCE].min(initial=np.inf))
    # Frames at one place alone leave any distance possible.
    for step in (*candidates, least if np.isfinite(least) else 1.0):
        if step > 0 and np.abs(rise - np.rint(rise / step) * step).max() <= EVEN_TOLERANCE * step:
            return step
    raise LabelError(f"{name} has unevenly spaced planes, {np.unique(rise.round(3)).tolist()[:5]} mm ...; resample it")


def _image_step(image_affine: Floats, normal: Floats) -> float:
    """Millimetres from plane to plane of the image along the SEG's normal; 0 where no axis of the image follows it."""
    axes = (LPS_RAS @ image_affine)[:3, :3]
    along = np.abs(normal @ axes)
    lengths = np.linalg.norm(axes, axis=0)
    axis = int((along / lengths).argmax())
    return float(along[axis]) if along[axis] > (1 - COSINE_TOLERANCE) * lengths[axis] else 0.0
