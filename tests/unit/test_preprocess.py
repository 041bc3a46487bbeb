"""From a volume's raw numbers to what the network is fed."""

from __future__ import annotations

import numpy as np
import pytest

from lib.geometry import PatchGrid
from lib.images.preprocess import intensity_of, normalise, sample_patch
from lib.images.volumes import make_volume
from lib.settings import PRESETS, Intensity

PLAIN = Intensity(low=-100.0, high=100.0, mean=20.0, std=40.0)
MR = Intensity(low=10.0, high=90.0, mean=0.0, std=1.0, is_percentile=True)


def test_values_are_clipped_then_normalised() -> None:
    values = np.array([-1000, -100, 20, 60, 100, 3000], np.int16)
    normalised = normalise(values, PLAIN)
    assert normalised.tolist() == [-3, -3, 0, 1, 2, 2]
    assert normalised.dtype == np.float32
    assert normalise(values.astype(np.float64), PLAIN).dtype == np.float32
    assert values.tolist() == [-1000, -100, 20, 60, 100, 3000]


def test_normalise_wants_resolved_numbers() -> None:
    with pytest.raises(AssertionError, match="intensity_of"):
        normalise(np.zeros(3), PRESETS["mr"])


def test_a_patch_is_sampled_first_clipped_then_and_zero_outside_at_last() -> None:
    # Between 0 and 400 lies 200, clipped to 100; clipping first would put 50 there.
    volume = make_volume(np.array([0, 400]).reshape(2, 1, 1), np.eye(4))
    grid = PatchGrid.around(np.eye(4), (0.5, 0, 0), size=5, spacing_mm=0.5)
    patch = sample_patch(volume, grid, PLAIN)
    assert patch.dtype == np.float32
    assert patch[2, 2].tolist() == [-0.5, -0.5, 2, 2, 2]
    further = sample_patch(volume, grid.shifted((0, 0, -2)), PLAIN)
    assert further[2, 2].tolist() == [0, 0, -0.5, -0.5, 2]
    assert (further[0] == 0).all()


def test_outside_is_zero_even_where_the_mean_is_clipped_away() -> None:
    volume = make_volume(np.zeros((1, 1, 1), np.int16), np.eye(4))
    grid = PatchGrid.around(np.eye(4), (0, 0, 0), size=3, spacing_mm=1.0)
    patch = sample_patch(volume, grid, Intensity(low=100.0, high=200.0, mean=0.0, std=100.0))
    assert patch[1, 1].tolist() == [0, 1, 0]


def test_antialias_is_a_choice() -> None:
    volume = make_volume(np.array([0, 0, 80, 0, 0]).reshape(5, 1, 1), np.eye(4))
    grid = PatchGrid.around(np.eye(4), (1, 0, 0), size=3, spacing_mm=2.0)
    raw = Intensity(low=-1000.0, high=1000.0, mean=0.0, std=1.0)
    assert sample_patch(volume, grid, raw)[1, 1].tolist() == [0, 20, 20]
    assert sample_patch(volume, grid, raw, antialias=False)[1, 1].tolist() == [0, 0, 0]


def test_plain_presets_pass_through() -> None:
    volume = make_volume(np.zeros((2, 2, 2)), np.eye(4))
    assert intensity_of(volume, PRESETS["ct"]) is PRESETS["ct"]


def test_percentiles_are_those_of_tissue_not_air() -> None:
    array = np.zeros((20, 10, 11), np.int16)
    array[10:] = np.linspace(100, 200, 11).astype(np.int16)  # 100, 110, ... 200 along k
    resolved = intensity_of(make_volume(array, np.eye(4)), MR)
    assert not resolved.is_percentile
    assert (resolved.low, resolved.high) == (110.0, 190.0)
    clipped = np.clip(np.linspace(100, 200, 11), 110, 190)
    assert np.isclose(resolved.mean, clipped.mean())
    assert np.isclose(resolved.std, clipped.std())


def test_noise_in_the_air_is_air() -> None:
    rng = np.random.default_rng(4)
    array = rng.integers(0, 12, (30, 30, 30))
    array[12:] = rng.integers(500, 601, (18, 30, 30))
    resolved = intensity_of(make_volume(array, np.eye(4)), MR)
    assert 505 <= resolved.low <= 515
    assert 585 <= resolved.high <= 595


def test_brightness_and_gain_do_not_matter_with_percentiles() -> None:
    rng = np.random.default_rng(5)
    array = np.where(rng.random((24, 24, 24)) < 0.5, 0.0, rng.gamma(9.0, 20.0, (24, 24, 24)))
    patches = []
    for gain, offset in ((1.0, 0.0), (3.7, -50.0)):
        volume = make_volume(array * gain + offset, np.eye(4))
        grid = PatchGrid.around(np.eye(4), (12, 12, 12), size=16, spacing_mm=1.0)
        patches.append(sample_patch(volume, grid, intensity_of(volume, PRESETS["mr"])))
    assert np.allclose(patches[0], patches[1], atol=1e-3)


def test_a_large_volume_is_judged_by_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.random.default_rng(6).normal(300, 40, (40, 40, 40))
    whole = intensity_of(make_volume(array, np.eye(4)), MR)
    monkeypatch.setattr("lib.images.preprocess.SAMPLED_VOXELS", 2000)
    part = intensity_of(make_volume(array, np.eye(4)), MR)
    assert part != whole
    assert abs(part.mean - whole.mean) < 5
    assert abs(part.std - whole.std) < 5


def test_a_flat_volume_becomes_zero() -> None:
    volume = make_volume(np.full((3, 3, 3), 7), np.eye(4))
    resolved = intensity_of(volume, PRESETS["mr"])
    assert resolved.std == 1.0
    assert (normalise(volume.array, resolved) == 0).all()
