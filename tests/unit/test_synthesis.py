"""Synthetic patches and phantoms: seeded, varied, and lying where their affine says."""

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from lib.errors import GeometryError
from lib.settings import PRESETS
from lib.synthesis.grid import Grid, apply_axes, gaussian_matrix, slices_matrices, smooth_field
from lib.synthesis.patches import training_patch, training_rng
from lib.synthesis.phantoms import held_out_cases, make_phantom, suggested_click, write_studies
from lib.synthesis.shapes import capsule, ellipsoid

ORIENTATIONS = [
    "".join(pairs[ras][way] for ras, way in zip(order, ways, strict=True))
    for order in permutations(range(3))
    for ways in product((0, 1), repeat=3)
    for pairs in [("RL", "AP", "SI")]
]


@pytest.fixture(scope="module")
def patches():
    rng = training_rng(11)
    return [training_patch(rng) for _ in range(90)]


def test_ellipsoid_distance_by_eye():
    x = np.array([0.0, 3.0, 5.0], np.float32)
    at = (x, np.zeros(1, np.float32), np.zeros(1, np.float32))
    distance = ellipsoid(at, np.zeros(3), np.array([3.0, 3.0, 3.0]), np.eye(3))
    assert distance == pytest.approx([-3.0, 0.0, 2.0], abs=1e-4)


def test_capsule_distance_by_eye():
    x = np.array([-3.0, 0.0, 5.0, 12.0], np.float32)
    at = (x, np.full(1, 2.0, np.float32), np.zeros(1, np.float32))
    distance = capsule(at, np.zeros(3), np.array([10.0, 0.0, 0.0]), 1.0, 1.0)
    assert distance == pytest.approx([np.sqrt(13) - 1, 1.0, 1.0, np.sqrt(8) - 1], abs=1e-5)


def test_apply_axes_is_one_matrix_per_axis():
    rng = np.random.default_rng(0)
    array = rng.standard_normal((3, 4, 5), np.float32)
    first, second, third = (rng.standard_normal((n + 1, n), np.float32) for n in array.shape)
    expected = np.einsum("ai,bj,ck,ijk->abc", first, second, third, array)
    assert apply_axes(array, (first, second, third)) == pytest.approx(expected, abs=1e-4)


def test_gaussian_matrix_equals_scipy_inside():
    line = np.random.default_rng(0).standard_normal(60)
    ours = gaussian_matrix(60, 1.5) @ line
    assert ours[10:50] == pytest.approx(ndimage.gaussian_filter1d(line, 1.5, truncate=6)[10:50], abs=1e-4)


def test_slices_average_then_interpolate():
    average, interpolate = slices_matrices(9, 3.0, 1.0)
    ramp = np.arange(9, dtype=np.float32)
    assert (average @ ramp)[:3] == pytest.approx([1.0, 4.0, 7.0], abs=1e-3)
    assert (interpolate @ (average @ ramp))[1:8] == pytest.approx(ramp[1:8], abs=1e-2)


def test_a_smooth_field_has_unit_deviation_and_is_smooth():
    field = smooth_field(np.random.default_rng(3), Grid.centred((64, 64, 64)), 6.0)
    assert field.std() == pytest.approx(1.0, abs=0.1)
    assert np.abs(np.diff(field, axis=0)).max() < 1.5


def test_refined_grid_keeps_its_centres():
    grid = Grid.centred((4, 3, 2), (1.0, 2.0, 6.0))
    fine = grid.refined((1, 1, 3))
    assert fine.axes[2].tolist() == [-8.0, -6.0, -4.0, -2.0, 0.0, 2.0]
    assert fine.axes[2][1::3].tolist() == grid.axes[2].tolist()


def test_patches_repeat_with_their_seed_and_differ_without():
    (first, first_target), (again, again_target) = (training_patch(training_rng(5)) for _ in range(2))
    other, _ = training_patch(training_rng(6))
    worker, _ = training_patch(training_rng(5, worker=1))
    assert first.tobytes() == again.tobytes()
    assert first_target.tobytes() == again_target.tobytes()
    assert first.tobytes() != other.tobytes()
    assert first.tobytes() != worker.tobytes()


def test_patches_are_what_the_network_takes(patches):
    for image, target in patches:
        assert image.shape == target.shape == (64, 64, 64)
        assert image.dtype == np.float32
        assert target.dtype == np.bool_
        assert np.isfinite(image).all()
        assert image.min() >= -4
        assert image.max() <= 6
        assert 30 <= target.sum() < target.size
    pooled = np.stack([image for image, _ in patches])
    assert abs(pooled.mean()) < 0.6
    assert 0.5 < pooled.std() < 1.6


def test_patches_of_another_size():
    image, target = training_patch(training_rng(1), size=32)
    assert image.shape == target.shape == (32, 32, 32)


def test_targets_span_the_sizes_and_mostly_hold_the_centre(patches):
    diameters = np.array([(6 * target.sum() / np.pi) ** (1 / 3) for _, target in patches])
    assert (diameters < 9).mean() > 0.1
    assert (diameters > 30).mean() > 0.15
    assert ((diameters > 9) & (diameters < 30)).mean() > 0.25
    centred = np.mean([target[32, 32, 32] for _, target in patches])
    assert 0.5 <= centred < 0.95


def test_contrast_is_varied_and_of_both_signs(patches):
    contrasts = []
    for image, target in patches:
        shell = ndimage.binary_dilation(target, iterations=3) & ~target
        contrasts.append(image[target].mean() - image[shell].mean())
    sizes = np.abs(contrasts)
    assert np.mean(np.array(contrasts) > 0) == pytest.approx(0.5, abs=0.25)
    assert (sizes < 0.4).mean() > 0.1
    assert (sizes > 1.2).mean() > 0.1


