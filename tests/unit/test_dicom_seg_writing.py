"""A SEG that we write says what was drawn, by whom and on what; reading it back is tested against real servers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from lib.errors import LabelError
from lib.images.dicom_writing import SeriesInfo, on_dicom_grid, write_series
from lib.images.volumes import Volume, open_volume
from lib.labels.dicom_codes import meaning_of
from lib.labels.dicom_seg_writing import SegInfo, write_seg
from lib.labels.masks import read_label
from unit.test_dicom_series import enhanced
from unit.test_dicom_writing import affine_of
from unit.volumes_on_disk import numbered, write_dicom_series

INFO = SeriesInfo("P-1", "Müller^Jörg", description="Bauch groß")


@pytest.fixture
def series(tmp_path: Path) -> Path:
    array, affine = on_dicom_grid(np.arange(9 * 8 * 5).reshape(9, 8, 5).astype(np.int16), affine_of("PSL", turn=0.3))
    write_series(tmp_path / "series", array, affine, INFO, [4, 1, 0, 3, 2])
    return tmp_path / "series"


@pytest.fixture
def volume(series: Path) -> Volume:
    return open_volume(series)


def ball(volume: Volume, i: int, j: int, k: int) -> np.ndarray:
    mask = np.zeros(volume.shape, bool)
    mask[i : i + 3, j : j + 3, k : k + 2] = True
    return mask


def test_names_codes_and_owner_are_those_of_the_label_and_the_series(series: Path, volume: Volume) -> None:
    masks = {"Gefäß": ball(volume, 0, 0, 0), "kidney_left": ball(volume, 4, 4, 2)}
    target = series.parent / "seg.dcm"
    write_seg(masks, volume.affine, series, target, SegInfo("Ann^Ö", "version 3", 303))
    data = pydicom.dcmread(target)
    assert [segment.SegmentLabel for segment in data.SegmentSequence] == ["Gefäß", "kidney_left"]
    kidney = data.SegmentSequence[1]
    assert kidney.SegmentedPropertyCategoryCodeSequence[0].CodeMeaning == "Anatomical Structure"
    assert kidney.SegmentedPropertyTypeCodeSequence[0].CodeValue == "64033007"
    assert (data.PatientName, data.PatientID, data.StudyDescription) == ("Müller^Jörg", "P-1", "Bauch groß")
    assert (data.StudyInstanceUID, data.ContentCreatorName) == (INFO.study_uid, "Ann^Ö")
    assert (data.SeriesDescription, data.SeriesNumber) == ("version 3", 303)
    (reference,) = data.ReferencedSeriesSequence
    assert reference.SeriesInstanceUID == INFO.uid()
    drawn_on = {INFO.uid("instance", k) for k in range(4)}  # the last plane is empty
    assert {each.ReferencedSOPInstanceUID for each in reference.ReferencedInstanceSequence} == drawn_on
    assert [path.name for path in series.parent.iterdir() if path != series] == ["seg.dcm"]


def test_labels_may_overlap(series: Path, volume: Volume) -> None:
    masks = {"liver": ball(volume, 2, 2, 1), "lesion": ball(volume, 3, 3, 2), "tumour": ball(volume, 0, 0, 0)}
    write_seg(masks, volume.affine, series, series.parent / "seg.dcm")
    read = read_label(series.parent / "seg.dcm", volume, list(masks)).masks
    assert {name: int((read[name] != mask).sum()) for name, mask in masks.items()} == dict.fromkeys(masks, 0)


@pytest.mark.parametrize("name", ["a\\b", "x" * 65, "", " liver", "new\nline"])
def test_a_name_that_dicom_cannot_hold_is_refused(series: Path, volume: Volume, name: str) -> None:
    with pytest.raises(LabelError, match="does not fit into a DICOM SEG"):
        write_seg({name: ball(volume, 0, 0, 0)}, volume.affine, series, series.parent / "seg.dcm")
    assert not (series.parent / "seg.dcm").exists()


def test_nothing_drawn_is_refused(series: Path, volume: Volume) -> None:
    with pytest.raises(LabelError, match="without any voxel"):
        write_seg({"liver": np.zeros(volume.shape, bool)}, volume.affine, series, series.parent / "seg.dcm")


def test_a_label_of_no_series_is_refused_and_leaves_nothing(series: Path, volume: Volume) -> None:
    with pytest.raises(LabelError, match="no DICOM SEG can refer to nowhere"):
        write_seg(
            {"liver": np.ones((3, 3, 3), bool)}, volume.affine, series.parent / "nowhere", series.parent / "s.dcm"
        )
    assert [path.name for path in series.parent.iterdir()] == ["series"]


def beside(k: int, data: Any) -> None:
    """The lowest slice lies across, as a localizer's do."""
    if k == 0:
        data.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]


