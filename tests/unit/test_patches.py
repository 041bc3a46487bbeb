"""How patches cover an object: by eye on grids of a few voxels."""

import numpy as np
import pytest

from lib.boxes import overlap, relative
from lib.geometry import PatchGrid
from lib.images.volumes import make_volume
from lib.interactive.patches import blend, grids_over, is_covered, neighbours, opens_patch, reaches_border, tapered

IDENTITY = np.eye(4)


MIDDLE = np.array([[10, 10, 10]])


def volume_of(shape, affine=IDENTITY):
    return make_volume(np.zeros(shape, np.int16), affine)


def one_grid(volume, centre, size=8, spacing_mm=1.0):
    return PatchGrid.around(volume.affine, centre, size, spacing_mm)


def margin_with(size, *boxes):
    """-1 everywhere, and 1 in the boxes (d, h, w)."""
    margin = np.full((size,) * 3, -1.0, np.float32)
    for box in boxes:
        margin[box] = 1.0
    return margin


@pytest.mark.parametrize(("i", "opens"), [(50, False), (61, False), (62, True), (90, True), (38, False), (37, True)])
def test_a_click_opens_a_patch_outside_or_near_the_border_of_others(i, opens):
    """The patch of a click at 50 has the samples 34 to 65; an eighth of its side, 4 samples, counts as near."""
    volume = volume_of((100, 100, 100))
    grid = one_grid(volume, (50, 50, 50), size=32)
    click = np.array([i, 50, 50])
    assert opens_patch(click, [])
    assert opens_patch(click, [grid]) == opens
    assert not opens_patch(click, [grid, one_grid(volume, (i, 50, 50), size=32)])


def test_an_object_reaches_the_border_where_it_goes_on():
    volume = volume_of((40, 40, 40))
    grid = one_grid(volume, (20, 20, 20))
    assert reaches_border(grid, margin_with(8, np.s_[6:, 2:6, 2:6]), volume)
    assert not reaches_border(grid, margin_with(8, np.s_[6:7, 2:6, 2:6]), volume)
    assert not reaches_border(grid, margin_with(8, np.s_[6:, 2:3, 2:4]), volume)  # too few voxels
    small = volume_of((8, 8, 8))
    assert not reaches_border(one_grid(small, (4, 4, 4)), margin_with(8, np.s_[:, :, :]), small)


def test_an_object_at_a_face_goes_on_in_the_patch_next_to_it():
    volume = volume_of((40, 40, 40))
    grid = one_grid(volume, (20, 20, 20))
    ((neighbour, points),) = neighbours(grid, margin_with(8, np.s_[6:, 2:6, 2:6]), volume)
    assert neighbour.offset == (5, 0, 0)
    assert neighbour.box(volume.shape) == (slice(16, 24), slice(16, 24), slice(21, 29))  # d runs along k
    # Sample 4 is the click; the deepest shared voxel and the middle of the face are both (7, 3, 3) in (d, h, w).
    assert points.tolist() == [[19, 19, 23], [19, 19, 23]]


def test_pseudo_clicks_are_the_deepest_voxel_both_see_and_one_of_the_face():
    volume = volume_of((40, 40, 40))
    grid = one_grid(volume, (20, 20, 20), size=16)
    # The shared slab is w < 6: a cube of 5 at its far side, and a thin bridge of 2 x 2 to the face.
    margin = margin_with(16, np.s_[8:13, 8:13, 1:6], np.s_[9:11, 9:11, 0:1])
    ((neighbour, points),) = neighbours(grid, margin, volume)
    assert neighbour.offset == (0, 0, -10)
    middle, face = points.tolist()
    assert middle[1:] == [22, 22]
    assert middle[0] in (15, 16, 17)  # w = 3, 4 or 5; all as deep
    assert face == [12, 21, 21]


@pytest.mark.parametrize(
    ("axis", "side", "offset"),
    [
        (0, 0, (-5, 0, 0)),
        (0, -1, (5, 0, 0)),
        (1, 0, (0, -5, 0)),
        (1, -1, (0, 5, 0)),
        (2, 0, (0, 0, -5)),
        (2, -1, (0, 0, 5)),
    ],
)
def test_every_face_has_its_neighbour(axis, side, offset):
    volume = volume_of((40, 40, 40))
    box = [slice(3, 5)] * 3
    box[axis] = slice(-1, None) if side else slice(1)
    ((neighbour, points),) = neighbours(one_grid(volume, (20, 20, 20)), margin_with(8, tuple(box)), volume)
    assert neighbour.offset == offset
    assert neighbour.contains(points).all()


