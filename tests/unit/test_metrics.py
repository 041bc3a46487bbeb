"""Scores of masks small enough to be counted by hand."""

import numpy as np
import pytest

from lib.evaluation.metrics import auc_over_clicks, clicks_to, dice, surface_dice

ONE_MM = (1.0, 1.0, 1.0)


def cube(shape, start, stop):
    region = np.zeros(shape, dtype=bool)
    region[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = True
    return region


def test_dice_of_shifted_cubes():
    label = cube((9, 9, 9), (1, 1, 1), (5, 5, 5))
    mask = cube((9, 9, 9), (3, 1, 1), (7, 5, 5))
    assert dice(label, mask) == pytest.approx(0.5)
    assert dice(label, label) == 1.0
    assert dice(label, cube((9, 9, 9), (1, 1, 1), (3, 5, 5))) == pytest.approx(2 * 32 / (64 + 32))


def test_dice_of_nothing():
    empty, some = np.zeros((4, 4, 4), dtype=bool), cube((4, 4, 4), (0, 0, 0), (2, 2, 2))
    assert dice(empty, empty) == 1.0
    assert dice(empty, some) == 0.0
    assert dice(some, empty) == 0.0
    assert surface_dice(empty, empty, ONE_MM, 2.0) == 1.0
    assert surface_dice(empty, some, ONE_MM, 100.0) == 0.0
    assert surface_dice(some, empty, ONE_MM, 100.0) == 0.0


def test_surface_dice_is_one_within_the_tolerance():
    label = cube((20, 20, 20), (4, 4, 4), (12, 12, 12))
    mask = cube((20, 20, 20), (6, 4, 4), (14, 12, 12))
    assert surface_dice(label, label, ONE_MM, 0.0) == 1.0
    assert surface_dice(label, mask, ONE_MM, 2.0) == 1.0
    assert surface_dice(label, mask, ONE_MM, 1.9) < 1.0


def test_surface_dice_counts_the_faces_that_moved():
    # A plate of 40 x 40 x 4: its two large faces are most of its surface. One of them is moved by three voxels.
    label = cube((50, 50, 14), (5, 5, 3), (45, 45, 7))
    mask = cube((50, 50, 14), (5, 5, 3), (45, 45, 10))
    faces, rim = 40 * 40, 4 * 40
    # Two faces agree, and so do the rims but for the mask's last two rows; the label's moved face lies on the mask's
    # side along its edge, where 1.5 voxels are within a millimetre.
    within = 2 * faces + rim * (4 + 4 + 1) + rim * 1.5
    everything = 4 * faces + rim * (4 + 7)
    assert surface_dice(label, mask, ONE_MM, 1.0) == pytest.approx(within / everything, abs=0.01)


def test_surface_dice_weighs_by_area():
    # The same plate of 5 mm slices: a voxel of the rim has five times the surface of a voxel of the faces. The rims
    # agree along the label's four slices and half of the next.
    label = cube((50, 50, 14), (5, 5, 3), (45, 45, 7))
    mask = cube((50, 50, 14), (5, 5, 3), (45, 45, 10))
    faces, rim = 40 * 40, 4 * 40
    within = 2 * faces + 5 * rim * (4 + 4.5) + rim * 1.5
    everything = 4 * faces + 5 * rim * (4 + 7)
    assert surface_dice(label, mask, (1.0, 1.0, 5.0), 1.0) == pytest.approx(within / everything, abs=0.01)


def test_surface_dice_measures_millimetres_along_each_axis():
    label = cube((20, 20, 20), (4, 4, 4), (12, 12, 12))
    mask = cube((20, 20, 20), (4, 4, 5), (12, 12, 13))
    assert surface_dice(label, mask, (1.0, 1.0, 2.5), 2.5) == 1.0
    assert surface_dice(label, mask, (1.0, 1.0, 2.5), 2.0) < 0.9
    assert surface_dice(label, mask, (5.0, 5.0, 1.0), 1.0) == 1.0


def test_surface_dice_does_not_depend_on_where_the_volume_ends():
    label, mask = cube((8, 8, 8), (0, 0, 0), (8, 5, 8)), cube((8, 8, 8), (0, 2, 0), (8, 8, 6))
    wide = [np.pad(region, 5) for region in (label, mask)]
    assert surface_dice(label, mask, ONE_MM, 1.0) == pytest.approx(surface_dice(*wide, ONE_MM, 1.0))
    assert dice(label, mask) == dice(*wide)
    flat = cube((6, 6, 1), (0, 0, 0), (4, 6, 1))
    assert surface_dice(flat, flat, (1, 1, 5), 1.0) == 1.0


def test_auc_over_five_clicks():
    assert auc_over_clicks([0.0, 0.5, 1.0, 1.0, 0.5, 0.9]) == pytest.approx(0.25 + 0.75 + 1.0 + 0.75)
    assert auc_over_clicks([1.0] * 10) == 4.0
    with pytest.raises(ValueError, match="3 scores for 5 clicks; repeat the last one"):
        auc_over_clicks([0.1, 0.2, 0.3])


def test_clicks_until_good():
    assert clicks_to([0.5, 0.79, 0.8, 0.1]) == 3
    assert clicks_to([0.9]) == 1
    assert clicks_to([0.5] * 10) == 10
    assert clicks_to([0.5] * 10 + [0.9]) == 10
    assert clicks_to([]) == 10
    assert clicks_to([0.5, 0.6], threshold=0.6, worst=5) == 2
