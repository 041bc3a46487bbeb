"""The simulated user clicks where the metrics' protocol says."""

import numpy as np
import pytest
from scipy import ndimage

from lib.errors import PromptError
from lib.interactive.clicks import first_click, next_click, random_click

ONE_MM = (1.0, 1.0, 1.0)


def empty(*shape):
    return np.zeros(shape, dtype=bool)


def test_first_click_is_the_centre_of_a_cube():
    label = empty(9, 9, 9)
    label[2:7, 3:8, 1:6] = True
    assert first_click(label, ONE_MM) == (4, 5, 3)


def test_first_click_measures_millimetres():
    label = empty(7, 7, 9)
    label[1:6, 1:6, 1:6] = True  # five voxels a side
    label[3, 3, 6:8] = True  # a tail along k, one voxel thin
    # With voxels 0.1 mm long along k, depth is decided by k alone: the middle of the longest column.
    assert first_click(label, (10.0, 10.0, 0.1)) == (3, 3, 4)


def test_first_click_counts_the_volume_border_as_border():
    assert first_click(np.ones((5, 5, 5), dtype=bool), ONE_MM) == (2, 2, 2)
    assert first_click(np.ones((1, 5, 3), dtype=bool), ONE_MM) == (0, 0, 0)  # all one voxel deep: the first


def test_first_click_of_an_empty_label_is_refused():
    with pytest.raises(PromptError, match=r"\(3, 4, 5\) has no voxel to click on"):
        first_click(empty(3, 4, 5), ONE_MM)


def test_first_click_agrees_with_the_whole_volume_transform():
    rng = np.random.default_rng(5)
    for _ in range(30):
        spacing = rng.uniform(0.5, 5.0, 3)
        label = ndimage.gaussian_filter(rng.normal(size=(14, 12, 10)), 2) > 0.02
        depth = ndimage.distance_transform_edt(np.pad(label, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
        assert depth[first_click(label, spacing)] == pytest.approx(depth.max())


def test_next_click_is_none_when_all_is_right():
    label = empty(4, 4, 4)
    assert next_click(label, label.copy(), ONE_MM) is None
    label[1:3, 1:3, 1:3] = True
    assert next_click(label, label.copy(), ONE_MM) is None


def test_next_click_takes_the_largest_error():
    label, mask = empty(20, 9, 9), empty(20, 9, 9)
    label[1:4, 1:4, 1:4] = True  # 27 voxels missed
    mask[10:15, 2:7, 2:7] = True  # 125 voxels spurious
    assert next_click(label, mask, ONE_MM) == ((12, 4, 4), False)
    assert next_click(mask, label, ONE_MM) == ((12, 4, 4), True)


def test_next_click_joins_voxels_that_touch_at_a_corner():
    label = empty(12, 6, 6)
    label[0:2, 0:2, 0:2] = True
    label[2:4, 2:4, 2:4] = True  # touches the first block at a corner only: 16 voxels in one
    label[8:11, 0:3, 0:1] = True  # 9 voxels
    click, is_foreground = next_click(label, empty(12, 6, 6), ONE_MM)
    assert is_foreground
    assert click[0] < 4


def test_next_click_keeps_missed_and_spurious_apart():
    label, mask = empty(9, 3, 3), empty(9, 3, 3)
    label[0:4] = True
    mask[4:9] = True  # adjacent to the missed part, and one slab thicker
    click, is_foreground = next_click(label, mask, ONE_MM)
    assert not is_foreground
    assert click[0] in (5, 6, 7)
    assert click[1:] == (1, 1)


def test_next_click_ignores_other_components_in_its_box():
    label = empty(7, 7, 7)
    label[:, :, 0] = label[:, 0, :] = label[0] = True  # a hollow corner whose box is the volume
    label[4:6, 4:6, 4:6] = True
    click, _ = next_click(label, empty(7, 7, 7), ONE_MM)
    assert 0 in click


def test_next_click_breaks_ties_by_its_seed():
    label = empty(11, 3, 3)
    label[1, 1, 1] = label[5, 1, 1] = label[9, 1, 1] = True
    clicks = [next_click(label, empty(11, 3, 3), ONE_MM, np.random.default_rng(seed)) for seed in range(30)]
    again = [next_click(label, empty(11, 3, 3), ONE_MM, np.random.default_rng(seed)) for seed in range(30)]
    assert clicks == again
    assert {click[0] for click, _ in clicks} == {1, 5, 9}
    assert next_click(label, empty(11, 3, 3), ONE_MM) == next_click(label, empty(11, 3, 3), ONE_MM)


def test_next_click_always_lies_in_an_error_of_its_kind():
    rng = np.random.default_rng(2)
    for _ in range(200):
        label = ndimage.gaussian_filter(rng.normal(size=(9, 8, 7)), 1) > 0.05
        mask = ndimage.gaussian_filter(rng.normal(size=(9, 8, 7)), 1) > 0.05
        click, is_foreground = next_click(label, mask, ONE_MM, rng)
        assert bool(label[click]) is is_foreground
        assert bool(mask[click]) is not is_foreground


def test_random_click_stays_inside_and_prefers_depth():
    region = empty(12, 12, 12)
    region[3:10, 2:9, 4:11] = True
    rng = np.random.default_rng(0)
    clicks = np.array([random_click(region, rng) for _ in range(1000)])
    assert region[tuple(clicks.T)].all()
    depth = ndimage.distance_transform_cdt(region, metric="chessboard")
    share_of_skin = np.mean(depth[tuple(clicks.T)] == 1)
    # Of 343 voxels, 218 are skin: weights 218, 98 * 4, 26 * 9, 1 * 16 give the skin 0.253 of all draws.
    assert share_of_skin == pytest.approx(218 / 860, abs=0.05)


def test_random_click_of_a_single_voxel_and_of_nothing():
    region = empty(3, 3, 3)
    region[2, 0, 1] = True
    assert random_click(region, np.random.default_rng(0)) == (2, 0, 1)
    with pytest.raises(PromptError, match="not empty"):
        random_click(empty(3, 3, 3), np.random.default_rng(0))
