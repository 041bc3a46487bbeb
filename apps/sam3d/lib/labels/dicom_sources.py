"""The slices of a series as the SEG writer takes them: one plain file each, and nothing beside the stack."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from lib.images.dicom_series import read_stack
from lib.images.dicom_slices import Slice

# What a SEG takes over from what it was drawn on.
TAKEN = (
    *("SpecificCharacterSet", "StudyDate", "StudyTime", "AccessionNumber", "Modality", "ReferringPhysicianName"),
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "StudyInstanceUID"),
    *("SeriesInstanceUID", "StudyID", "FrameOfReferenceUID", "StudyDescription", "SeriesNumber"),
)


def write_sources(series: Path, folder: Path, phase: int | None = None) -> Mapping[str, tuple[str, str, int]]:
    """Fill a new folder with the slices of a series, or of one phase of it: links to plain files, and a header for each
    frame of enhanced ones.

    Returns class and UID of the instance, and the number of the frame, that each of the made up UIDs stands for.
    """
    folder.mkdir()
    stands_for: dict[str, tuple[str, str, int]] = {}
    wholes: dict[Path, Any] = {}
    for number, each in enumerate(read_stack(series, phase).slices):
        path = folder / f"{number:06d}.dcm"
        if each.n_frames == 1:
            path.symlink_to(each.path.resolve())
            continue
        if each.path not in wholes:
            wholes[each.path] = pydicom.dcmread(each.path, stop_before_pixels=True)
        whole = wholes[each.path]
        header = _header(each, whole)
        header.save_as(path, write_like_original=False)
        stands_for[str(header.SOPInstanceUID)] = (str(whole.SOPClassUID), str(whole.SOPInstanceUID), each.index + 1)
    return stands_for


def _header(each: Slice, whole: Any) -> Any:
    meta: Any = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made: Any = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    made.is_little_endian, made.is_implicit_VR = True, False
    for keyword in TAKEN:
        if keyword in whole:
            setattr(made, keyword, whole[keyword].value)
    made.SOPClassUID, made.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    made.Columns, made.Rows = each.size
    made.InstanceNumber = each.index + 1
    # Decimal strings hold 16 signs.
    made.ImagePositionPatient = [f"{value:.10g}" for value in each.position]
    made.ImageOrientationPatient = [f"{value:.10g}" for value in each.frame.ravel()]
    made.PixelSpacing = [f"{value:.10g}" for value in each.pixel_spacing]
    made.SliceThickness = f"{each.thickness:.10g}"
    # The writer passes over what has no pixels, and does not look at them.
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PixelRepresentation = 1, "MONOCHROME2", 0
    made.BitsAllocated, made.BitsStored, made.HighBit = 8, 8, 7
    made.PixelData = bytes(each.size[0] * each.size[1] + each.size[0] * each.size[1] % 2)
    return made


def put_references(seg: Any, stands_for: Mapping[str, tuple[str, str, int]]) -> None:
    """Let a SEG refer to instances and frames that there are, in place of those that were made up."""
    for reference in list(_references(seg)):
        stood = stands_for.get(str(reference.ReferencedSOPInstanceUID))
        if stood is not None:
            reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID, frame = stood
            reference.ReferencedFrameNumber = frame
    for series in seg.get("ReferencedSeriesSequence") or ():
        firsts: dict[str, Dataset] = {}
        for reference in series.get("ReferencedInstanceSequence") or ():
            firsts.setdefault(str(reference.ReferencedSOPInstanceUID), reference)
            if stands_for and "ReferencedFrameNumber" in reference:
                del reference.ReferencedFrameNumber  # all frames of the instance
        series.ReferencedInstanceSequence = Sequence(firsts.values())


def _references(data: Any) -> Iterator[Any]:
    """Every item of a data set, at any depth, that refers to an instance."""
    if "ReferencedSOPInstanceUID" in data:
        yield data
    for element in data:
        if element.VR == "SQ":
            for item in element.value:
                yield from _references(item)
