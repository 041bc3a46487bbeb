"""Whether labels belong to their images, by tables of what each label scores on each image."""

from __future__ import annotations

import numpy as np
import pytest

from lib.retraining.matching import MOST_BY_CHANCE, Matching, chance_of


@pytest.mark.parametrize(("n", "ways"), [(4, 24), (5, 120)])
def test_a_pairing_better_than_all_others_is_one_of_all_ways(n: int, ways: int) -> None:
    assert chance_of(np.eye(n)) == pytest.approx(1 / ways)


def test_the_worst_pairing_is_as_bad_as_any() -> None:
    assert chance_of(1 - np.eye(5)) == 1.0


def test_that_some_images_are_easy_and_some_labels_hard_tells_nothing() -> None:
    rng = np.random.default_rng(3)
    easy, hard = rng.random((1, 8)), rng.random((8, 1))
    belonging = 0.1 * np.eye(8)
    assert chance_of(easy + hard) == 1.0
    assert chance_of(easy + hard + belonging) < 0.01
    assert chance_of(easy + hard + np.roll(belonging, 1, axis=0)) > MOST_BY_CHANCE


def test_labels_mixed_up_at_random_seem_to_belong_no_more_often_than_said() -> None:
    rng = np.random.default_rng(6)
    chances = [chance_of(rng.random((6, 6))) for _ in range(200)]
    assert 0.01 < np.mean([chance <= MOST_BY_CHANCE for chance in chances]) < 0.1


@pytest.mark.parametrize(
    ("table", "do_belong"),
    [
        (np.eye(1), True),  # nothing to be mixed up with
        (np.eye(2), True),
        (1 - np.eye(2), False),
        (np.eye(3), True),
        (np.eye(3) + 2 * np.roll(np.eye(3), 1, axis=0), False),  # one other way of six is better
        (np.eye(4), True),
        (np.eye(4)[[1, 0, 2, 3]], False),  # two labels in each other's place: the right way is better
    ],
)
def test_few_labels_belong_where_no_other_way_is_as_good(table: np.ndarray, do_belong: bool) -> None:
    assert Matching(chance_of(table), len(table)).do_labels_belong is do_belong


def test_what_is_said_of_a_label_all_alone_is_no_figure() -> None:
    assert "alone" in str(Matching(1.0, 1))
    assert "2.5% suit" in str(Matching(0.025, 8))
