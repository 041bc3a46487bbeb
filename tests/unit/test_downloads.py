"""One label in every format that it can be downloaded in: the same voxels at the same places, by other readers."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from matplotlib.path import Path as Polygon

from lib.errors import LabelError
from lib.images.dicom_writing import SeriesInfo, on_dicom_grid, write_series
from lib.images.volumes import Volume, open_volume
from lib.labels.contours import polygons
from lib.labels.dicom_seg_writing import SegInfo
from lib.labels.downloads import FORMATS, OF_SERIES, write_download
from lib.labels.masks import read_label, read_whole_label
from unit.test_dicom_seg_writing import of_one_study
from unit.test_dicom_series import enhanced
from unit.test_dicom_writing import affine_of
from unit.volumes_on_disk import numbered, write_dicom_series

INFO = SeriesInfo("P-1", "Müller^Jörg", description="Bauch groß")
SHAPE = (17, 14, 6)
NAMES = ["Gefäß", "kidney_left"]
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def labels_of(shape: tuple[int, ...], seed: int = 0) -> dict[str, np.ndarray]:
    """Two masks with holes, parts in holes, voxels on every border and voxels that meet at corners only."""
    random = np.random.default_rng(seed).random(shape)
    first = random < 0.4
    first[2:9, 2:9, 1:3] = True
    first[4:7, 4:7, 1:3] = False
    first[5, 5, 1:3] = True
    second = (random > 0.8) & ~first
    return {"Gefäß": first, "kidney_left": second}


@pytest.fixture(params=[("PSL", 0.3), ("LPS", 0.0), ("RSA", -0.7)])
def series(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Slices of voxels of three lengths, in shuffled order, oblique but for one."""
    codes, turn = request.param
    affine = affine_of(codes, (0.75, 2.25, 4.0), turn)
    array, grid = on_dicom_grid(np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(np.int16), affine)
    write_series(tmp_path / "series", array, grid, INFO, [4, 1, 0, 3, 2, 5])
    return tmp_path / "series"


