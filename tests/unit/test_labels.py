"""Labels arrive by name and at their own place, whatever stored them; what cannot be trusted is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from scipy.spatial.transform import Rotation

from lib.errors import LabelError
from lib.images.volumes import Volume, make_volume, open_volume
from lib.labels.masks import check_label, names_by_order, read_label
from unit.labels_on_disk import dataset, write_seg, write_seg_nrrd
from unit.volumes_on_disk import write_dicom_series, write_itk, write_nifti

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
ORIENTATIONS = [(order, flips) for order in permutations(range(3)) for flips in product((1, -1), repeat=3)]

SHAPE = (9, 7, 6)  # 63 voxels a plane: packed frames begin within a byte
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = Rotation.from_euler("xyz", (11, -17, 23), degrees=True).as_matrix() @ np.diag([0.7, 0.8, 3.0])
OBLIQUE[:3, 3] = (12.5, -40.0, 333.25)


def volume_of(shape: tuple[int, int, int] = SHAPE, affine: NDArray = OBLIQUE) -> Volume:
    return make_volume(np.zeros(shape, np.int16), affine)


def blobs(shape: tuple[int, int, int] = SHAPE) -> NDArray:
    """A label map of two values, without any symmetry, that keeps off the border."""
    label = np.zeros(shape, np.uint8)
    label[2:5, 1:4, 1:3] = 1
    label[4:7, 3:6, 2:5] = 2
    label[2, 1, 1] = 0
    label[1, 5, 4] = 2
    return label


def reoriented(array: NDArray, affine: NDArray, order: tuple[int, ...], flips: tuple[int, ...]) -> tuple:
    """The same voxels at the same places, stored in another order and direction of axes."""
    turned = np.eye(4)
    turned[:3, :3] = np.eye(3)[:, order] * flips
    turned[:3, 3] = [(array.shape[axis] - 1) * (turned[axis, :3].sum() < 0) for axis in range(3)]
    steps = tuple(slice(None, None, flip) for flip in flips)
    return array.transpose(order)[steps], affine @ turned


def cropped(array: NDArray, affine: NDArray, margins: tuple[int, int, int] = (1, 0, 1)) -> tuple:
    placed = affine.copy()
    placed[:3, 3] += affine[:3, :3] @ margins
    return array[tuple(slice(margin, n - margin) for margin, n in zip(margins, array.shape, strict=True))], placed


def assert_masks(found: object, expected: dict[str, NDArray]) -> None:
    """Exactly these names, voxel for voxel."""
    assert set(found.masks) == set(expected)
    for name, mask in expected.items():
        assert found.masks[name].dtype == np.bool_
        assert np.count_nonzero(found.masks[name] != mask) == 0, name


def by_value(label: NDArray, *names: str) -> dict[str, NDArray]:
    return {name: label == value for value, name in enumerate(names, start=1)}


# ------------------------------------------------------------------ names


@pytest.mark.parametrize("ending", ["nii.gz", "nrrd"])
def test_values_without_names_go_by_the_order_of_the_labels(tmp_path: Path, ending: str) -> None:
    write = write_itk if ending == "nrrd" else write_nifti
    path = write(tmp_path / f"label.{ending}", blobs(), OBLIQUE)
    assert_masks(read_label(path, volume_of(), ["lesion", "organ"]), by_value(blobs(), "lesion", "organ"))


def test_names_stored_beside_a_file_beat_the_order_of_the_labels(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "label.nii.gz", blobs(), OBLIQUE)
    found = read_label(path, volume_of(), ["lesion", "organ"], value_names={1: "organ", 2: "lesion"})
    assert_masks(found, by_value(blobs(), "organ", "lesion"))


def test_names_stored_in_a_file_beat_those_beside_it(tmp_path: Path) -> None:
    path = write_seg_nrrd(tmp_path / "label.seg.nrrd", blobs(), OBLIQUE, [("organ", 1, 0), ("lesion", 2, 0)])
    found = read_label(path, volume_of(), ["lesion", "organ"], value_names={1: "lesion", 2: "organ"})
    assert_masks(found, by_value(blobs(), "organ", "lesion"))


def test_the_order_of_label_info_counts_and_not_its_idx() -> None:
    # As 3D Slicer sends it when its first segment, the background, was not saved.
    assert names_by_order([{"name": "liver", "idx": 2}, {"name": "tumor", "idx": 3}]) == {1: "liver", 2: "tumor"}


def test_a_lone_second_label_of_a_seg_keeps_its_name(tmp_path: Path) -> None:
    # Stored as segment 1, which by its number would be the first label.
    path = write_seg(tmp_path / "seg.dcm", {"tumour": blobs() == 2}, OBLIQUE)
    assert_masks(read_label(path, volume_of(), ["pancreas", "tumour"]), {"tumour": blobs() == 2})


def test_names_are_exact_and_strangers_are_left_out_and_reported(tmp_path: Path) -> None:
    masks = {"Läsion links": blobs() == 1, "Organ": blobs() == 2, "background": blobs() == 0}
    path = write_seg(tmp_path / "seg.dcm", masks, OBLIQUE)
    found = read_label(path, volume_of(), ["Läsion links", "organ", "background"])
    assert_masks(found, {"Läsion links": masks["Läsion links"]})
    assert len(found.notes) == 1
    assert "Organ" in found.notes[0]
    assert "background" not in found.notes[0]


def test_two_segments_of_one_name_are_one_label(tmp_path: Path) -> None:
    path = write_seg_nrrd(tmp_path / "a.seg.nrrd", blobs(), OBLIQUE, [("lesion", 1, 0), ("lesion", 2, 0)])
    assert_masks(read_label(path, volume_of(), ["lesion"]), {"lesion": blobs() > 0})


# ---------------------------------------------------------------- formats


def test_layers_of_a_slicer_segmentation_may_overlap(tmp_path: Path) -> None:
    first, second = blobs(), np.where(blobs() == 2, 1, 0) | (blobs() == 1)
    segments = [("lesion", 1, 0), ("organ", 2, 0), ("body α", 1, 1)]
    path = write_seg_nrrd(tmp_path / "label.seg.nrrd", np.stack([first, second]), OBLIQUE, segments)
    found = read_label(path, volume_of(), ["body α", "organ", "lesion"])
    assert_masks(found, {**by_value(first, "lesion", "organ"), "body α": blobs() > 0})


@pytest.mark.parametrize("is_listed", [False, True])
def test_one_layer_with_or_without_a_list_axis(tmp_path: Path, is_listed: bool) -> None:
    layers = blobs()[None] if is_listed else blobs()
    path = write_seg_nrrd(tmp_path / "label.nrrd", layers, OBLIQUE, [("lesion", 2, 0), ("organ", 1, 0)])
    assert_masks(read_label(path, volume_of(), ["lesion", "organ"]), by_value(blobs(), "organ", "lesion"))


def test_a_single_channel_in_four_dimensions(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "label.nii.gz", blobs()[..., None], OBLIQUE)
    assert_masks(read_label(path, volume_of(), ["lesion", "organ"]), by_value(blobs(), "lesion", "organ"))


def test_whole_numbers_stored_as_floats_and_scaled(tmp_path: Path) -> None:
    def double(header: nib.Nifti1Header) -> None:
        header["scl_slope"], header["scl_inter"] = 2.0, 0.0

    path = write_nifti(tmp_path / "label.nii", blobs().astype(np.float64) / 2, OBLIQUE, edit=double)
    assert_masks(read_label(path, volume_of(), ["lesion", "organ"]), by_value(blobs(), "lesion", "organ"))


def test_segments_of_a_seg_may_overlap_and_have_any_number(tmp_path: Path) -> None:
    masks = {"organ": blobs() > 0, "lesion": blobs() == 2}
    path = write_seg(tmp_path / "no_ending", masks, OBLIQUE, numbers={"organ": 7, "lesion": 3})
    assert_masks(read_label(path, volume_of(), ["lesion", "organ"]), masks)


def test_fractions_count_from_more_than_half(tmp_path: Path) -> None:
    fractions = np.zeros(SHAPE)
    fractions[2:4, 2, 2] = 0.5, 0.505
    fractions[5, 5, 3] = 1.0
    path = write_seg(tmp_path / "seg.dcm", {"lesion": fractions}, OBLIQUE, is_fractional=True)
    assert np.argwhere(read_label(path, volume_of(), ["lesion"]).masks["lesion"]).tolist() == [[3, 2, 2], [5, 5, 3]]


def forget_step(data: Dataset) -> None:
    del data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices


@pytest.mark.parametrize("planes", [[2], [0, 2, 4], [1, 2, 5]])
@pytest.mark.parametrize("is_stated", [False, True])
def test_planes_left_out_stay_empty(tmp_path: Path, planes: list[int], is_stated: bool) -> None:
    mask = np.zeros(SHAPE, bool)
    mask[3:5, 2:6, planes] = True
    path = write_seg(tmp_path / "seg.dcm", {"lesion": mask}, OBLIQUE, edit=None if is_stated else forget_step)
    assert_masks(read_label(path, volume_of(), ["lesion"]), {"lesion": mask})


def test_a_seg_on_thicker_slices_fills_those_between(tmp_path: Path) -> None:
    thick = OBLIQUE @ np.diag([1, 1, 3, 1])
    thick[:3, 3] += OBLIQUE[:3, 2]  # its planes are the image's 1 and 4
    mask = np.zeros((9, 7, 2), bool)
    mask[3:5, 2:4, 1] = True
    path = write_seg(tmp_path / "seg.dcm", {"lesion": mask}, thick)
    found = np.argwhere(read_label(path, volume_of(), ["lesion"]).masks["lesion"])
    assert sorted(set(found[:, 2].tolist())) == [3, 4, 5]
    assert len(found) == 2 * 2 * 3


def test_the_newest_seg_of_a_folder_counts(tmp_path: Path) -> None:
    def at(time: str) -> object:
        def edit(data: Dataset) -> None:
            data.SeriesDate, data.SeriesTime = "20240105", time

        return edit

    write_seg(tmp_path / "a.dcm", {"lesion": blobs() == 2}, OBLIQUE, edit=at("110000"))
    write_seg(tmp_path / "b.dcm", {"lesion": blobs() == 1}, OBLIQUE, edit=at("090000"))
    (tmp_path / "notes.txt").write_text("no DICOM")
    found = read_label(tmp_path, volume_of(), ["lesion"])
    assert_masks(found, {"lesion": blobs() == 2})
    assert "a.dcm" in found.notes[0]


def test_what_dcmqi_writes_is_read_by_name(tmp_path: Path) -> None:
    beside = Path(sys.executable).with_name("itkimage2segimage")
    program = str(beside) if beside.exists() else shutil.which("itkimage2segimage")
    if program is None:
        pytest.skip("itkimage2segimage of dcmqi is not installed")
    affine = np.diag([-0.7, -0.8, 3.0, 1.0])  # LPS, as a scanner stores it
    shape = (16, 12, 6)
    write_dicom_series(tmp_path / "ct", np.zeros(shape, np.int16), affine)
    write_nifti(tmp_path / "label.nii.gz", blobs(shape), affine)
    code = {"CodeValue": "49755003", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Morphologically Abnormal"}
    segments = [
        {
            "labelID": value,
            "SegmentLabel": name,
            "SegmentAlgorithmType": "MANUAL",
            "SegmentedPropertyCategoryCodeSequence": code,
            "SegmentedPropertyTypeCodeSequence": code,
        }
        for value, name in ((1, "organ"), (2, "lesion"))
    ]
    (tmp_path / "meta.json").write_text(json.dumps({"segmentAttributes": [segments], "ContentCreatorName": "test"}))
    inputs = ["--inputDICOMDirectory", "ct", "--inputImageList", "label.nii.gz", "--inputMetadata", "meta.json"]
    done = subprocess.run(
        [program, *inputs, "--skip", "1", "--outputDICOM", "seg.dcm"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (tmp_path / "seg.dcm").exists(), done.stdout + done.stderr
    found = read_label(tmp_path / "seg.dcm", open_volume(tmp_path / "ct"), ["lesion", "organ"])
    assert_masks(found, by_value(blobs(shape), "organ", "lesion"))


# ----------------------------------------------------------------- places


@pytest.mark.parametrize("is_cropped", [False, True])
def test_every_orientation_reads_back_voxel_for_voxel(tmp_path: Path, is_cropped: bool) -> None:
    assert len(ORIENTATIONS) == 48
    for order, flips in ORIENTATIONS:
        array, affine = reoriented(blobs(), OBLIQUE, order, flips)
        if is_cropped:
            array, affine = cropped(array, affine)
        path = write_nifti(tmp_path / "label.nii", array, affine)
        assert_masks(read_label(path, volume_of(), ["lesion", "organ"]), by_value(blobs(), "lesion", "organ"))


def test_a_seg_fits_images_of_every_orientation(tmp_path: Path) -> None:
    masks = by_value(blobs(), "lesion", "organ")
    path = write_seg(tmp_path / "seg.dcm", masks, OBLIQUE)
    for order, flips in ORIENTATIONS:
        expected = {name: reoriented(mask, OBLIQUE, order, flips)[0] for name, mask in masks.items()}
        shape, affine = reoriented(np.empty(SHAPE), OBLIQUE, order, flips)
        found = read_label(path, volume_of(shape.shape, affine), ["lesion", "organ"])
        assert_masks(found, expected)


def test_a_seg_written_in_any_orientation_fits_the_image(tmp_path: Path) -> None:
    masks = by_value(blobs(), "lesion", "organ")
    for order, flips in ORIENTATIONS:
        turned = {name: reoriented(mask, OBLIQUE, order, flips)[0] for name, mask in masks.items()}
        path = write_seg(tmp_path / "seg.dcm", turned, reoriented(blobs(), OBLIQUE, order, flips)[1])
        assert_masks(read_label(path, volume_of(), ["lesion", "organ"]), masks)


@pytest.mark.parametrize("angles", [(0.0, 0.0, 0.0), (0.0, 0.0, 2.0), (0.0, 0.0, 30.0), (20.0, -35.0, 75.0)])
def test_other_grids_are_read_at_the_nearest_voxel_in_millimetres(tmp_path: Path, angles: tuple[float, ...]) -> None:
    shape = (24, 20, 12)
    affine = np.diag([1.1, 0.9, 2.0, 1.0])
    volume = volume_of(shape, affine)
    own = np.eye(4)
    own[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag([1.3, 0.7, 1.7])
    own[:3, 3] = affine[:3, :3] @ [12.013, 10.017, 6.011] - own[:3, :3] @ [6, 8, 5]  # no ties
    label = np.random.default_rng(3).integers(0, 3, (11, 15, 9)).astype(np.uint8)
    label[[0, -1]], label[:, [0, -1]] = 0, 0
    path = write_nifti(tmp_path / "label.nii.gz", label, own)
    own = nib.load(path).affine  # in float32 for most of the way
    expected, is_tied = np.zeros(shape, np.uint8), np.zeros(shape, bool)
    for index in np.ndindex(shape):  # the definition, one voxel at a time
        place = np.linalg.solve(own, affine @ [*index, 1])[:3]
        i, j, k = np.rint(place).astype(int)
        is_tied[index] = (np.abs(np.abs(place - [i, j, k]) - 0.5) < 0.002).any()
        if 0 <= i < 11 and 0 <= j < 15 and 0 <= k < 9:
            expected[index] = label[i, j, k]
    assert (expected == 1).sum() > 100
    assert is_tied.mean() < 0.05
    found = read_label(path, volume, ["lesion", "organ"])
    for value, name in ((1, "lesion"), (2, "organ")):
        assert not ((found.masks[name] != (expected == value)) & ~is_tied).any()


def test_ties_fall_to_the_same_side_everywhere(tmp_path: Path) -> None:
    far = OBLIQUE.copy()
    far[:3, 3] = (-1234.56789, 987.654321, -3210.98765)
    label = np.zeros((10, 10, 10), np.uint8)
    label[2:6, 3, 4:8] = 1
    path = write_nifti(tmp_path / "label.nii", label, far @ np.diag([2, 2, 2, 1]))
    found = read_label(path, volume_of((20, 20, 20), far), ["lesion"]).masks["lesion"]
    # The image's voxel n lies at n / 2 of the label: 4 and, by the tie, 3 have the label's voxel 2.
    expected = np.zeros((20, 20, 20), bool)
    expected[3:11, 5:7, 7:15] = True
    assert np.array_equal(found, expected)


def test_headers_rounded_to_float32_do_not_move_a_label(tmp_path: Path) -> None:
    far = OBLIQUE.copy()
    far[:3, 3] = (-1234.56789, 987.654321, -3210.98765)
    path = write_nifti(tmp_path / "label.nii", blobs(), far)
    found = read_label(path, volume_of(affine=far), ["lesion", "organ"])
    assert_masks(found, by_value(blobs(), "lesion", "organ"))


def test_a_label_a_little_outside_is_cut_off(tmp_path: Path) -> None:
    label = np.zeros((12, 10, 10), np.uint8)
    label[1:, 2:8, 2:8] = 1  # one of eleven planes lies beyond the image: 91 % within
    path = write_nifti(tmp_path / "label.nii", label, np.eye(4))
    found = read_label(path, volume_of((11, 10, 10), np.eye(4)), ["lesion"])
    assert_masks(found, {"lesion": label[:11] == 1})


TINY = make_volume(
    np.zeros((12, 10, 8), np.int16), np.array([[-1, 0, 0, 40.0], [0, -1.5, 0, 9], [0, 0, 2, 3], [0, 0, 0, 1]])
)


def on_tiny(affine: NDArray, shape: tuple[int, int, int] = (12, 10, 8)) -> NDArray:
    """A ball of 4 mm around one place of TINY, as a label of a grid."""
    where = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1) @ affine[:3, :3].T
    return (np.linalg.norm(where + affine[:3, 3] - [35, 2, 11], axis=-1) < 4).astype(np.uint8)


def test_a_label_on_a_finer_grid_is_placed_where_it_lies(tmp_path: Path) -> None:
    fine = TINY.affine @ np.diag([0.5, 0.5, 0.5, 1])
    fine[:3, 3] -= TINY.affine[:3, :3] @ [0.25, 0.25, 0.25]  # the same box
    path = write_nifti(tmp_path / "fine.nii.gz", on_tiny(fine, (24, 20, 16)), fine)
    found = read_label(path, TINY, ["lesion"])
    truth = on_tiny(TINY.affine)
    overlap = 2 * (found.masks["lesion"] & (truth > 0)).sum() / (found.masks["lesion"].sum() + truth.sum())
    assert overlap > 0.85
    assert "a grid of its own (24 x 20 x 16 voxels of 0.5 x 0.75 x 1 mm)" in found.notes[0]
    assert read_label(write_nifti(tmp_path / "own.nii", truth, TINY.affine), TINY, ["lesion"]).notes == ()


@pytest.mark.parametrize(("shift", "said"), [((2, 0, 0), "2 mm"), ((0, 0, -4), "4 mm"), ((0.75, 1.5, 0), "1.68 mm")])
@pytest.mark.parametrize("is_turned", [False, True])
def test_a_label_shifted_against_its_image_is_refused_with_the_millimetres(
    tmp_path: Path, shift: tuple[float, ...], said: str, is_turned: bool
) -> None:
    array, affine = on_tiny(TINY.affine), TINY.affine.copy()
    affine[:3, 3] += shift
    if is_turned:
        array, affine = reoriented(array, affine, (2, 0, 1), (-1, 1, -1))
    path = write_nifti(tmp_path / "label.nii", array, affine)
    assert f"lies {said} off it" in refusal(path, TINY, ("lesion",))
    with pytest.raises(LabelError, match=f"lies {said} off it"):
        check_label(path, TINY, ["lesion"])


def test_a_label_mirrored_against_its_image_is_refused_with_the_millimetres(tmp_path: Path) -> None:
    mirrored = np.diag([-1.0, 1, 1, 1]) @ TINY.affine  # its first axis by LPS, the others by RAS
    path = write_nifti(tmp_path / "label.nii", on_tiny(TINY.affine), mirrored)
    assert "lies 69 mm off it" in refusal(path, TINY, ("lesion",))


def test_a_label_of_another_size_without_a_place_is_refused(tmp_path: Path) -> None:
    def forget(header: nib.Nifti1Header) -> None:
        header["qform_code"] = header["sform_code"] = 0

    path = write_nifti(tmp_path / "label.nii", on_tiny(TINY.affine)[:, :, 2:7], TINY.affine, forget)
    assert "does not say where it lies, and has shape (12, 10, 5)" in refusal(path, TINY, ("lesion",))
    sitk_image = sitk.GetImageFromArray(on_tiny(TINY.affine)[:, :, 2:7].T)
    sitk.WriteImage(sitk_image, str(tmp_path / "label.nrrd"))
    text = (tmp_path / "label.nrrd").read_bytes()
    head, _, voxels = text.partition(b"\n\n")
    lines = [line for line in head.split(b"\n") if not line.startswith((b"space", b"kinds"))]
    (tmp_path / "label.nrrd").write_bytes(b"\n".join([*lines, b"spacings: 1 1.5 2"]) + b"\n\n" + voxels)
    assert "does not say where it lies" in refusal(tmp_path / "label.nrrd", TINY, ("lesion",))


@pytest.mark.parametrize("off", [1e-7, -6e-8, 9e-4])
def test_values_near_whole_numbers_are_whole(tmp_path: Path, off: float) -> None:
    values = blobs() * (1 + off / 2)
    path = write_nifti(tmp_path / "label.nii", values.astype(np.float64), OBLIQUE)
    assert_masks(read_label(path, volume_of(), ["lesion", "organ"]), by_value(blobs(), "lesion", "organ"))


def test_values_may_be_large(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "label.nii", blobs().astype(np.int32) * 100_000, OBLIQUE)
    found = read_label(path, volume_of(), ["lesion"], value_names={100_000: "lesion", 200_000: "organ"})
    assert_masks(found, {"lesion": blobs() == 1})


def test_a_mask_scaled_by_255_is_a_mask(tmp_path: Path) -> None:
    def scaled(header: nib.Nifti1Header) -> None:
        header["scl_slope"], header["scl_inter"] = np.float32(1 / 255), 0

    path = write_nifti(tmp_path / "label.nii", (blobs() == 1).astype(np.uint8) * 255, OBLIQUE, scaled)
    assert_masks(read_label(path, volume_of(), ["lesion"]), by_value(blobs() == 1, "lesion"))


def test_what_training_makes_of_names_that_a_server_lacks_is_said(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "label.nii", blobs(), OBLIQUE)
    names = {1: "lesion", 2: "spleen"}
    assert check_label(path, volume_of(), ["lesion", "spleen"], names) == ()
    (note,) = check_label(path, volume_of(), ["lesion", "organ"], names)
    assert note.startswith("training leaves spleen of label.nii out, for this server's labels are lesion, organ")
    (note,) = check_label(path, volume_of(), ["liver"], names)
    assert note.startswith("training leaves label.nii out: it holds only lesion, spleen, and this server's labels")
    (note,) = check_label(path, volume_of(), ["lesion"])
    assert note == "training leaves label.nii out: its value 2 has no name; submit it with names"
    (note,) = check_label(write_nifti(tmp_path / "no.nii", 0 * blobs(), OBLIQUE), volume_of(), ["lesion"])
    assert note == "no.nii labels nothing: training leaves it out"
    with pytest.raises(LabelError, match="the value 2, which has no name"):
        check_label(path, volume_of(), ["lesion"], {1: "lesion"})


# --------------------------------------------------------------- refusals


def refusal(path: Path, volume: Volume | None = None, labels: tuple[str, ...] = ("lesion", "organ"), **more) -> str:
    with pytest.raises(LabelError) as caught:
        read_label(path, volume or volume_of(), labels, **more)
    message = str(caught.value)
    assert path.name in message
    assert str(path.parent) not in message
    assert "\n" not in message
    return message


def test_a_label_elsewhere_is_refused_with_its_share(tmp_path: Path) -> None:
    label = np.zeros((14, 10, 10), np.uint8)
    label[4:, 2:8, 2:8] = 1
    path = write_nifti(tmp_path / "label.nii", label, np.eye(4))
    message = refusal(path, volume_of((12, 10, 10), np.eye(4)))
    assert "only 80% of what" in message
    assert "some of it 1.5 mm beyond" in message
    away = np.eye(4)
    away[0, 3] = 500.0
    path = write_nifti(tmp_path / "label.nii", label, away)
    assert "only 0% of what" in refusal(path, volume_of((12, 10, 10), np.eye(4)))


def test_the_images_size_under_another_header_is_refused(tmp_path: Path) -> None:
    # What labels the middle would still lie within the image, but not where it was drawn.
    moved = OBLIQUE.copy()
    moved[:3, 3] += OBLIQUE[:3, 2] * 1.2
    message = refusal(write_nifti(tmp_path / "label.nii", blobs(), moved))
    assert "lies 3.6 mm off it (+3.6 mm along k)" in message
    assert "header" in message
    message = refusal(write_nifti(tmp_path / "label.nii", blobs(), np.eye(4)))
    assert "only 0% of its extent lies within the image, and its middle" in message
    assert "its image's size" in message


def test_an_empty_label_is_refused(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "label.nii", np.zeros(SHAPE, np.uint8), OBLIQUE)
    assert "no voxel of lesion, organ" in refusal(path)
    path = write_seg(tmp_path / "seg.dcm", {"Lesion": blobs() == 1}, OBLIQUE)
    assert "only Lesion" in refusal(path)


def test_a_label_between_the_voxels_is_refused_and_one_of_two_reported(tmp_path: Path) -> None:
    fine = np.eye(4)
    fine[:3, :3] /= 4
    label = np.zeros((40, 40, 40), np.uint8)
    label[18, 18, 18] = 1  # at 4.5 mm, where no image voxel has it nearest
    path = write_nifti(tmp_path / "label.nii", label, fine)
    assert "as large as a voxel" in refusal(path, volume_of((10, 10, 10), np.eye(4)))
    label[4:12, 4:12, 4:12] = 2
    found = read_label(
        write_nifti(tmp_path / "label.nii", label, fine), volume_of((10, 10, 10), np.eye(4)), ["lesion", "organ"]
    )
    assert set(found.masks) == {"organ"}
    assert "a grid of its own (40 x 40 x 40 voxels of 0.25 x 0.25 x 0.25 mm)" in found.notes[0]
    assert "lesion of label.nii is smaller" in found.notes[1]


@pytest.mark.parametrize(("value", "said"), [(np.nan, "NaN"), (1.5, "1.5"), (-1.0, "-1"), (1e12, "1e+12")])
def test_values_that_are_no_labels_are_refused(tmp_path: Path, value: float, said: str) -> None:
    label = blobs().astype(np.float64)
    label[3, 3, 3] = value
    assert said in refusal(write_nifti(tmp_path / "label.nii", label, OBLIQUE))


def test_values_without_a_name_are_refused(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "label.nii", blobs() * 2, OBLIQUE)
    message = refusal(path)
    assert "the value 4" in message
    assert "1 is lesion, 2 is organ" in message
    assert "the value 2" in refusal(path, value_names={4: "lesion"})
    path = write_seg_nrrd(tmp_path / "a.seg.nrrd", blobs(), OBLIQUE, [("lesion", 1, 0)])
    assert "the value 2" in refusal(path, value_names={2: "organ"})


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "none.nii.gz")
    (tmp_path / "empty.nii.gz").touch()
    assert "empty" in refusal(tmp_path / "empty.nii.gz")
    (tmp_path / "empty.seg.nrrd").touch()
    assert "empty" in refusal(tmp_path / "empty.seg.nrrd")
    (tmp_path / "label.txt").write_text("1 2 3")
    assert "no known format" in refusal(tmp_path / "label.txt")
    path = write_nifti(tmp_path / "cut.nii.gz", blobs(), OBLIQUE)
    path.write_bytes(path.read_bytes()[:-20])
    assert "cut short" in refusal(path)
    path.with_suffix("").write_bytes(b"what")  # less than a header
    assert "damaged" in refusal(path.with_suffix(""))
    path = write_nifti(tmp_path / "channels.nii.gz", np.stack([blobs(), blobs()], axis=-1), OBLIQUE)
    assert "4 dimensions" in refusal(path)
    assert "MiB" in refusal(write_nifti(tmp_path / "large.nii", blobs(), OBLIQUE), limit_bytes=100)
    (tmp_path / "folder").mkdir()
    assert "no DICOM SEG" in refusal(tmp_path / "folder")


def test_slicer_segmentations_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    path = write_seg_nrrd(tmp_path / "a.seg.nrrd", blobs()[None], OBLIQUE, [("lesion", 1, 1)])
    assert "layer '1'" in refusal(path)
    path = write_seg_nrrd(tmp_path / "a.seg.nrrd", blobs(), OBLIQUE, [("lesion", "one", 0)])
    assert "value 'one'" in refusal(path)
    path = write_seg_nrrd(tmp_path / "a.seg.nrrd", blobs(), OBLIQUE, [("lesion", 1, 0)])
    assert "MiB" in refusal(path, limit_bytes=100)
    path.write_bytes(path.read_bytes()[:-30])
    assert "cut short" in refusal(path)
    path.write_bytes(path.read_bytes().replace(b"encoding: raw", b"encoding: raw\ndata file: /etc/passwd"))
    assert "elsewhere" in refusal(path)


def spoil(name: str):
    """One way to damage a SEG."""

    def edit(data: Dataset) -> None:
        frames = data.PerFrameFunctionalGroupsSequence
        if name == "cut":
            data.PixelData = data.PixelData[:4]
        elif name == "labelmap":
            data.SegmentationType = "LABELMAP"
        elif name == "image":
            data.Modality = "CT"
        elif name == "nameless":
            data.SegmentSequence = data.SegmentSequence[:1]
        elif name == "bits":
            data.BitsAllocated = 8
        elif name == "unplaced":
            del frames[1].PlanePositionSequence
        elif name == "turned":
            frames[1].PlaneOrientationSequence = [dataset(ImageOrientationPatient=[0, 1, 0, 0, 0, 1])]
        elif name == "uneven":
            moved = np.array(frames[1].PlanePositionSequence[0].ImagePositionPatient, float) + 1.1
            frames[1].PlanePositionSequence[0].ImagePositionPatient = moved.round(6).tolist()

    return edit


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("cut", "4 of"),
        ("labelmap", "1 bits per voxel where LABELMAP has 8 or 16"),
        ("image", "without segments"),
        ("nameless", "segment 2"),
        ("bits", "8 bits"),
        ("unplaced", "where its frames lie"),
        ("turned", "different orientation"),
        ("uneven", "uneven"),
    ],
)
def test_segs_that_make_no_sense_are_refused(tmp_path: Path, damage: str, said: str) -> None:
    path = write_seg(tmp_path / "seg.dcm", by_value(blobs(), "lesion", "organ"), OBLIQUE, edit=spoil(damage))
    assert said in refusal(path)


def test_a_seg_of_planes_far_apart_is_not_allowed_to_fill_the_memory(tmp_path: Path) -> None:
    mask = np.zeros((9, 7, 60_000), bool)
    mask[3, 3, [0, 59_999]] = True
    path = write_seg(tmp_path / "seg.dcm", {"lesion": mask}, np.diag([1.0, 1.0, 3.0, 1.0]))
    assert "MiB" in refusal(path, limit_bytes=2**20)


def test_a_seg_cut_anywhere_is_refused_or_read_whole(tmp_path: Path) -> None:
    path = write_seg(tmp_path / "seg.dcm", by_value(blobs(), "lesion", "organ"), OBLIQUE)
    content = path.read_bytes()
    for size in range(140, len(content) - 2, 97):
        path.write_bytes(content[:size])
        assert refusal(path)


# -------------------------------------------------------------- real files


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return path


@pytest.mark.data
def test_a_published_seg_and_its_nifti_agree() -> None:
    folder = shared("dicom/CRLM-CT-1004_CT")
    volume = open_volume(folder / "ct")
    names = ["Right kidney", "Left kidney", "Spleen"]
    seg, nifti = (read_label(folder / name, volume, names) for name in ("seg.dcm", "label.nii.gz"))
    assert {name: int(mask.sum()) for name, mask in seg.masks.items()} == {
        "Right kidney": 32582,
        "Left kidney": 36926,
        "Spleen": 48975,
    }
    assert_masks(seg, dict(nifti.masks))


@pytest.mark.data
def test_the_parser_fixture_of_dcmqi_reads() -> None:
    folder = shared("dicom/dcmqi_ct3_liverSEG")
    found = read_label(folder / "seg_liver.dcm", open_volume(folder / "ct"), ["Liver"])
    assert found.masks["Liver"].sum(axis=(0, 1)).tolist() == [36233, 35645, 35220]
