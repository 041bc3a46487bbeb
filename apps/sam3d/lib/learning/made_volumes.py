"""Volumes that are made up for training, phantoms and plain objects, each kept for many samples."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lib.images.preprocess import intensity_of
from lib.images.volumes import Volume, make_volume
from lib.learning.case_cache import Region
from lib.learning.subjects import FEWEST_VOXELS, Subject
from lib.random_streams import RandomStream, generator
from lib.settings import PRESETS, Intensity
from lib.synthesis.phantoms import Phantom, practice_phantom
from lib.synthesis.plain import plain_volume

Mask = NDArray[np.bool_]

# How CT and other volumes are normalised while training, and how often: whoever serves may choose otherwise.
CT_PRESETS = {"ct": 0.7, "any": 0.2, "mr": 0.1}
OTHER_PRESETS = {"any": 0.8, "mr": 0.2}
# Volumes of one kind that are drawn from, and rounds over all of them that one is kept for.
KEPT, PHANTOM_USES, PLAIN_USES = 48, 25, 8
LESION_SHARE = 0.5
# What else can be told from its surroundings as a whole.
ORGANS = frozenset(
    {
        *("liver", "spleen", "kidney_left", "kidney_right", "stomach", "organ", "fluid", "nucleus", "spine", "bone"),
        *("aorta", "vena_cava", "vessel"),
    }
)


class ShownVolume:
    """A volume with objects in it, normalised one way or another."""

    def __init__(self, volume: Volume, is_ct: bool, choose: Callable[[np.random.Generator], Mask | None]) -> None:
        self._volume, self._is_ct, self._choose = volume, is_ct, choose
        self._intensities: dict[str, Intensity] = {}

    def subject(self, rng: np.random.Generator) -> Subject | None:
        """One of its objects; None where chance finds none."""
        mask = self._choose(rng)
        return None if mask is None else Subject(self._volume, self.intensity(rng), Region.around(mask))

    def intensity(self, rng: np.random.Generator) -> Intensity:
        """The resolved numbers of a preset drawn by chance."""
        shares = CT_PRESETS if self._is_ct else OTHER_PRESETS
        preset = str(rng.choice([*shares], p=[*shares.values()]))
        if preset not in self._intensities:
            self._intensities[preset] = intensity_of(self._volume, PRESETS[preset])
        return self._intensities[preset]


def shown_phantom(rng: np.random.Generator) -> ShownVolume:
    phantom, family = practice_phantom(rng)
    volume = make_volume(phantom.array, phantom.affine, "phantom")
    return ShownVolume(volume, family == "ct", lambda rng: phantom_target(rng, phantom))


def shown_plain(rng: np.random.Generator) -> ShownVolume:
    plain = plain_volume(rng)
    volume = make_volume(plain.array, plain.affine, "plain")
    return ShownVolume(volume, plain.is_hounsfield, lambda rng: plain.mask)


class MadeVolumes:
    """Made-up volumes, one in each of KEPT places: samples take the places in turn, and a place gets a new volume after
    `uses` rounds. A volume is made from its numbers, so a run that goes on has the same ones, and processes that share
    a step of KEPT samples make none twice."""

    def __init__(self, make: Callable[[np.random.Generator], ShownVolume], uses: int, *seed: int) -> None:
        self._make, self._uses, self._seed = make, uses, seed
        self._volumes: dict[int, tuple[int, ShownVolume]] = {}

    def draw(self, number: int, rng: np.random.Generator) -> Subject | None:
        rounds, place = divmod(number, KEPT)
        # Places change one after the other, not all in one round.
        generation = (rounds + place * self._uses // KEPT) // self._uses
        if place not in self._volumes or self._volumes[place][0] != generation:
            volume = self._make(generator(RandomStream.PRACTICE_VOLUME, *self._seed, place, generation))
            self._volumes[place] = generation, volume
        return self._volumes[place][1].subject(rng)


def make_pools(seed: int) -> tuple[MadeVolumes, MadeVolumes]:
    """The phantoms and the plain objects that the seed decides."""
    return MadeVolumes(shown_phantom, PHANTOM_USES, 0, seed), MadeVolumes(shown_plain, PLAIN_USES, 1, seed)


def phantom_target(rng: np.random.Generator, phantom: Phantom) -> Mask | None:
    """One lesion, or else one organ, that is large enough to be clicked on."""
    organs = [name for name in phantom.names if name in ORGANS]
    if organs and rng.random() > LESION_SHARE:
        mask = phantom.structure(str(rng.choice(organs)))
        # A part of a structure that is shown several times, or cut in two by another, is an object of its own.
        return _one_part(rng, mask)
    lesions = [mask for mask in phantom.lesions() if mask.sum() >= FEWEST_VOXELS]
    return lesions[int(rng.integers(len(lesions)))] if lesions else None


def _one_part(rng: np.random.Generator, mask: Mask) -> Mask | None:
    parts, _ = ndimage.label(mask)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    fits = np.flatnonzero(sizes >= 200)
    return np.asarray(parts == int(rng.choice(fits)), np.bool_) if fits.size else None