def rasterised(path: Path, series: Path) -> tuple[dict[str, np.ndarray], float]:
    """The voxels (row, column, slice by place) whose centres are in a structure set's polygons, one over the other by
    parity, by the headers of the slices alone; and how far polygons lie off their slices, in mm."""
    slices = [pydicom.dcmread(each) for each in sorted(series.glob("*.dcm"))]
    normal = np.cross(*np.array(slices[0].ImageOrientationPatient, float).reshape(2, 3))
    slices.sort(key=lambda each: float(normal @ np.array(each.ImagePositionPatient, float)))
    place = {each.SOPInstanceUID: k for k, each in enumerate(slices)}
    shape = (slices[0].Rows, slices[0].Columns, len(slices))
    centres = np.argwhere(np.ones(shape[:2], bool))
    data, found, off = pydicom.dcmread(path), {}, 0.0
    names = {each.ROINumber: each.ROIName for each in data.StructureSetROISequence}
    for structure in data.ROIContourSequence:
        mask = found[names[structure.ReferencedROINumber]] = np.zeros(shape, bool)
        for contour in structure.ContourSequence:
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            assert len(points) == contour.NumberOfContourPoints
            k = place[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
            row, column = np.array(slices[k].ImageOrientationPatient, float).reshape(2, 3)
            beside = points - np.array(slices[k].ImagePositionPatient, float)
            off = max(off, float(np.abs(beside @ normal).max()))
            flat = np.stack([beside @ column / slices[k].PixelSpacing[0], beside @ row / slices[k].PixelSpacing[1]], 1)
            inside = Polygon(np.concatenate([flat, flat[:1]]), closed=True).contains_points(centres)
            mask[..., k] ^= inside.reshape(shape[:2])
            # No point is more than a quarter of a voxel off the voxels of the label.
            near = np.abs(flat[:, None] - centres[inside]).max(axis=-1).min(axis=1)
            assert near.max() <= 0.75 + 1e-4
    return found, off


def written(tmp_path: Path, kind: str, masks: dict[str, np.ndarray], volume: Volume, series: Path | None) -> Path:
    target = tmp_path / f"label{FORMATS[kind]}"
    write_download(kind, masks, volume.affine, series, target, SegInfo("Ann^Ö", "version 3", 303))
    return target


def test_seg_rtstruct_nifti_and_nrrd_of_one_label_agree_to_the_voxel(series: Path, tmp_path: Path) -> None:
    volume = open_volume(series)
    masks = labels_of(volume.shape)
    nifti = nibabel.load(written(tmp_path, "nifti", masks, volume, series))
    assert np.allclose(nifti.affine, volume.affine, atol=1e-4)
    nrrd = sitk.ReadImage(str(written(tmp_path, "nrrd", masks, volume, series)))
    for index in ((0, 0, 0), (16, 3, 5)):
        there = (RAS_TO_LPS @ volume.affine @ (*index, 1))[:3]
        assert np.allclose(nrrd.TransformIndexToPhysicalPoint(index), there, atol=1e-6)
    seg = read_label(written(tmp_path, "dicom_seg", masks, volume, series), volume, NAMES).masks
    contours, off = rasterised(written(tmp_path, "rtstruct", masks, volume, series), series)
    assert off < 1e-5
    for value, (name, mask) in enumerate(masks.items(), start=1):
        found = {
            "nifti": np.asarray(nifti.dataobj) == value,
            "nrrd": value == sitk.GetArrayFromImage(nrrd).T,
            "seg": seg[name],
            "rtstruct": contours[name].swapaxes(0, 1),
        }
        assert {kind: int((each != mask).sum()) for kind, each in found.items()} == dict.fromkeys(found, 0)


@pytest.mark.parametrize("codes", ["RAS", "LAS", "RPI", "SLA", "IPR"])
def test_nifti_and_nrrd_lie_where_a_flipped_image_does(codes: str, tmp_path: Path) -> None:
    affine = affine_of(codes, turn=0.2)
    nibabel.save(
        nibabel.Nifti1Image(np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(np.int16), affine), tmp_path / "i.nii.gz"
    )
    volume = open_volume(tmp_path / "i.nii.gz")
    masks = labels_of(SHAPE)
    image = sitk.ReadImage(str(tmp_path / "i.nii.gz"))
    for kind in ("nifti", "nrrd"):
        path = written(tmp_path, kind, masks, volume, None)
        label = sitk.ReadImage(str(path))
        assert np.allclose(label.GetDirection(), image.GetDirection(), atol=1e-5)
        assert np.allclose(label.GetOrigin(), image.GetOrigin(), atol=1e-3)
        assert np.allclose(label.GetSpacing(), image.GetSpacing(), atol=1e-5)
        values = sitk.GetArrayFromImage(label).T
        assert np.array_equal(values == 1, masks["Gefäß"])
        assert np.array_equal(values == 2, masks["kidney_left"])


def test_names_and_codes_go_with_a_label(series: Path, tmp_path: Path) -> None:
    volume = open_volume(series)
    masks = labels_of(volume.shape)
    nifti = nibabel.load(written(tmp_path, "nifti", masks, volume, series))
    told = json.loads(nifti.header.extensions[0].get_content())["labels"]
    assert [(each["value"], each["name"]) for each in told] == [(1, "Gefäß"), (2, "kidney_left")]
    assert (told[1]["type"]["value"], told[1]["modifier"]["meaning"]) == ("64033007", "Left")
    nrrd = written(tmp_path, "nrrd", masks, volume, series)
    assert b"~SCT^64033007^Kidney~SCT^7771000^Left~" in nrrd.read_bytes()
    again = read_whole_label(nrrd, volume, [])  # as 3D Slicer's segmentations are read
    assert {name: int((again.masks[name] != mask).sum()) for name, mask in masks.items()} == dict.fromkeys(masks, 0)
    data = pydicom.dcmread(written(tmp_path, "rtstruct", masks, volume, series))
    assert [each.ROIName for each in data.StructureSetROISequence] == NAMES
    (code,) = data.RTROIObservationsSequence[1].RTROIIdentificationCodeSequence
    assert (code.CodeValue, code.CodingSchemeDesignator) == ("64033007", "SCT")
    assert (data.PatientName, data.PatientID, data.StudyDescription) == ("Müller^Jörg", "P-1", "Bauch groß")
    assert (data.StudyInstanceUID, data.SeriesDescription, data.OperatorsName) == (INFO.study_uid, "version 3", "Ann^Ö")
    frame = data.ReferencedFrameOfReferenceSequence[0]
    assert frame.FrameOfReferenceUID == pydicom.dcmread(next(series.glob("*.dcm"))).FrameOfReferenceUID
    (of,) = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence
    assert of.SeriesInstanceUID == INFO.uid()
    assert {each.ReferencedSOPInstanceUID for each in of.ContourImageSequence} == {
        INFO.uid("instance", k) for k in range(SHAPE[2])
    }


def test_polygons_of_an_enhanced_file_name_its_frames(tmp_path: Path) -> None:
    source = write_dicom_series(tmp_path / "plain", numbered((24, 20, 6)), np.diag([-1, -1, 1.5, 1]), of_one_study)
    folder = enhanced(tmp_path / "enhanced", source, "MR")
    volume = open_volume(folder)
    mask = np.zeros(volume.shape, bool)
    mask[3:6, 4:7, 2] = True
    data = pydicom.dcmread(written(tmp_path, "rtstruct", {"liver": mask}, volume, folder))
    whole = pydicom.dcmread(folder / "enhanced.dcm")
    (contour,) = data.ROIContourSequence[0].ContourSequence
    (of,) = contour.ContourImageSequence
    frame = whole.PerFrameFunctionalGroupsSequence[of.ReferencedFrameNumber - 1]
    assert of.ReferencedSOPInstanceUID == whole.SOPInstanceUID
    assert float(frame.PlanePositionSequence[0].ImagePositionPatient[2]) == pytest.approx(contour.ContourData[2])


def test_a_polygon_of_many_points_is_written_whole(tmp_path: Path) -> None:
    """One of more than 64 kB, which DICOM's explicit syntaxes cannot hold as what it is."""
    affine = np.diag([-0.7123, -0.7123, 1.0, 1.0])
    write_series(tmp_path / "series", np.zeros((140, 140, 2), np.int16), affine, INFO)
    volume = open_volume(tmp_path / "series")
    mask = np.zeros(volume.shape, bool)
    mask[1:139, 1:139:2, 0] = True
    mask[1, 1:139, 0] = True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = written(tmp_path, "rtstruct", {"liver": mask}, volume, tmp_path / "series")
    found, _ = rasterised(path, tmp_path / "series")
    assert np.array_equal(found["liver"].swapaxes(0, 1), mask)


def test_masks_that_overlap_are_layers_of_an_nrrd(series: Path, tmp_path: Path) -> None:
    volume = open_volume(series)
    masks = {**labels_of(volume.shape), "liver": np.ones(volume.shape, bool)}
    path = written(tmp_path, "nrrd", masks, volume, series)
    found = read_label(path, volume, ("Gefäß", "kidney_left", "liver")).masks
    assert {name: int((found[name] != mask).sum()) for name, mask in masks.items()} == dict.fromkeys(masks, 0)
    head = path.read_bytes().partition(b"\n\n")[0].decode()
    shape = " ".join(map(str, volume.shape))
    assert f"dimension: 4\nspace: left-posterior-superior\nsizes: 2 {shape}\nspace directions: none (" in head
    assert list(masks)[-1] == "liver"
    assert all(f"Segment{number}_Layer:={layer}" in head for number, layer in enumerate((0, 0, 1)))


def test_polygons_are_filled_alike_by_parity_and_by_winding() -> None:
    ring = np.ones((9, 9), bool)
    ring[2:7, 2:7] = False
    ring[4, 4] = True
    outer, inner = polygons(ring)
    turns = [np.sign(_signed_area(each)) for each in (outer, inner)]
    assert turns[0] == turns[1]  # an island turns as what surrounds it does, a hole the other way
    assert abs(_signed_area(outer)) == pytest.approx(81 - 4 / 8 - (25 - 4 / 8))


def _signed_area(ring: Any) -> float:
    i, j = np.asarray(ring).T
    return float(i @ np.roll(j, -1) - j @ np.roll(i, -1)) / 2


def test_what_a_format_cannot_hold_is_refused(series: Path, tmp_path: Path) -> None:
    volume = open_volume(series)
    masks = labels_of(volume.shape)
    masks["kidney_left"] |= masks["Gefäß"]
    with pytest.raises(LabelError, match="Gefäß and kidney_left overlap"):
        written(tmp_path, "nifti", masks, volume, series)
    contours, _ = rasterised(written(tmp_path, "rtstruct", masks, volume, series), series)
    assert np.array_equal(contours["kidney_left"].swapaxes(0, 1), masks["kidney_left"])
    for kind in OF_SERIES:
        with pytest.raises(LabelError, match="this image is none: take nifti or nrrd"):
            written(tmp_path, kind, masks, volume, None)
    with pytest.raises(LabelError, match="cannot hold a label without any voxel"):
        written(tmp_path, "rtstruct", {"liver": np.zeros(volume.shape, bool)}, volume, series)
    with pytest.raises(LabelError, match="no RTSTRUCT can refer to nowhere"):
        written(tmp_path, "rtstruct", masks, volume, tmp_path / "nowhere")
