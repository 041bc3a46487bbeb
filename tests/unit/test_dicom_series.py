"""Series as archives have them: what is beside the stack, what lies at one place, what is tilted or enhanced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import JPEG2000Lossless, RLELossless, generate_uid

from lib.errors import VolumeError
from lib.images.volumes import Volume, open_volume
from unit.volumes_on_disk import numbered, write_dicom_series

SHAPE = (6, 5, 20)
GRID = np.diag([-1.0, -1.0, 1.5, 1.0])
OBLIQUE = np.array([[-0.6, 0.56, 0.6, 20.0], [-0.8, -0.42, -0.45, -30.0], [0.0, -0.714, 1.3, 5.0], [0, 0, 0, 1]])
ENHANCED = {"CT": "1.2.840.10008.5.1.4.1.1.2.1", "MR": "1.2.840.10008.5.1.4.1.1.4.1"}


def opened(folder: Path) -> tuple[Volume, str]:
    volume = open_volume(folder)
    return volume, " ".join(volume.notes)


def written(folder: Path, edit: Callable[[int, Any], None], shape: tuple[int, int, int] = SHAPE) -> Path:
    return write_dicom_series(folder / "series", numbered(shape), GRID, edit)


def upright(affine: np.ndarray) -> np.ndarray:
    """The affine with axes that are upright on each other to the last digit, as DICOM's are."""
    first = affine[:3, 0] / np.linalg.norm(affine[:3, 0])
    third = np.cross(first, affine[:3, 1])
    third /= np.linalg.norm(third)
    made = affine.copy()
    made[:3, :3] = np.column_stack([0.7 * first, 0.9 * np.cross(third, first), 1.5 * third])
    return made


def turned(k: int, data: Any) -> None:
    if k == 7:
        data.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]


def other_size(k: int, data: Any) -> None:
    if k == 7:
        data.Rows, data.PixelData = 2, data.PixelData[: 2 * 2 * data.Columns]


def other_spacing(k: int, data: Any) -> None:
    if k == 7:
        data.PixelSpacing = [2, 2]


def scout(k: int, data: Any) -> None:
    if k == 7:
        data.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]


def screen(k: int, data: Any) -> None:
    if k == 7:
        del data.ImagePositionPatient, data.ImageOrientationPatient


def coloured(k: int, data: Any) -> None:
    if k == 7:
        data.SamplesPerPixel = 3


@pytest.mark.parametrize("edit", [turned, other_size, other_spacing, scout, screen, coloured])
def test_what_is_no_part_of_the_stack_is_left_out_and_named(tmp_path: Path, edit: Callable[[int, Any], None]) -> None:
    def beside(k: int, data: Any) -> None:
        edit(k + 7 if k == 0 else -1, data)  # the lowest slice, so that those that are left make a stack

    folder = written(tmp_path, beside)
    name = next(path.name for path in folder.iterdir() if is_lowest(path))
    volume, notes = opened(folder)
    assert np.array_equal(volume.array, numbered(SHAPE)[:, :, 1:])
    assert "left out" in notes
    assert name in notes


def is_lowest(path: Path) -> bool:
    return pydicom.dcmread(path).PixelData.startswith((1024).to_bytes(2, "little"))


def test_a_slice_far_from_the_stack_is_left_out(tmp_path: Path) -> None:
    def stray(k: int, data: Any) -> None:
        if k == 19:
            data.ImagePositionPatient = [0, 0, 300]

    volume, notes = opened(written(tmp_path, stray))
    assert volume.shape == (6, 5, 19)
    assert "1 slices of series lie far from its stack of 19" in notes


def test_a_localizer_of_three_planes_is_no_stack(tmp_path: Path) -> None:
    frames = ([1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1], [0, 1, 0, 0, 0, -1])

    def planes(k: int, data: Any) -> None:
        data.ImageOrientationPatient = frames[k % 3]

    with pytest.raises(VolumeError, match="3 kinds of slices, of which none is the main stack: up to 2 of one size"):
        open_volume(written(tmp_path, planes, (6, 5, 6)))


