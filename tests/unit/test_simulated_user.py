"""The user at practice: clicks what is there, sees what a real user would, corrects the largest error."""

import numpy as np
import pytest

from lib.learning.simulated_user import SimulatedUser


def cube(low, high, size=24):
    mask = np.zeros((size,) * 3, bool)
    mask[low:high, low:high, low:high] = True
    return mask


def margin_of(mask):
    return np.where(mask, 1.0, -1.0).astype(np.float32)


def user_of(target, seed=0, random_share=0.0):
    return SimulatedUser(target, np.random.default_rng(seed), random_share)


def test_the_first_click_is_the_middle_of_the_target():
    user = user_of(cube(4, 13))
    assert (user.coords, user.labels) == ([(8, 8, 8)], [True])


def test_without_a_target_the_middle_of_the_patch_is_background():
    user = user_of(cube(0, 0))
    assert (user.coords, user.labels) == ([(12, 12, 12)], [False])
    user.look(margin_of(cube(0, 0)))
    assert user.dice == 1.0
    user.look(margin_of(cube(2, 4)))
    assert user.dice == 0.0


def test_it_corrects_what_was_missed_and_then_what_is_too_much():
    user = user_of(cube(4, 13))
    user.look(margin_of(cube(4, 9)))
    user.correct()
    assert user.labels[-1]
    assert cube(4, 13)[user.coords[-1]]
    assert not cube(4, 9)[user.coords[-1]]
    too_much = cube(4, 13)
    too_much[4:13, 4:13, 16:23] = True
    fresh = user_of(cube(4, 13))
    fresh.look(margin_of(too_much))
    fresh.correct()
    assert not fresh.labels[-1]
    # Deepest by steps: anything in the middle along the last axis, 4 steps from every side.
    assert all(7 <= place <= 9 for place in fresh.coords[-1][:2])
    assert fresh.coords[-1][2] == 19


def test_it_sees_a_later_answer_near_its_click_only():
    user = user_of(cube(4, 13))
    user.look(margin_of(cube(4, 12)))
    user.correct()
    leaking = cube(4, 13)
    leaking[:, :, 22:] = True
    user.look(margin_of(leaking))
    assert not user.mask[:, :, 22:].any()
    assert user.dice > 0.85


def test_where_nothing_is_wrong_it_clicks_the_first_place_again():
    user = user_of(cube(4, 13))
    user.look(margin_of(cube(4, 13)))
    user.correct()
    assert user.coords == [(8, 8, 8)] * 2
    assert user.dice == 1.0


@pytest.mark.parametrize(("random_share", "n_places"), [(0.0, 1), (1.0, 20)])
def test_some_clicks_are_drawn_from_anywhere(random_share, n_places):
    target = cube(4, 13)
    places = {user_of(target, seed, random_share).coords[0] for seed in range(40)}
    assert len(places) >= n_places
    assert (len(places) == 1) == (random_share == 0.0)
    assert all(target[place] for place in places)


def test_the_same_seed_clicks_the_same():
    first, second = (user_of(cube(3, 20), 5, 0.5) for _ in range(2))
    for user in (first, second):
        user.look(margin_of(cube(8, 14)))
        user.correct()
    assert first.coords == second.coords