def test_few_voxels_at_a_face_are_no_reason_to_look_further():
    volume = volume_of((40, 40, 40))
    grid = one_grid(volume, (20, 20, 20))
    assert neighbours(grid, margin_with(8, np.s_[7, 0:3, 3]), volume) == []
    assert len(neighbours(grid, margin_with(8, np.s_[7, 1:5, 3]), volume)) == 1
    assert neighbours(grid, margin_with(8, np.s_[1:7, 1:7, 1:7]), volume) == []


def test_nothing_goes_on_beyond_the_volume():
    everything = margin_with(8, np.s_[:, :, :])
    inside = volume_of((8, 8, 8))
    assert neighbours(one_grid(inside, (4, 4, 4)), everything, inside) == []
    longer = volume_of((8, 8, 9))
    ((neighbour, _),) = neighbours(one_grid(longer, (4, 4, 4)), everything, longer)
    assert neighbour.offset == (5, 0, 0)


def test_what_the_network_sees_outside_of_the_volume_does_not_count():
    volume = volume_of((40, 40, 40))
    grid = one_grid(volume, (1, 20, 20))  # w < 3 lies outside
    assert neighbours(grid, margin_with(8, np.s_[:, :, :3]), volume) == []
    assert len(neighbours(grid, margin_with(8, np.s_[:, :, :4]), volume)) == 4


def test_a_neighbour_that_lies_between_thick_slices_has_no_news():
    volume = volume_of((40, 40, 5), np.diag([1.0, 1.0, 20.0, 1.0]))
    found = neighbours(one_grid(volume, (20, 20, 2)), margin_with(8, np.s_[:, :, :]), volume)
    assert sorted(neighbour.offset for neighbour, _ in found) == [(0, -5, 0), (0, 0, -5), (0, 0, 5), (0, 5, 0)]


def test_a_patch_is_covered_where_its_middle_is():
    volume = volume_of((40, 40, 40))
    grid = one_grid(volume, (20, 20, 20))
    assert is_covered(grid, [grid])
    assert not is_covered(grid, [])
    assert is_covered(grid.shifted((3, 0, 0)), [grid])
    assert not is_covered(grid.shifted((5, 0, 0)), [grid])  # a neighbour
    assert not is_covered(grid.shifted((5, 0, 0)), [grid, grid.shifted((0, 5, 0))])
    assert is_covered(one_grid(volume, (22, 18, 20)), [grid])  # of another click


@pytest.mark.parametrize("affine", [np.eye(4), np.diag([-0.7, 0.9, 3.0, 1.0])], ids=["1 mm", "flipped, anisotropic"])
def test_patches_that_agree_blend_to_what_they_say(affine):
    volume = volume_of((60, 50, 20), affine)
    grid = one_grid(volume, (30, 25, 10), size=16)
    grids = [grid, grid.shifted((10, 0, 0)), grid.shifted((0, -10, 0)), grid.shifted((0, -10, 10))]
    box, blended = blend([(each, np.full((16,) * 3, 2.5, np.float32)) for each in grids], volume, MIDDLE)
    is_covered_by_one = np.zeros(volume.shape, bool)
    for each in grids:
        is_covered_by_one[each.box(volume.shape)] = True
    inside = is_covered_by_one[box]
    assert not inside.all()
    np.testing.assert_allclose(blended[inside], 2.5, rtol=1e-5)
    assert (blended[~inside] == -np.inf).all()
    is_covered_by_one[box] = False
    assert not is_covered_by_one.any()


def test_patches_that_disagree_blend_without_a_seam():
    volume = volume_of((8, 8, 60))
    grid = one_grid(volume, (4, 4, 20), size=16)
    parts = [(grid, np.ones((16,) * 3, np.float32)), (grid.shifted((10, 0, 0)), -np.ones((16,) * 3, np.float32))]
    box, blended = blend(parts, volume, np.array([[4, 4, 12], [4, 4, 37]]))
    along = blended[4, 4]
    assert box[2] == slice(12, 38)
    assert along[:10].tolist() == pytest.approx([1.0] * 10)  # the first patch alone: samples 12 to 21
    assert along[16:].tolist() == pytest.approx([-1.0] * 10)
    assert (np.diff(along[9:17]) <= 0).all()
    assert np.abs(np.diff(along)).max() < 0.55
    assert along[12] == pytest.approx(-along[13])  # equal shares half-way