@pytest.mark.parametrize("tag", ["TemporalPositionIdentifier", "AcquisitionNumber", "TriggerTime", "InstanceNumber"])
def test_the_first_of_several_phases_is_opened(tmp_path: Path, tag: str) -> None:
    def phases(k: int, data: Any) -> None:
        data.ImagePositionPatient = [0, 0, 1.5 * (k % 10)]
        data.InstanceNumber = k + 1
        if tag != "InstanceNumber":
            setattr(data, tag, 1 + k // 10)

    volume, notes = opened(written(tmp_path, phases))
    assert np.array_equal(volume.array, numbered(SHAPE)[:, :, :10])
    assert "2 phases at one place" in notes
    assert tag in notes


def test_of_a_phase_that_is_not_whole_the_other_is_opened(tmp_path: Path) -> None:
    def phases(k: int, data: Any) -> None:
        data.ImagePositionPatient = [0, 0, 1.5 * (k if k < 8 else k - 8)]
        data.AcquisitionNumber = 1 if k < 8 else 2

    volume, notes = opened(written(tmp_path, phases))
    assert np.array_equal(volume.array, numbered(SHAPE)[:, :, 8:])
    assert "phase 2 is used" in notes


def test_a_slice_that_came_twice_counts_once(tmp_path: Path) -> None:
    def twice(k: int, data: Any) -> None:
        data.InstanceNumber = k + 1
        data.ImagePositionPatient = [0, 0, 1.5 * (k if k < 19 else 4)]

    volume, notes = opened(written(tmp_path, twice))
    assert np.array_equal(volume.array, numbered(SHAPE)[:, :, :19])
    assert "1 slices of series lie where another one does" in notes


@pytest.mark.parametrize("slope", [0.2, -0.35])
def test_a_tilted_gantry_is_resampled_in_place(tmp_path: Path, slope: float) -> None:
    shape = (40, 36, 24)
    centre = np.array([20.0, 18.0 + slope * 12 * 1.5, 12 * 1.5])  # LPS mm
    where = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1).astype(float)
    places = where * [1, 1, 1.5]
    places[..., 1] += slope * places[..., 2]
    array = np.where(np.linalg.norm(places - centre, axis=-1) < 8, 200, 0).astype(np.int16)

    def tilted(k: int, data: Any) -> None:
        data.ImagePositionPatient = [0, slope * 1.5 * k, 1.5 * k]

    volume, notes = opened(write_dicom_series(tmp_path / "series", array, GRID, tilted))
    assert f"tilted gantry ({np.degrees(np.arctan(abs(slope))):.1f} degrees)" in notes
    axes = volume.affine[:3, :3]
    assert np.allclose(axes.T @ axes, np.diag([1, 1, 2.25]), atol=1e-6)
    inside = np.argwhere(volume.array > 100)
    middle = (volume.affine @ [*inside.mean(axis=0), 1])[:3] * [-1, -1, 1]
    assert np.abs(middle - centre).max() < 0.1
    spread = np.abs((inside @ axes.T + volume.affine[:3, 3]) * [-1, -1, 1] - centre)
    assert np.linalg.norm(spread, axis=1).max() < 9
    assert volume.array.shape[2] == 24
    assert abs(len(inside) * 1.5 - array.astype(bool).sum() * 1.5) < 0.03 * len(inside) * 1.5


@pytest.mark.parametrize("distances", [(4.0, 7.0), (2.0, 5.0), (5.0, 2.5)])
@pytest.mark.parametrize("between", [None, 1.1])
def test_two_slice_distances_are_said_to_be_that(
    tmp_path: Path, distances: tuple[float, float], between: float | None
) -> None:
    below, above = distances
    gaps = [below] * 9 + ([between] if between else []) + [above] * 9
    heights = np.cumsum([0.0, *gaps])

    def place(k: int, data: Any) -> None:
        data.ImagePositionPatient = [0, 0, heights[k]]

    shape = (6, 5, len(heights))
    with pytest.raises(VolumeError) as caught:
        open_volume(written(tmp_path, place, shape))
    sentence = str(caught.value)
    assert f"has two slice distances: {below:.4g} mm up to" in sentence
    assert f"(height {9 * below:.4g} mm) and {above:.4g} mm from" in sentence
    assert "fetch" not in sentence


@pytest.mark.parametrize("signed", [True, False])
def test_white_on_black_changes_no_value(tmp_path: Path, signed: bool) -> None:
    def inverted(k: int, data: Any) -> None:
        data.PhotometricInterpretation = "MONOCHROME1"
        if not signed:
            data.PixelRepresentation, data.BitsStored, data.HighBit = 0, 12, 11

    folder = written(tmp_path, inverted)
    volume, _ = opened(folder)
    assert np.array_equal(volume.array, numbered(SHAPE))
    one = pydicom.dcmread(next(iter(folder.iterdir())))
    shown = pydicom.pixel_data_handlers.util.apply_modality_lut(one.pixel_array, one).T
    assert any(np.array_equal(shown, volume.array[:, :, k]) for k in range(SHAPE[2]))


