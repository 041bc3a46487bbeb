"""The slices that DICOM files hold, by their headers: one of a plain file, or one for each frame of an enhanced one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError

from lib.errors import VolumeError
from lib.images.dicom_pixels import group_of

Floats = NDArray[np.float64]

COSINE_TOLERANCE = 1e-3
PLACE_TAGS = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
MODALITIES_WITHOUT_PIXELS = frozenset({"KO", "PLAN", "PR", "REG", "RTPLAN", "RTRECORD", "RTSTRUCT", "SEG", "SR"})
# What tells the images of several phases at one place apart, the most telling first.
PHASE_TAGS = (
    *("TemporalPositionIdentifier", "TemporalPositionIndex", "DiffusionBValue", "NominalPercentageOfCardiacPhase"),
    *("TriggerTime", "NominalCardiacTriggerDelayTime", "EchoNumbers", "EchoTime", "EffectiveEchoTime"),
    *("InversionTime", "AcquisitionNumber", "FrameAcquisitionNumber", "ImageType", "FrameType", "StackID"),
    *("AcquisitionTime", "FrameAcquisitionDateTime", "ContentTime"),
)
# The functional groups of an enhanced file that hold some of them.
PHASE_GROUPS = (
    *("FrameContentSequence", "MRDiffusionSequence", "CardiacSynchronizationSequence", "MREchoSequence"),
    *("MRImageFrameTypeSequence", "CTImageFrameTypeSequence"),
)
TAGS = [
    *("Modality", "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "InstanceNumber"),
    *("Rows", "Columns", "NumberOfFrames"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "SamplesPerPixel"),
    *("PhotometricInterpretation", "RescaleSlope", "RescaleIntercept"),
    *(*PLACE_TAGS, "SliceThickness", "SpacingBetweenSlices", *PHASE_TAGS),
]


@dataclass(frozen=True, eq=False)
class Slice:
    """What a header says of one slice; lengths in LPS millimetres."""

    path: Path
    index: int
    n_frames: int
    instance: str
    series: str
    number: int
    size: tuple[int, int]
    frame: Floats
    position: Floats
    pixel_spacing: Floats
    thickness: float
    slope: float
    intercept: float
    is_inverted: bool
    is_localizer: bool
    phase: dict[str, object] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What messages call it."""
        return self.path.name if self.n_frames == 1 else f"frame {self.index + 1} of {self.path.name}"

    @property
    def normal(self) -> Floats:
        """Row x column direction, (3,)."""
        normal: Floats = np.cross(self.frame[0], self.frame[1])
        return normal

    @property
    def order(self) -> tuple[int, str, int]:
        """The order of a series' images among each other, as it was stored."""
        return self.number, self.path.name, self.index


@dataclass(frozen=True)
class Misfit:
    """An image that has no place in any stack, and why, as the end of a sentence that begins with its name."""

    name: str
    reason: str


