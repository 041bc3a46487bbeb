"""Masks as a DICOM RTSTRUCT of the series they were drawn on: a polygon for each part of each slice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from lib.errors import LabelError, VolumeError
from lib.images.dicom_series import read_stack
from lib.images.dicom_slices import Slice
from lib.labels.contours import polygons
from lib.labels.dicom_codes import meaning_of
from lib.labels.dicom_seg_writing import ALGORITHM, COLOURS, LONGEST_NAME, LPS_RAS, SegInfo, drawn_masks

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

# What a structure set takes over from what it was drawn on.
TAKEN = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime"),
    *("StudyID", "StudyDescription", "AccessionNumber", "ReferringPhysicianName"),
)
# The class by which structure sets name a study.
STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"


def write_rtstruct(
    masks: Mapping[str, Mask],
    affine: Floats,
    series: Path,
    target: Path,
    info: SegInfo | None = None,
    phase: int | None = None,
) -> None:
    """Write masks (I, J, K) by name, on the grid of `affine`, to the file `target`.

    Its planes k are the slices of the series in the folder `series`, of its `phase`. LabelError for names that do not
    fit, for no voxel at all, and for no series.
    """
    shown = drawn_masks(masks, "an RTSTRUCT")
    try:
        slices = read_stack(series, phase).slices
    except (VolumeError, OSError) as error:
        raise LabelError(f"no RTSTRUCT can refer to {series.name}: {error}") from error
    headers = {path: pydicom.dcmread(path, stop_before_pixels=True) for path in {each.path for each in slices}}
    references = [_reference(headers[each.path], each) for each in slices]
    data = _structure_set(headers[slices[0].path], references, info or SegInfo())
    frame = data.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID
    for number, (name, mask) in enumerate(shown.items(), start=1):
        data.StructureSetROISequence.append(
            _item(
                ROINumber=number,
                ReferencedFrameOfReferenceUID=frame,
                ROIName=name,
                ROIGenerationAlgorithm="SEMIAUTOMATIC",
            )
        )
        contours = list(_contours(mask, LPS_RAS @ affine, references))
        colour = list(COLOURS[(number - 1) % len(COLOURS)])
        data.ROIContourSequence.append(
            _item(ROIDisplayColor=colour, ReferencedROINumber=number, ContourSequence=contours)
        )
        data.RTROIObservationsSequence.append(_observation(number, name))
    data.save_as(target, write_like_original=False)


def _structure_set(source: Any, references: Sequence[Dataset], info: SegInfo) -> Any:
    """A structure set without structures."""
    meta: Any = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = RTStructureSetStorage, generate_uid()
    # A polygon of many points has more bytes than explicit syntaxes can count.
    meta.TransferSyntaxUID = ImplicitVRLittleEndian
    data: Any = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.is_little_endian, data.is_implicit_VR = True, True
    data.SpecificCharacterSet = "ISO_IR 192"
    for keyword in TAKEN:
        setattr(data, keyword, source[keyword].value if keyword in source else "")
    now = datetime.now()
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.InstanceCreationDate = data.SeriesDate = data.StructureSetDate = now.strftime("%Y%m%d")
    data.InstanceCreationTime = data.SeriesTime = data.StructureSetTime = now.strftime("%H%M%S")
    data.Modality, data.SeriesInstanceUID, data.SeriesNumber = "RTSTRUCT", generate_uid(), info.series_number
    data.SeriesDescription = info.description[:LONGEST_NAME]
    data.Manufacturer = data.StructureSetLabel = ALGORITHM
    data.OperatorsName, data.ApprovalStatus = info.creator[:LONGEST_NAME], "UNAPPROVED"
    series = _item(SeriesInstanceUID=source.SeriesInstanceUID, ContourImageSequence=list(references))
    study = _item(
        ReferencedSOPClassUID=STUDY_CLASS,
        ReferencedSOPInstanceUID=source.StudyInstanceUID,
        RTReferencedSeriesSequence=[series],
    )
    # A series that names no frame is in one of its own.
    frame = source.get("FrameOfReferenceUID") or generate_uid()
    data.ReferencedFrameOfReferenceSequence = [_item(FrameOfReferenceUID=frame, RTReferencedStudySequence=[study])]
    data.FrameOfReferenceUID, data.PositionReferenceIndicator = frame, ""
    data.StructureSetROISequence, data.ROIContourSequence, data.RTROIObservationsSequence = [], [], []
    return data


def _contours(mask: Mask, lps: Floats, references: Sequence[Dataset]) -> Iterator[Dataset]:
    """The polygons of a mask (I, J, K), each with the slice it lies in; `lps` is index to LPS mm."""
    for k in np.flatnonzero(mask.any(axis=(0, 1))):
        for ring in polygons(mask[:, :, k]):
            points = ring @ lps[:3, :2].T + (lps[:3, 2] * k + lps[:3, 3])
            yield _item(
                ContourImageSequence=[references[k]],
                ContourGeometricType="CLOSED_PLANAR",
                NumberOfContourPoints=len(points),
                # Decimal strings hold 16 signs.
                ContourData=[f"{value:.10g}" for value in np.round(points, 6).ravel()],
            )


def _reference(header: Any, each: Slice) -> Dataset:
    reference: Dataset = _item(ReferencedSOPClassUID=header.SOPClassUID, ReferencedSOPInstanceUID=header.SOPInstanceUID)
    if each.n_frames > 1:
        reference.ReferencedFrameNumber = each.index + 1
    return reference


def _observation(number: int, name: str) -> Any:
    """What a structure is, in codes."""
    kind = meaning_of(name).type
    code = _item(CodeValue=kind.value, CodingSchemeDesignator=kind.scheme_designator, CodeMeaning=kind.meaning)
    return _item(
        ObservationNumber=number,
        ReferencedROINumber=number,
        RTROIIdentificationCodeSequence=[code],
        RTROIInterpretedType="",
        ROIInterpreter="",
    )


def _item(**values: Any) -> Any:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item
