"""Patches cut out of whole phantoms: target and image lie on each other, at whatever zoom and orientation."""

import numpy as np
import pytest

from lib.pretraining import phantom_views
from lib.pretraining.phantom_views import phantom_view
from lib.synthesis.phantoms import Phantom, make_phantom, practice_phantom

ZOOMS_MM = (1.0, 2.0, 4.0)


def rng_of(*seed):
    return np.random.default_rng([99, *seed])


def painted(orientation, spacing_mm, radius_mm, shape=(60, 50, 40)):
    """A phantom whose image says outright what is lesion: 200 HU in it, 0 beside it."""
    affine = make_phantom(0, (4, 4, 4), spacing_mm, orientation, scene="viscera").affine
    middle = np.array(shape) // 2
    offsets = (np.indices(shape) - middle[:, None, None, None]) * np.array(spacing_mm)[:, None, None, None]
    lesion = np.linalg.norm(offsets, axis=0) < radius_mm
    return Phantom(np.where(lesion, 200, 0).astype(np.int16), affine, lesion.astype(np.uint8), ("lesion",))


def views_of(monkeypatch, phantom, count):
    monkeypatch.setattr(phantom_views, "practice_phantom", lambda rng: (phantom, "ct"))
    return [phantom_view(rng_of(number), 32, ZOOMS_MM) for number in range(count)]


@pytest.mark.parametrize(
    ("orientation", "spacing_mm"), [("RAS", (1.0, 1.0, 1.0)), ("LPS", (0.7, 0.7, 5.0)), ("SAR", (2.0, 0.8, 1.3))]
)
def test_the_target_lies_where_the_image_shows_it(monkeypatch, orientation, spacing_mm):
    for patch, target in views_of(monkeypatch, painted(orientation, spacing_mm, 16.0), 12):
        is_bright = patch > 0.6 * patch.max() + 0.4 * patch[target == 0].min()
        overlap = 2 * (is_bright & target).sum() / (is_bright.sum() + target.sum())
        assert overlap > 0.85


def test_a_small_object_is_seen_near_and_a_large_one_from_farther_away(monkeypatch):
    def filled(radius_mm):
        views = views_of(monkeypatch, painted("RAS", (1.5, 1.5, 1.5), radius_mm, (70, 70, 70)), 40)
        return np.array([target.mean() for _, target in views])

    small, large = filled(6.0), filled(40.0)
    # A ball of 6 mm fills 2.8 % of 32 mm, 0.04 % of 128 mm; one of 40 mm fills all of 32 mm and 13 % of 128 mm.
    assert (small > 0.01).mean() > 0.5
    assert (small < 0.001).any()
    assert ((large > 0.05) & (large < 0.3)).mean() > 0.3
    assert (large > 0.9).any()


def test_one_seed_gives_one_view_and_other_seeds_others():
    first, again, other = (phantom_view(rng_of(seed), 32, ZOOMS_MM) for seed in (5, 5, 6))
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


def test_every_view_shows_enough_of_its_target_and_something_else():
    for number in range(30):
        patch, target = phantom_view(rng_of(7, number), 32, ZOOMS_MM)
        assert patch.dtype == np.float32
        assert np.isfinite(patch).all()
        assert target.sum() >= phantom_views.FEWEST_SHOWN_FROM_AFAR
        assert np.ptp(patch) > 0.1


def test_phantoms_to_practise_on_are_of_many_kinds():
    made = [practice_phantom(rng_of(8, number)) for number in range(30)]
    assert {family for _, family in made} == {"ct", "mr"}
    assert {"liver"} & {name for phantom, _ in made for name in phantom.names}
    assert len({phantom.array.shape for phantom, _ in made}) > 20
