"""CT is told from MR by its darkest voxels, on values made up and on real images."""

from pathlib import Path

import numpy as np
import pytest

from lib.images.preprocess import looks_like_hounsfield
from lib.images.volumes import make_volume, open_volume
from lib.synthesis.phantoms import make_phantom

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
REAL_CT = ("abdomen_", "aorta_", "headneck_", "lungnodule_", "sarcoma_ct_")


def volume_of(*values):
    """10,000 voxels at 40, the last of them replaced."""
    array = np.full(10_000, 40, np.int16)
    array[len(array) - len(values) :] = values
    return make_volume(array.reshape(100, 10, 10), np.eye(4))


def test_a_thousandth_of_fat_is_enough():
    assert looks_like_hounsfield(volume_of(*[-100] * 10))
    assert not looks_like_hounsfield(volume_of(*[-100] * 9))
    assert not looks_like_hounsfield(volume_of(*[-50] * 5000))


def test_values_that_are_only_ranks_are_not_hounsfield():
    z_scores = np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32)
    assert not looks_like_hounsfield(make_volume(z_scores, np.eye(4)))
    # CT without its offset: air at 0, water at 1024. The numbers of preset ct would be wrong for it.
    assert not looks_like_hounsfield(make_volume(np.repeat([0, 1024], 32).reshape(4, 4, 4), np.eye(4)))


@pytest.mark.parametrize("family", ["ct", "mr"])
def test_phantoms_of_bodies_are_told_apart(family):
    phantom = make_phantom(1, shape=(64, 64, 24), spacing_mm=(5.0, 5.0, 8.0), family=family)
    assert looks_like_hounsfield(make_volume(phantom.array, phantom.affine)) is (family == "ct")


@pytest.mark.data
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real images: {SHARED.parent.name}/{SHARED.name} is absent")
def test_real_images_are_told_apart():
    paths = sorted(SHARED.rglob("*_image.nii.gz"))
    found = {path.name: looks_like_hounsfield(open_volume(path)) for path in paths}
    assert found == {path.name: path.name.startswith(REAL_CT) for path in paths}
    print(f"{len(paths)} images, {sum(found.values())} of them CT")
    assert len(paths) >= 20
