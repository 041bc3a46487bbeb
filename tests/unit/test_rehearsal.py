"""Synthetic patches between the annotated ones."""

from collections.abc import Iterator

import numpy as np

from lib.retraining.rehearsal import Rehearsed, rehearsing


def numbered(start: int, count: int) -> Iterator[Rehearsed]:
    for number in range(start, start + count):
        yield Rehearsed(np.full((32,) * 3, number, np.float32), np.zeros((32,) * 3, np.float32))


def test_every_other_sample_is_synthetic_and_the_rest_keep_their_numbers() -> None:
    samples = list(rehearsing(numbered, seed=0, size=32)(3, 6))
    assert [float(sample.patch[0, 0, 0]) for sample in samples[1::2]] == [4.0, 6.0, 8.0]
    for sample in samples[0::2]:
        assert sample.patch.shape == sample.target.shape == (32, 32, 32)
        assert sample.patch.dtype == sample.target.dtype == np.float32
        assert set(np.unique(sample.target)) == {0.0, 1.0}
        assert sample.patch.std() > 0


def test_a_number_and_a_seed_decide_a_sample_wherever_it_is_asked_for() -> None:
    whole = list(rehearsing(numbered, seed=1, size=32)(0, 4))
    parts = [*rehearsing(numbered, seed=1, size=32)(0, 1), *rehearsing(numbered, seed=1, size=32)(1, 3)]
    other = list(rehearsing(numbered, seed=2, size=32)(0, 4))
    for first, second in zip(whole, parts, strict=True):
        assert np.array_equal(first.patch, second.patch)
        assert np.array_equal(first.target, second.target)
    assert not np.array_equal(whole[1].patch, other[1].patch)
    assert not np.array_equal(whole[1].patch, whole[3].patch)