def phases(k: int, data: Any) -> None:
    data.ImagePositionPatient, data.AcquisitionNumber = [0, 0, 1.5 * (k % 6)], 1 + k // 6


def tilted(k: int, data: Any) -> None:
    data.ImagePositionPatient = [0, 0.5 * k, 1.5 * k]


def without_place(k: int, data: Any) -> None:
    if k == 0:
        del data.ImagePositionPatient


@pytest.mark.parametrize("edit", [beside, phases, tilted, without_place])
def test_a_seg_refers_to_the_slices_of_the_stack_alone(tmp_path: Path, edit: Callable[[int, Any], None]) -> None:
    array = np.arange(24 * 20 * 12).reshape(24, 20, 12).astype(np.int16)
    for k, path in enumerate(write_series(tmp_path / "series", array, np.diag([-1, -1, 1.5, 1]), INFO)):
        data = pydicom.dcmread(path)
        edit(k, data)
        data.save_as(path)
    volume = open_volume(tmp_path / "series")
    masks = {"liver": ball(volume, 3, 4, 1)}
    write_seg(masks, volume.affine, tmp_path / "series", tmp_path / "seg.dcm")
    read = read_label(tmp_path / "seg.dcm", volume, ["liver"]).masks
    assert np.array_equal(read["liver"], masks["liver"])
    (reference,) = pydicom.dcmread(tmp_path / "seg.dcm").ReferencedSeriesSequence
    first = 2 if edit in (beside, without_place) else 1
    drawn_on = {INFO.uid("instance", k) for k in (first, first + 1)}
    assert {each.ReferencedSOPInstanceUID for each in reference.ReferencedInstanceSequence} == drawn_on


def test_a_seg_of_an_enhanced_file_refers_to_its_frames(tmp_path: Path) -> None:
    source = write_dicom_series(tmp_path / "plain", numbered((24, 20, 6)), np.diag([-1, -1, 1.5, 1]), of_one_study)
    folder = enhanced(tmp_path / "enhanced", source, "MR")
    volume = open_volume(folder)
    masks = {"liver": ball(volume, 3, 4, 1)}
    write_seg(masks, volume.affine, folder, tmp_path / "seg.dcm")
    read = read_label(tmp_path / "seg.dcm", volume, ["liver"]).masks
    assert np.array_equal(read["liver"], masks["liver"])
    whole, seg = pydicom.dcmread(folder / "enhanced.dcm"), pydicom.dcmread(tmp_path / "seg.dcm")
    (reference,) = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert reference.ReferencedSOPInstanceUID == whole.SOPInstanceUID
    for frame in seg.PerFrameFunctionalGroupsSequence:
        (drawn_on,) = frame.DerivationImageSequence[0].SourceImageSequence
        assert drawn_on.ReferencedSOPInstanceUID == whole.SOPInstanceUID
        place = whole.PerFrameFunctionalGroupsSequence[drawn_on.ReferencedFrameNumber - 1].PlanePositionSequence[0]
        assert np.allclose(place.ImagePositionPatient, frame.PlanePositionSequence[0].ImagePositionPatient)


def of_one_study(k: int, data: Any) -> None:
    data.StudyInstanceUID, data.PatientID, data.PatientName = "1.2.3", "P-1", "Doe"
    data.StudyDate, data.StudyTime, data.AccessionNumber, data.StudyID = "20260102", "101500", "", "1"
    data.PatientBirthDate, data.PatientSex, data.ReferringPhysicianName = "", "O", ""
    data.FrameOfReferenceUID, data.SeriesNumber = "1.2.4", 1


@pytest.mark.parametrize(
    ("name", "category", "kind", "side"),
    [
        ("liver", "Anatomical Structure", "Liver", None),
        ("right lung", "Anatomical Structure", "Lung", "Right"),
        ("Kidney_Left", "Anatomical Structure", "Kidney", "Left"),
        ("spinal cord", "Anatomical Structure", "Spinal cord", None),
        ("liver tumour", "Morphologically Abnormal Structure", "Neoplasm", None),
        ("nodule", "Morphologically Abnormal Structure", "Nodule", None),
        ("Gefäß", "Tissue", "Tissue", None),
        ("17", "Tissue", "Tissue", None),
    ],
)
def test_a_label_is_coded_as_what_its_name_says(name: str, category: str, kind: str, side: str | None) -> None:
    meaning = meaning_of(name)
    assert (meaning.category.meaning, meaning.type.meaning) == (category, kind)
    assert (meaning.side.meaning if meaning.side else None) == side
