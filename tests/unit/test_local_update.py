"""A correction counts near its click: by eye, on small patches."""

import numpy as np
import pytest

from lib.interactive.local_update import locally_updated

SIZE = 41


def margin_of(is_object):
    return np.where(is_object, 2.0, -2.0).astype(np.float32)


def distance_to(*point):
    places = np.stack(np.meshgrid(*[np.arange(SIZE)] * 3, indexing="ij"), axis=-1)
    return np.linalg.norm(places - point, axis=-1)


def box(low, high):
    mask = np.zeros((SIZE,) * 3, bool)
    mask[low:high, low:high, low:high] = True
    return mask


def test_a_missed_part_is_added_and_a_leak_elsewhere_is_not():
    before = margin_of(box(10, 20))
    missed = box(20, 24)
    leak = np.zeros_like(missed)
    leak[:, :, 38:] = True
    after = margin_of(box(10, 20) | missed | leak)
    found = locally_updated(before, after, np.array([22.0, 22, 22]), is_foreground=True) > 0
    assert found[missed].all()
    assert not found[leak].any()
    assert np.array_equal(found[box(10, 20)], np.ones(1000, bool))


def test_how_far_it_counts_grows_with_the_error():
    """A click 6 voxels off the mask: the new answer counts fully up to 2 * 6 + 2 voxels, and not from 21 on."""
    before = margin_of(np.arange(SIZE)[:, None, None] < np.ones((SIZE,) * 3))  # the plane d = 0
    click = np.array([6.0, 20, 20])
    found = locally_updated(before, margin_of(np.ones((SIZE,) * 3, bool)), click, is_foreground=True)
    distance = distance_to(*click)
    assert (found[distance <= 14] == 2.0).all()
    assert (found[distance >= 21] == before[distance >= 21]).all()
    between = (distance > 14) & (distance < 21) & (before < 0)
    assert ((found[between] > -2) & (found[between] < 2)).all()


@pytest.mark.parametrize("is_foreground", [True, False])
def test_a_click_that_is_right_already_changes_its_neighbourhood_only(is_foreground):
    mask = box(10, 30)
    before, after = margin_of(mask), margin_of(~mask)
    click = np.array([20.0, 20, 20]) if is_foreground else np.array([4.0, 4, 4])
    found = locally_updated(before, after, click, is_foreground)
    changed = found != before
    assert changed.any()
    assert distance_to(*click)[changed].max() < 3  # FADE times EXTRA_VOXELS


def test_a_first_object_is_taken_as_it_is():
    after = margin_of(box(2, 39))
    assert locally_updated(margin_of(box(0, 0)), after, np.array([5.0, 5, 5]), is_foreground=True) is after


def test_a_background_click_in_a_mask_that_fills_the_patch_counts_everywhere():
    before, after = margin_of(box(0, SIZE)), margin_of(box(0, 0))
    found = locally_updated(before, after, np.array([20.0, 20, 20]), is_foreground=False)
    assert np.array_equal(found, after)


def test_a_click_at_the_border_is_in_the_patch():
    before, after = margin_of(box(5, 30)), margin_of(box(0, SIZE))
    found = locally_updated(before, after, np.array([40.4, -0.4, 20.0]), is_foreground=True)
    assert found[40, 0, 20] == 2.0