@pytest.mark.parametrize(
    "affine",
    [
        np.eye(4),
        np.diag([-0.7, 0.9, 5.0, 1.0]),
        np.array([[0, 0.6, -2.0, 3], [0.5, 0.3, 1.0, 0], [1.2, 0, 0, 9], [0, 0, 0, 1]]),
    ],
    ids=["1 mm", "flipped, anisotropic", "oblique"],
)
def test_what_is_blended_of_an_object_is_all_of_it(affine):
    """However small the box, no voxel of the object is missing from it, and those in it are as they were."""
    volume = volume_of((40, 36, 24), affine)
    rng = np.random.default_rng(5)
    n_shown = 0
    for number in range(20):
        grid = one_grid(volume, rng.integers(4, 20, 3), size=16)
        grids = [grid, grid.shifted((10, 0, 0)), grid.shifted((0, -10, 0))][: 1 + number % 3]
        parts = [(each, np.where(rng.random((16,) * 3) < 0.002, 3.0, -1.0).astype(np.float32)) for each in grids]
        every_corner = np.array([[0, 0, 0], np.array(volume.shape) - 1])
        everything, (box, blended) = blend(parts, volume, every_corner)[1], blend(parts, volume, MIDDLE)
        object_elsewhere = everything > 0
        object_elsewhere[box] = False
        n_shown += (everything > 0).any()
        assert not object_elsewhere.any()
        np.testing.assert_allclose(blended, everything[box], rtol=1e-4, atol=1e-5)
    assert n_shown > 10  # some samples fall between thick slices


def test_an_object_that_no_sample_shows_leaves_the_clicked_voxels():
    volume = volume_of((20, 20, 20))
    grid = one_grid(volume, (10, 10, 10), size=16)
    box, blended = blend([(grid, np.full((16,) * 3, -1.0, np.float32))], volume, np.array([[9, 10, 11], [9, 12, 4]]))
    assert box == (slice(9, 10), slice(10, 13), slice(4, 12))
    assert (blended < 0).all()


def test_tapered_answers_come_with_their_weights():
    volume = volume_of((20, 20, 20))
    grid = one_grid(volume, (10, 10, 10), size=16)
    box, weighted, weights = tapered(grid, np.full((16,) * 3, -3.0, np.float32), volume)
    assert weighted.shape == weights.shape == (16, 16, 16)
    assert box == (slice(2, 18),) * 3
    np.testing.assert_allclose(weighted, -3 * weights, rtol=1e-5)
    assert weights.min() > 0
    assert weights[8, 8, 8] == pytest.approx(1.0, abs=1e-3)
    assert (weights[0] < 0.02).all()


@pytest.mark.parametrize(
    ("shape", "spacing", "count"),
    [
        ((8, 8, 8), (1, 1, 1), 1),
        ((16, 16, 16), (1, 1, 1), 1),
        ((16, 16, 16), (-1, 1, -1), 1),
        ((1, 1, 1), (1, 1, 1), 1),
        ((16, 16, 1), (1, 1, 5), 1),
        ((17, 16, 16), (1, 1, 1), 2),
        ((26, 16, 27), (1, 1, 1), 6),
        ((40, 30, 20), (0.5, 0.7, 3), 24),
        ((40, 30, 20), (-0.5, 0.7, -3), 24),
        ((16, 16, 4), (1, 1, 40), 6),  # slices farther apart than patches are wide
    ],
)
def test_a_tiling_covers_every_voxel_with_few_patches(shape, spacing, count):
    volume = volume_of(shape, np.diag([*spacing, 1.0]))
    grids = list(grids_over(volume, 16, 1.0))
    is_seen = np.zeros(shape, bool)
    for grid in grids:
        is_seen[grid.box(shape)] = True
    assert is_seen.all()
    assert len(grids) == count


def test_a_tiling_covers_any_volume():
    rng = np.random.default_rng(4)
    for _ in range(40):
        shape = tuple(int(n) for n in rng.integers(1, 30, 3))
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        affine = np.eye(4)
        affine[:3, :3] = turn * rng.uniform(0.4, 5, 3)
        affine[:3, 3] = rng.normal(size=3) * 100
        volume = volume_of(shape, affine)
        is_seen = np.zeros(shape, bool)
        for grid in grids_over(volume, int(rng.choice([16, 31])), float(rng.choice([1, 1.5, rng.uniform(0.8, 3)]))):
            is_seen[grid.box(shape)] = True
        assert is_seen.all(), (shape, affine)


def test_boxes_by_eye():
    first, second = (slice(2, 6), slice(0, 4), slice(1, 2)), (slice(4, 9), slice(3, 5), slice(0, 9))
    assert overlap(first, second) == (slice(4, 6), slice(3, 4), slice(1, 2))
    assert overlap(first, (slice(6, 7), slice(0, 4), slice(1, 2))) is None
    assert relative(first, (slice(1, 9), slice(0, 9), slice(1, 9))) == (slice(1, 5), slice(0, 4), slice(0, 1))