def enhanced(folder: Path, source: Path, modality: str, phases: int = 1, pack: str = "") -> Path:
    """The slices of a series as the frames of one enhanced file, in a shuffled order."""
    files = [pydicom.dcmread(path) for path in sorted(source.iterdir())]
    whole = files[0]
    whole.SOPClassUID = whole.file_meta.MediaStorageSOPClassUID = ENHANCED[modality]
    whole.SOPInstanceUID = whole.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    whole.Modality, whole.PixelRepresentation = modality, 0
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = whole.PixelSpacing, whole.SliceThickness
    orientation.ImageOrientationPatient = whole.ImageOrientationPatient
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Sequence([measures]), Sequence([orientation])
    whole.SharedFunctionalGroupsSequence = Sequence([shared])
    frames, pixels = [], []
    for phase in range(phases):
        for number, each in enumerate(files):
            frame, position, content, values = Dataset(), Dataset(), Dataset(), Dataset()
            position.ImagePositionPatient = each.ImagePositionPatient
            content.TemporalPositionIndex = phase + 1
            # Each frame has a rescaling of its own, as PET and some MR have.
            values.RescaleSlope, values.RescaleIntercept = 1 + number % 2, -1024 * (1 + number % 2)
            frame.PlanePositionSequence, frame.FrameContentSequence = Sequence([position]), Sequence([content])
            frame.PixelValueTransformationSequence = Sequence([values])
            frames.append(frame)
            stored = (each.pixel_array.astype(int) - 1024) // (1 + number % 2) + 1024 + phase
            pixels.append(stored.astype("<u2"))
    whole.PerFrameFunctionalGroupsSequence = Sequence(frames)
    whole.NumberOfFrames, whole.PixelData = len(frames), np.stack(pixels).tobytes()
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(whole, keyword)
    del whole.RescaleSlope, whole.RescaleIntercept
    if pack == "run length":
        whole.compress(RLELossless)
    elif pack == "wavelets":
        pack_wavelets(whole, folder)
    folder.mkdir(exist_ok=True)
    whole.save_as(folder / "enhanced.dcm", write_like_original=False)
    return folder


def pack_wavelets(data: Any, folder: Path) -> None:
    """JPEG 2000, by the encoder of SimpleITK."""
    folder.mkdir(exist_ok=True)
    path = str(folder.with_suffix(".packing.dcm"))
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.SetFileName(path)
    writer.UseCompressionOn()
    writer.SetCompressor("JPEG2000")
    writer.Execute(sitk.GetImageFromArray(data.pixel_array))
    packed = pydicom.dcmread(path)
    assert packed.file_meta.TransferSyntaxUID == JPEG2000Lossless
    data.file_meta.TransferSyntaxUID, data.PixelData = JPEG2000Lossless, packed.PixelData
    data["PixelData"].is_undefined_length = True
    data.is_implicit_VR = False


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("pack", ["", "run length", "wavelets"])
def test_an_enhanced_file_is_opened_frame_by_frame(tmp_path: Path, modality: str, pack: str) -> None:
    grid, array = upright(OBLIQUE), 2 * numbered((24, 20, 8))  # even, so that a slope of 2 loses nothing
    source = write_dicom_series(tmp_path / "plain", array, grid)
    folder = enhanced(tmp_path / "enhanced", source, modality, pack=pack)
    volume, notes = opened(folder)
    plain = open_volume(source)
    assert np.array_equal(volume.array, array)
    assert np.allclose(volume.affine, plain.affine, atol=1e-6)
    assert notes == ""


def test_of_an_enhanced_file_of_phases_the_first_is_opened(tmp_path: Path) -> None:
    array = 2 * numbered((6, 5, 8))
    source = write_dicom_series(tmp_path / "plain", array, GRID)
    volume, notes = opened(enhanced(tmp_path / "enhanced", source, "MR", phases=3))
    assert np.array_equal(volume.array, array)
    assert "3 phases at one place (told apart by TemporalPositionIndex)" in notes


def test_an_oblique_series_lies_where_itk_reads_it(tmp_path: Path) -> None:
    """Every corner within 0.01 mm, for many turns, flips and spacings."""
    rng, worst = np.random.default_rng(1), 0.0
    for number in range(24):
        turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        if np.linalg.det(turn) < 0:
            turn[:, 2] *= -1
        affine = np.eye(4)
        affine[:3, :3] = turn @ np.diag(rng.uniform(0.4, 5, 3))
        affine[:3, 3] = rng.uniform(-300, 300, 3)
        folder = write_dicom_series(tmp_path / str(number), numbered((6, 5, 7)), affine)
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
        image = reader.Execute()
        volume = open_volume(folder)
        assert np.array_equal(sitk.GetArrayFromImage(image).T, volume.array)
        for corner in np.ndindex(2, 2, 2):
            index = [int(c) * (n - 1) for c, n in zip(corner, volume.shape, strict=True)]
            place = np.array(image.TransformIndexToPhysicalPoint(index)) * [-1, -1, 1]
            worst = max(worst, float(np.abs((volume.affine @ [*index, 1])[:3] - place).max()))
    print(f"24 oblique series, at most {worst:.1e} mm off")
    assert worst < 0.01
