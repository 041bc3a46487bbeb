"""Clicks, patches and voxels meet at the same place, whatever way a volume is stored."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from lib.errors import GeometryError
from lib.geometry import PatchGrid, canonical_axes, check_affine, map_indices, same_place, spacing_of

ORIENTATIONS = [(order, flips) for order in permutations(range(3)) for flips in product((1, -1), repeat=3)]
SHAPE = (23, 19, 11)


def affine_of(spacing: tuple[float, float, float], degrees: tuple[float, float, float], shear: float) -> NDArray:
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    lean = np.eye(3) + shear * np.array([[0.0, 1.0, -0.5], [0.0, 0.0, 0.7], [0.0, 0.0, 0.0]])
    affine[:3, :3] = turn @ lean @ np.diag(spacing)
    affine[:3, 3] = (-112.5, 40.25, 913.0)
    return affine


AFFINES = {
    "isotropic": affine_of((1.0, 1.0, 1.0), (0, 0, 0), 0.0),
    "anisotropic": affine_of((0.7, 0.7, 5.0), (0, 0, 0), 0.0),
    "oblique": affine_of((0.8, 0.9, 2.5), (17, -23, 31), 0.0),
    "sheared": affine_of((0.7, 0.7, 5.0), (-8, 12, 20), 0.08),
}


def stored(array: NDArray, affine: NDArray, order: tuple[int, ...], flips: tuple[int, ...]) -> tuple[NDArray, NDArray]:
    """The same voxels at the same millimetres, with the axes in another order and some running the other way."""
    turned, moved = array.transpose(order), affine.copy()
    moved[:3, :3] = affine[:3, list(order)]
    for axis, flip in enumerate(flips):
        if flip < 0:
            turned = np.flip(turned, axis)
            moved[:3, 3] += moved[:3, axis] * (turned.shape[axis] - 1)
            moved[:3, axis] *= -1
    return turned, moved


def in_mm(affine: NDArray, points: NDArray) -> NDArray:
    return points @ affine[:3, :3].T + affine[:3, 3]


def test_no_click_is_misplaced_in_any_orientation() -> None:
    rng = np.random.default_rng(20)
    tried = misplaced = 0
    for base, (order, flips) in product(AFFINES.values(), ORIENTATIONS):
        array, affine = stored(np.zeros(SHAPE), base, order, flips)
        clicks = rng.integers(0, array.shape, size=(60, 3)).astype(float)
        grid = PatchGrid.around(affine, clicks[0], size=32, spacing_mm=float(rng.uniform(0.6, 2.5)))
        grid = grid.shifted(rng.integers(-40, 40, size=3))
        patch_affine = affine @ grid.to_volume
        through_grid = grid.indices(clicks)
        through_map = map_indices(clicks, affine, patch_affine)
        back = np.stack(
            [
                in_mm(grid.to_volume, through_grid),
                in_mm(grid.to_volume, through_map),
                map_indices(through_grid, patch_affine, affine),
                # The long way, which shares no code with geometry.py: equal millimetres mean equal places.
                (np.linalg.inv(affine) @ np.c_[in_mm(patch_affine, through_grid), np.ones(len(clicks))].T).T[:, :3],
            ]
        )
        tried += len(clicks)
        misplaced += int((np.abs(back - clicks) > 0.5).any(axis=(0, 2)).sum())
        assert np.abs(back - clicks).max() < 1e-6
    print(f"clicks tried: {tried}, misplaced: {misplaced}")
    assert tried >= 10_000
    assert misplaced == 0


def test_a_bright_voxel_is_found_in_the_patch_and_pasted_back_onto_itself() -> None:
    rng = np.random.default_rng(21)
    for base, (order, flips) in product(AFFINES.values(), ORIENTATIONS):
        array, affine = stored(np.zeros(SHAPE, np.int16), base, order, flips)
        click = tuple(rng.integers(1, np.array(array.shape) - 1))  # a border voxel's value repeats outwards
        array = array.copy()
        array[click] = 1000
        first = rng.integers(np.array(click) - 1, np.array(click) + 2)
        grid = PatchGrid.around(affine, first, size=24, spacing_mm=0.6)
        patch = grid.sample(array, fill=0.0)
        brightest = np.array(np.unravel_index(patch.argmax(), patch.shape), dtype=float)[None]
        assert np.abs(grid.indices(np.array([click])) - brightest).max() <= 0.5 + 1e-6
        box, pasted = grid.paste_values(patch, array.shape)
        label = np.zeros(array.shape, np.float32)
        label[box] = pasted
        assert np.unravel_index(label.argmax(), label.shape) == click


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("base", AFFINES.values(), ids=AFFINES.keys())
def test_a_patch_shows_the_millimetres_its_affine_says(base: NDArray, antialias: bool) -> None:
    rng = np.random.default_rng(22)
    for order, flips in ORIENTATIONS:
        empty, affine = stored(np.zeros(SHAPE), base, order, flips)
        shape = np.array(empty.shape)
        centre = rng.uniform(0, shape - 1)
        grid = PatchGrid.around(affine, centre, size=9, spacing_mm=1.3)
        places = np.moveaxis(np.indices((9, 9, 9)), 0, -1).reshape(-1, 3).astype(float)
        at = in_mm(grid.to_volume, places)
        # Within a kernel of the border the border's value is repeated: millimetres are linear further in only.
        margin = np.maximum(1.0, 1.3 / spacing_of(affine)) if antialias else np.zeros(3)
        inner = ((at >= margin) & (at <= shape - 1 - margin)).all(axis=1)
        outside = ((at < -0.51) | (at > shape - 0.49)).any(axis=1)
        expected = in_mm(affine, at)
        # A widened triangle on whole voxels leans a few hundredths of a (small) voxel to a side.
        tolerance = 0.1 if antialias else 1e-3
        coordinates = in_mm(affine, np.moveaxis(np.indices(empty.shape), 0, -1).reshape(-1, 3))
        for component in range(3):
            array = coordinates[:, component].reshape(empty.shape).astype(np.float32)
            patch = grid.sample(array, fill=-5000.0, antialias=antialias).reshape(-1)
            assert np.abs(patch[inner] - expected[inner, component]).max(initial=0.0) < tolerance
            assert (patch[outside] == -5000.0).all()


@pytest.mark.parametrize("name", ["isotropic", "anisotropic", "oblique", "sheared"])
def test_the_same_body_gives_the_same_patch_however_it_is_stored(name: str) -> None:
    rng = np.random.default_rng(23)
    array = rng.normal(size=SHAPE).astype(np.float32)
    base = AFFINES[name]
    centre = np.array([[9.0, 7.0, 4.0]])
    expected = PatchGrid.around(base, centre[0], 12, 1.7).sample(array, fill=9.0)
    for order, flips in ORIENTATIONS:
        turned, affine = stored(array, base, order, flips)
        there = map_indices(centre, base, affine)[0]
        grid = PatchGrid.around(affine, there, 12, 1.7)
        assert np.allclose(grid.sample(turned, fill=9.0), expected, atol=1e-5)
        box, pasted = grid.paste_values(expected, turned.shape)
        whole = np.zeros(turned.shape, np.float32)
        whole[box] = pasted
        base_box, base_pasted = PatchGrid.around(base, centre[0], 12, 1.7).paste_values(expected, SHAPE)
        base_whole = np.zeros(SHAPE, np.float32)
        base_whole[base_box] = base_pasted
        assert np.allclose(whole, stored(base_whole, base, order, flips)[0], atol=1e-5)


@pytest.mark.parametrize("name", AFFINES)
def test_the_same_place_of_the_same_body_is_the_same_patch_however_it_is_stored(name: str) -> None:
    base = AFFINES[name]
    body = np.random.default_rng(8).normal(size=SHAPE).astype(np.float32)
    grid = PatchGrid.around(base, (14.0, 6.0, 7.0), size=9, spacing_mm=1.3).shifted((1, -2, 3))
    patch = grid.sample(body, fill=0.0)
    for order, flips in ORIENTATIONS:
        array, affine = stored(body, base, order, flips)
        there = same_place(grid, base, SHAPE, affine, array.shape)
        np.testing.assert_allclose(there.sample(array, fill=0.0), patch, atol=1e-4)


def test_the_same_place_is_as_far_along_by_eye() -> None:
    # From the left quarter and the lower end of one volume to those of another, twice as wide and stored to the left.
    affine, other = np.eye(4), np.diag([-1.0, 1.0, 2.0, 1.0])
    grid = PatchGrid.around(affine, (1.5, 3.5, -0.5), size=4, spacing_mm=1.0)
    there = same_place(grid, affine, (8, 8, 8), other, (16, 4, 10))
    assert there.centre == (11.5, 1.5, -0.5)
    assert there.spacing_mm == 1.0


def test_patch_axes_run_to_superior_anterior_and_right() -> None:
    for base, (order, flips) in product(AFFINES.values(), ORIENTATIONS):
        _, affine = stored(np.zeros(SHAPE), base, order, flips)
        patch = affine @ PatchGrid.around(affine, (3, 3, 3), 8, 1.5).to_volume
        assert (patch[[2, 1, 0], [0, 1, 2]] > 0).all()
        assert np.abs(patch[:3, :3]).argmax(axis=0).tolist() == [2, 1, 0]
        assert np.allclose(np.linalg.norm(patch[:3, :3], axis=0), 1.5)


def test_axes_by_eye() -> None:
    # Voxel axes P, S, R: j runs up, i runs to the back, k runs to the right.
    affine = np.array([[0, 0, 2.0, 0], [-1.0, 0, 0, 0], [0, 0.5, 0, 0], [0, 0, 0, 1]])
    assert canonical_axes(affine) == ((1, 0, 2), (1, -1, 1))
    grid = PatchGrid.around(affine, (10, 20, 30), size=4, spacing_mm=1.0)
    assert grid.steps == (2.0, -1.0, 0.5)
    assert grid.to_volume.tolist() == [[0, -1, 0, 12], [2, 0, 0, 16], [0, 0, 0.5, 29], [0, 0, 0, 1]]
    assert grid.indices([[10, 20, 30], [9, 22, 31]]).tolist() == [[2, 2, 2], [3, 3, 4]]


@pytest.mark.parametrize(
    "degrees", [(45, 0, 0), (0, 45, 0), (0, 0, 45), (45, 45, 45), (45, -45, 135), (54.7356, 45, 0)]
)
def test_axes_that_tie_are_still_a_permutation(degrees: tuple[float, float, float]) -> None:
    base = affine_of((1, 1, 1), degrees, 0.0)
    for order, flips in ORIENTATIONS:
        _, affine = stored(np.zeros(SHAPE), base, order, flips)
        axes, signs = canonical_axes(affine)
        assert sorted(axes) == [0, 1, 2]
        assert set(signs) <= {1, -1}
        assert canonical_axes(affine.copy()) == (axes, signs)


def test_a_patch_over_the_edge_is_filled_by_eye() -> None:
    array = np.arange(1, 9, dtype=np.int16).reshape(2, 2, 2)  # value 1 + 4i + 2j + k
    patch = PatchGrid.around(np.eye(4), (1, 1, 1), size=3, spacing_mm=1.0).sample(array, fill=-1.0)
    # Axes are (d, h, w) = (k, j, i).
    assert patch.tolist() == [
        [[1, 5, -1], [3, 7, -1], [-1, -1, -1]],
        [[2, 6, -1], [4, 8, -1], [-1, -1, -1]],
        [[-1, -1, -1], [-1, -1, -1], [-1, -1, -1]],
    ]


def test_half_steps_interpolate_and_the_border_reaches_half_a_voxel_by_eye() -> None:
    array = np.array([10.0, 20.0]).reshape(2, 1, 1)
    grid = PatchGrid.around(np.eye(4), (0.5, 0, 0), size=7, spacing_mm=0.5)
    line = grid.sample(array, fill=-1.0)[3, 3]  # along w, which is i: -1, -0.5, 0, 0.5, 1, 1.5, 2
    assert line.tolist() == [-1, 10, 10, 15, 20, 20, -1]


def test_antialias_averages_the_voxels_between_samples_by_eye() -> None:
    array = np.array([0.0, 0.0, 8.0, 0.0, 0.0, 0.0, 0.0, 8.0]).reshape(8, 1, 1)
    grid = PatchGrid.around(np.eye(4), (3, 0, 0), size=3, spacing_mm=2.0)
    assert grid.sample(array, fill=-1.0)[1, 1].tolist() == [2, 2, 0]
    assert grid.sample(array, fill=-1.0, antialias=False)[1, 1].tolist() == [0, 0, 0]


def test_pasting_by_eye() -> None:
    affine = np.diag([2.0, 1.0, -1.0, 1.0])  # i has voxels of 2 mm, k runs down
    grid = PatchGrid.around(affine, (1, 0, 0), size=3, spacing_mm=1.0)
    values = np.zeros((3, 3, 3), np.float32)
    values[1, 1] = [5, 6, 7]  # along w, at i = 0.5, 1, 1.5
    values[0, 1, 1] = 9  # one sample down, which is k = 1
    box, pasted = grid.paste_values(values, (4, 1, 2))
    assert box == (slice(1, 2), slice(0, 1), slice(0, 2))
    assert pasted.tolist() == [[[6, 9]]]
    fine = PatchGrid.around(np.eye(4), (2, 0, 0), size=3, spacing_mm=2.0)
    box, pasted = fine.paste_values(values, (5, 1, 1))
    assert box == (slice(0, 5), slice(0, 1), slice(0, 1))
    assert pasted[:, 0, 0].tolist() == [5, 5.5, 6, 6.5, 7]


@settings(max_examples=60, deadline=None)
@given(
    spacing=st.tuples(*[st.sampled_from([0.3, 0.5, 0.7, 0.9766, 1.0, 1.25, 3.0])] * 3),
    spacing_mm=st.sampled_from([0.5, 0.75, 1.0, 1.5, 2.0]),
    centre=st.tuples(*[st.integers(0, 12)] * 3),
    name=st.sampled_from(ORIENTATIONS),
)
def test_neighbouring_patches_tile_the_volume(
    spacing: tuple[float, ...], spacing_mm: float, centre: tuple[int, ...], name: tuple[tuple[int, ...], ...]
) -> None:
    array, affine = stored(np.zeros((13, 13, 13), np.int16), np.diag([*spacing, 1.0]), *name)
    first = PatchGrid.around(affine, centre, size=9, spacing_mm=spacing_mm)
    for axis in range(3):
        owners = np.zeros(array.shape, int)
        for step in range(-12, 13):
            grid = first.shifted(np.eye(3)[axis] * 9 * step)
            points = np.argwhere(np.ones(array.shape, bool))
            # The other two axes are as they are: follow one row of patches, through the whole volume.
            inside = grid.contains(points)
            try:
                box = grid.box(array.shape)
            except GeometryError:
                assert not inside.any()
                continue
            lit = np.zeros(array.shape, bool)
            lit[box] = True
            assert np.array_equal(lit.reshape(-1), inside)
            owners += lit
        lit = np.zeros(array.shape, bool)
        lit[first.box(array.shape)] = True
        native = first.axes[axis]
        assert (owners == lit.any(axis=native, keepdims=True)).all()


def test_contains_keeps_a_margin() -> None:
    grid = PatchGrid.around(np.eye(4), (10, 10, 10), size=8, spacing_mm=1.0)  # covers 6 to 13
    points = [[5, 10, 10], [6, 10, 10], [7, 10, 10], [13, 10, 10], [14, 10, 10]]
    assert grid.contains(points).tolist() == [False, True, True, True, False]
    assert grid.contains(points, margin=1).tolist() == [False, False, True, False, False]
    assert grid.contains([]).tolist() == []


def test_the_key_tells_patches_apart_and_survives_a_round_trip() -> None:
    grid = PatchGrid.around(AFFINES["oblique"], (3, 4, 5), size=8, spacing_mm=1.1)
    there_and_back = grid.shifted((8, 0, -8)).shifted((-8, 0, 8))
    assert there_and_back.key == grid.key
    assert len({grid.key, grid.shifted((8, 0, 0)).key, grid.shifted((0, 8, 0)).key}) == 3
    moved = grid.shifted((8, 0, 0))
    assert np.allclose(moved.indices([[3, 4, 5]]), grid.indices([[3, 4, 5]]) - [8, 0, 0])


def test_a_patch_beside_the_volume_is_all_fill() -> None:
    grid = PatchGrid.around(np.eye(4), (0, 0, 0), size=4, spacing_mm=1.0).shifted((0, 0, 40))
    assert (grid.sample(np.ones((5, 5, 5), np.int16), fill=3.0) == 3.0).all()


def test_large_boxes_are_sampled_in_slabs_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.asfortranarray(np.random.default_rng(5).normal(size=SHAPE).astype(np.float32))
    grid = PatchGrid.around(AFFINES["oblique"], (9, 7, 4), 12, 1.7)
    whole = grid.sample(array, fill=0.0)
    monkeypatch.setattr("lib.geometry.SLAB_VOXELS", 200)
    assert np.allclose(grid.sample(array, fill=0.0), whole, atol=1e-6)
    assert np.allclose(grid.sample(np.ascontiguousarray(array), fill=0.0), whole, atol=1e-6)


def test_spacing_is_read_along_the_voxel_axes() -> None:
    assert np.allclose(spacing_of(AFFINES["oblique"]), (0.8, 0.9, 2.5))


@pytest.mark.parametrize(
    ("affine", "message"),
    [
        (np.eye(3), "4 x 4 matrix"),
        (np.diag([1.0, np.nan, 1.0, 1.0]), "not finite"),
        (np.diag([1.0, 1.0, 0.0, 1.0]), "singular"),
        (np.array([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "in one plane"),
        (np.diag([1.0, 1.0, 1.0, 2.0]), "last row"),
    ],
)
def test_useless_affines_are_refused(affine: NDArray, message: str) -> None:
    with pytest.raises(GeometryError, match=message):
        check_affine(affine)


def test_useless_patches_and_points_are_refused() -> None:
    grid = PatchGrid.around(np.eye(4), (0, 0, 0), size=4, spacing_mm=1.0)
    with pytest.raises(GeometryError, match="at least one sample"):
        PatchGrid.around(np.eye(4), (0, 0, 0), size=0, spacing_mm=1.0)
    with pytest.raises(GeometryError, match="more than 0 mm, but it is -1"):
        PatchGrid.around(np.eye(4), (0, 0, 0), size=4, spacing_mm=-1.0)
    with pytest.raises(GeometryError, match=r"holds no voxel of the volume of shape \(5, 5, 5\)"):
        grid.shifted((0, 0, 40)).box((5, 5, 5))
    with pytest.raises(GeometryError, match=r"cannot paste values of shape \(4, 4, 3\)"):
        grid.paste_values(np.zeros((4, 4, 3), np.float32), (5, 5, 5))
    with pytest.raises(GeometryError, match=r"shape \(N, 3\), but theirs is \(1, 2\)"):
        grid.indices([[1, 2]])
    with pytest.raises(GeometryError, match="finite"):
        map_indices([[0, np.inf, 0]], np.eye(4), np.eye(4))