def test_a_phantom_repeats_with_its_seed():
    first, again, other = (make_phantom(seed, (40, 40, 20), (2.0, 2.0, 3.0)) for seed in (1, 1, 2))
    assert first.array.tobytes() == again.array.tobytes()
    assert first.label_map.tobytes() == again.label_map.tobytes()
    assert first.array.tobytes() != other.array.tobytes()


@pytest.mark.parametrize("family", ["ct", "mr"])
def test_a_phantom_is_int16_with_every_label_named(family):
    phantom = make_phantom(3, (128, 128, 40), (2.0, 2.0, 5.0), family=family)
    assert phantom.array.dtype == np.int16
    assert phantom.label_map.dtype == np.uint8
    assert phantom.names[0] == "lesion"
    assert {"liver", "aorta", "spine"} <= set(phantom.names)
    assert phantom.label_map.max() <= len(phantom.names)
    assert 2 <= len(phantom.lesions()) <= 4
    if family == "ct":
        liver = phantom.array[phantom.structure("liver")].mean()
        assert phantom.array.min() < -900
        assert 0 < liver < 220
    else:
        assert phantom.array.min() >= 0


def test_ct_phantom_values_fit_the_preset():
    """Undoing the preset's normalisation gives HU: fat below water, soft tissue inside of the window."""
    phantom = make_phantom(4, (96, 96, 48), (3.0, 3.0, 4.0))
    preset = PRESETS["ct"]
    body = phantom.array[phantom.label_map > 0]
    assert preset.low < np.median(body) < preset.high


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_affine_names_the_axes_and_the_patient_stays_put(orientation):
    """Every orientation shows one patient: each native voxel holds what the RAS phantom has at that mm."""
    ras_shape, ras_spacing = (36, 28, 20), (1.0, 1.5, 2.0)
    reference = make_phantom(9, ras_shape, ras_spacing)
    order = [next(n for n, pair in enumerate(("RL", "AP", "SI")) if code in pair) for code in orientation]
    shape = tuple(ras_shape[ras] for ras in order)
    phantom = make_phantom(9, shape, tuple(ras_spacing[ras] for ras in order), orientation)
    assert "".join(nib.aff2axcodes(phantom.affine)) == orientation
    assert phantom.array.shape == shape
    ijk = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1).reshape(-1, 3)
    mm = nib.affines.apply_affine(phantom.affine, ijk)
    there = np.rint(nib.affines.apply_affine(np.linalg.inv(reference.affine), mm)).astype(int)
    assert (phantom.array[tuple(ijk.T)] == reference.array[tuple(there.T)]).all()
    assert (phantom.label_map[tuple(ijk.T)] == reference.label_map[tuple(there.T)]).all()


def test_rotation_turns_patient_and_grid_together():
    angle = np.deg2rad(20)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1.0]])
    straight = make_phantom(2, (32, 32, 16), (1.0, 1.0, 3.0), "LPS")
    oblique = make_phantom(2, (32, 32, 16), (1.0, 1.0, 3.0), "LPS", rotation=turn)
    assert (straight.array == oblique.array).all()
    corner = np.array([31, 0, 15, 1.0])
    assert (oblique.affine @ corner)[:3] == pytest.approx(turn @ (straight.affine @ corner)[:3])
    assert np.linalg.norm(oblique.affine[:3, :3], axis=0) == pytest.approx([1.0, 1.0, 3.0])


@pytest.mark.parametrize("orientation", ["RAX", "RRS", "RA", "ras"])
def test_an_orientation_without_three_axes_is_refused(orientation):
    with pytest.raises(GeometryError, match=f"'{orientation}' does not name three axes"):
        make_phantom(1, (16, 16, 16), (1.0, 1.0, 1.0), orientation)


def test_held_out_cases_repeat_are_varied_and_have_one_target_each():
    cases, again = list(held_out_cases(4, seed=1)), list(held_out_cases(2, seed=1))
    for (array, affine, label), (array_again, _, label_again) in zip(cases[:2], again, strict=True):
        assert array.tobytes() == array_again.tobytes()
        assert label.tobytes() == label_again.tobytes()
        assert array.shape == label.shape
        assert array.dtype == np.int16
        assert label.dtype == np.bool_
        assert label.sum() >= 30
        assert abs(np.linalg.det(affine)) > 0
    assert len({case[0].shape for case in cases}) > 1


def test_demo_studies_are_images_only_and_their_click_is_in_the_lesion(tmp_path):
    studies = write_studies(tmp_path, count=2, seed=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo_ct_1.nii.gz", "demo_ct_2.nii.gz"]
    for number, study in enumerate(studies[:1], start=1):
        image = nib.load(study.path)
        phantom = make_phantom(3 + number, orientation=("RAS", "LPS", "LAS")[number % 3])
        assert image.get_data_dtype() == np.int16
        assert image.shape == (192, 192, 96)
        assert (np.asarray(image.dataobj) == phantom.array).all()
        for affine, code in (image.get_sform(coded=True), image.get_qform(coded=True)):
            assert affine == pytest.approx(phantom.affine, abs=1e-3)
            assert code == 1
        assert phantom.lesions()[0][study.click]
        assert study.click == suggested_click(phantom)


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(image, path):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(nib, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        write_studies(tmp_path, count=1)
    assert list(tmp_path.iterdir()) == []
