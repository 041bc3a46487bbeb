"""Volumes as DICOM CT or MR series, one uncompressed file per slice, for demonstrations and tests.

The same arguments give the same bytes, UIDs included. Index order is that of `lib.images.dicom_series`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from lib.errors import GeometryError

Floats = NDArray[np.float64]

LPS_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
CLASSES = {"CT": CTImageStorage, "MR": MRImageStorage}
# Not 1 and -1024, so that a reader which forgets them is found out.
SLOPE, INTERCEPT = 0.5, -1024.0
LARGEST = 2**16 - 1


@dataclass(frozen=True)
class SeriesInfo:
    """Whose series it is, and what viewers call it. Equal ones get equal UIDs, and so must be one series."""

    patient_id: str
    patient_name: str
    study: str = "1"
    series: str = "1"
    description: str = "synthetic"
    modality: str = "CT"
    date: str = "20260102"
    time: str = "101500"

    def uid(self, *parts: object) -> str:
        """A UID for a part of the series, always the same; without parts that of the series."""
        return str(generate_uid(entropy_srcs=[json.dumps([asdict(self), *map(str, parts)])]))

    @property
    def study_uid(self) -> str:
        """Shared by all series of a patient's study."""
        return str(generate_uid(entropy_srcs=[json.dumps(["study", self.patient_id, self.study])]))


def on_dicom_grid(array: NDArray[Any], affine: Floats) -> tuple[NDArray[Any], Floats]:
    """The same voxels and places with axis k along row x column direction, as series are read: k runs back, or not.

    GeometryError where the axes are not upright on each other, which slices cannot express.
    """
    axes = (LPS_RAS @ affine)[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    units = axes / lengths
    if np.abs(units.T @ units - np.eye(3)).max() > 1e-4:
        raise GeometryError("the axes of the affine are not upright on each other; a DICOM series must have such axes")
    if float(np.cross(units[:, 0], units[:, 1]) @ units[:, 2]) > 0:
        return array, affine
    turned = affine.copy()
    turned[:3, 3] += (array.shape[2] - 1) * affine[:3, 2]
    turned[:3, 2] = -affine[:3, 2]
    return array[:, :, ::-1], turned


def write_series(
    folder: Path, array: NDArray[Any], affine: Floats, info: SeriesInfo, order: Sequence[int] | None = None
) -> list[Path]:
    """Write voxels (I, J, K) with their affine to RAS mm, a file for each k, and return the files by k.

    `order` are the planes k in the order of their InstanceNumbers, ascending by default. The array must be on the grid
    that `on_dicom_grid` returns. Values are stored in steps of 0.5 from -1024 to 31743.5; others are clipped.
    """
    order = list(order) if order is not None else list(range(array.shape[2]))
    if sorted(order) != list(range(array.shape[2])):
        raise GeometryError(f"the order of {array.shape[2]} slices must name each of them once, not {order[:5]} ...")
    if on_dicom_grid(array, affine)[1] is not affine:
        raise GeometryError("axis k runs against the slices' normal; give the grid that on_dicom_grid returns")
    folder.mkdir(parents=True, exist_ok=True)
    stored = np.clip(np.rint((array.astype(np.float64) - INTERCEPT) / SLOPE), 0, LARGEST).astype(np.uint16)
    paths = []
    for k in range(array.shape[2]):
        number = order.index(k) + 1
        path = folder / f"{number:04d}.dcm"
        _slice(stored[:, :, k], affine, k, number, info).save_as(path, write_like_original=False)
        paths.append(path)
    return paths


def _slice(plane: NDArray[np.uint16], affine: Floats, k: int, number: int, info: SeriesInfo) -> Any:
    """The data set of the plane (I, J) at k."""
    lps = LPS_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    units = lps[:3, :3] / spacing
    position = lps[:3, 3] + k * lps[:3, 2]
    meta: Any = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CLASSES[info.modality], info.uid("instance", k)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data: Any = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.is_little_endian, data.is_implicit_VR = True, False
    data.SpecificCharacterSet = "ISO_IR 192"
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.StudyDate = data.SeriesDate = data.AcquisitionDate = data.ContentDate = info.date
    data.StudyTime = data.SeriesTime = data.AcquisitionTime = data.ContentTime = info.time
    data.AccessionNumber = data.ReferringPhysicianName = data.PositionReferenceIndicator = ""
    data.Modality, data.Manufacturer = info.modality, "synthetic"
    data.StudyDescription = data.SeriesDescription = info.description
    data.PatientName, data.PatientID, data.PatientBirthDate, data.PatientSex = (
        info.patient_name,
        info.patient_id,
        "",
        "O",
    )
    data.PatientPosition = "HFS"
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = (
        info.study_uid,
        info.uid(),
        info.uid("frame"),
    )
    data.StudyID, data.SeriesNumber, data.AcquisitionNumber, data.InstanceNumber = info.study, 1, 1, number
    data.SliceThickness = _decimal(spacing[2])
    data.ImagePositionPatient = [_decimal(value) for value in position]
    data.ImageOrientationPatient = [_decimal(value) for value in (*units[:, 0], *units[:, 1])]
    data.SliceLocation = _decimal(float(position @ units[:, 2]))
    data.PixelSpacing = [_decimal(spacing[1]), _decimal(spacing[0])]  # from row to row, then from column to column
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Columns, data.Rows = plane.shape
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
    data.WindowCenter, data.WindowWidth = "50", "400"
    data.RescaleIntercept, data.RescaleSlope = _decimal(INTERCEPT), _decimal(SLOPE)
    if info.modality == "CT":
        data.RescaleType, data.KVP = "HU", ""
    data.PixelData = plane.T.tobytes()
    return data


def _decimal(value: float) -> str:
    """A number as DICOM's decimal strings hold it: at most 16 signs, and never minus zero.

    pydicom's own function gives 17 signs for a number just below a power of ten.
    """
    number = float(value) + 0.0
    texts = (repr(number), *(f"{number:.{digits}g}" for digits in range(16, 0, -1)))
    return next(text for text in texts if len(text) <= 16)