def slices_of(path: Path, folder: str) -> Iterator[Slice | Misfit]:
    """The slices in a file; none for files that never were one (checksums, plans, contours).

    VolumeError for a file that is damaged: what it held is missing.
    """
    if not path.is_file() or path.name.upper() == "DICOMDIR":
        return
    name = f"{path.name} in {folder}"
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=TAGS)
        if header.get("Modality") in MODALITIES_WITHOUT_PIXELS:
            return
        if "Rows" in header:
            yield from slices_in(header, path)
            return
    except InvalidDicomError:
        if path.suffix.lower() != ".dcm":
            return
    except (OSError, EOFError, ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
        raise VolumeError(f"{name} has a DICOM header that cannot be read ({error})") from error
    raise VolumeError(f"{name} is cut short or no DICOM image; fetch it again, or take it out")


def slices_in(header: Any, path: Path) -> Iterator[Slice | Misfit]:
    """The slices that the header of an image describes; ValueError and the like for one that makes no sense."""
    n_frames = int(header.get("NumberOfFrames") or 1)
    is_enhanced = bool(header.get("PerFrameFunctionalGroupsSequence"))
    if n_frames > 1 and not is_enhanced:
        yield Misfit(
            path.name,
            "is a multi-frame DICOM file that does not say where its frames lie; convert it to NIfTI or to one file "
            "per slice",
        )
        return
    if is_enhanced and len(header.PerFrameFunctionalGroupsSequence) != n_frames:
        said = len(header.PerFrameFunctionalGroupsSequence)
        raise ValueError(f"it has {n_frames} frames and describes {said}")
    if int(header.get("SamplesPerPixel") or 1) != 1:
        yield Misfit(path.name, "is a colour image; a volume needs one grey value per voxel")
        return
    for index in range(n_frames):
        yield _checked(header, path, index, n_frames)


def _checked(header: Any, path: Path, index: int, n_frames: int) -> Slice | Misfit:
    name = path.name if n_frames == 1 else f"frame {index + 1} of {path.name}"

    def said(keyword: str, *groups: str) -> Any:
        """What is said of the frame in one of its functional groups, or of the file."""
        for group in groups:
            found = group_of(header, index, group)
            if found is not None and found.get(keyword) not in (None, ""):
                return found.get(keyword)
        return header.get(keyword)

    places = {
        "ImagePositionPatient": said("ImagePositionPatient", "PlanePositionSequence"),
        "ImageOrientationPatient": said("ImageOrientationPatient", "PlaneOrientationSequence"),
        "PixelSpacing": said("PixelSpacing", "PixelMeasuresSequence"),
    }
    missing = [tag for tag, value in places.items() if not value]
    if missing:
        return Misfit(
            name,
            f"has no {' and no '.join(missing)}, so its place is unknown; leave localizers and secondary captures out",
        )
    spacing = np.array(places["PixelSpacing"], dtype=np.float64).reshape(2)
    frame = np.array(places["ImageOrientationPatient"], dtype=np.float64).reshape(2, 3)
    position = np.array(places["ImagePositionPatient"], dtype=np.float64).reshape(3)
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        return Misfit(name, f"has pixel spacing {spacing.tolist()} mm; it must be more than 0")
    is_square = np.abs(frame @ frame.T - np.eye(2)).max() < 10 * COSINE_TOLERANCE
    if not (np.isfinite(position).all() and is_square):
        return Misfit(name, f"has a position or orientation that makes no sense: {frame.tolist()}")
    size = (int(header.Columns), int(header.Rows))
    if 0 in size:
        return Misfit(name, f"has no pixels: its size is {size}")
    thickness = said("SpacingBetweenSlices", "PixelMeasuresSequence") or said("SliceThickness", "PixelMeasuresSequence")
    slope = said("RescaleSlope", "PixelValueTransformationSequence")
    intercept = said("RescaleIntercept", "PixelValueTransformationSequence")
    phase = {tag: _comparable(value) for tag in PHASE_TAGS if (value := said(tag, *PHASE_GROUPS)) not in (None, "")}
    kind = phase.get("FrameType") or phase.get("ImageType") or ()
    return Slice(
        path=path,
        index=index,
        n_frames=n_frames,
        instance=str(header.get("SOPInstanceUID")),
        series=str(header.get("SeriesInstanceUID")),
        number=int(header.get("InstanceNumber") or 0),
        size=size,
        frame=frame / np.linalg.norm(frame, axis=1, keepdims=True),
        position=position,
        pixel_spacing=spacing,
        thickness=abs(float(thickness or 1.0)) or 1.0,
        slope=1.0 if slope is None else float(slope),
        intercept=0.0 if intercept is None else float(intercept),
        is_inverted=header.get("PhotometricInterpretation") == "MONOCHROME1",
        is_localizer=isinstance(kind, tuple) and "LOCALIZER" in kind,
        phase=phase,
    )


def _comparable(value: Any) -> object:
    """A number, a text, or a tuple of texts; two values of one tag can be compared."""
    if isinstance(value, (str, int, float)):
        try:
            return float(value)
        except ValueError:
            return str(value)
    return tuple(str(part) for part in value)
