"""Where subjects come from: phantoms, plain objects and real cases, each volume kept for many samples."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lib.boxes import CONNECTED_26
from lib.datasets.labelled_cases import read_pair
from lib.errors import TrainingError
from lib.images.preprocess import intensity_of
from lib.images.volumes import Volume, make_volume
from lib.learning.case_cache import Region
from lib.learning.subjects import Subject
from lib.random_streams import RandomStream, generator
from lib.settings import PRESETS, Intensity
from lib.synthesis.phantoms import Phantom, practice_phantom
from lib.synthesis.plain import plain_volume

Mask = NDArray[np.bool_]

# How CT and other volumes are normalised while training, and how often: whoever serves may choose otherwise.
CT_PRESETS = {"ct": 0.7, "any": 0.2, "mr": 0.1}
OTHER_PRESETS = {"any": 0.8, "mr": 0.2}
# Voxels as low as this are on CT alone.
AIR_HU = -500
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
FEWEST_VOXELS = 20
# Parts of a label smaller than this share of its largest one are taken for slips of the hand.
SMALLEST_PART = 0.02


class Pool(Protocol):
    """Endless subjects: the same for the same number."""

    def draw(self, number: int, rng: np.random.Generator) -> Subject | None: ...


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


@dataclass(frozen=True)
class CaseGroup:
    """Real cases of one kind, pairs of image and label files, and how often one of them is drawn. `is_sought`: whether
    label 1 is what the automatic mode should find."""

    name: str
    share: float
    cases: tuple[tuple[Path, Path], ...]
    is_sought: bool = True


def read_groups(path: Path, folder: Path | None = None) -> list[CaseGroup]:
    """Groups from a JSON file: a list of {"name", "share", "is_sought", "cases": [[image, label], ...]}, paths
    below `folder`, by default the file's own. Raises TrainingError for anything else."""
    folder = folder or path.parent
    try:
        values: list[dict[str, Any]] = json.loads(path.read_text())
        groups = [
            CaseGroup(
                str(value["name"]),
                float(value["share"]),
                tuple((folder / image, folder / label) for image, label in value["cases"]),
                bool(value.get("is_sought", True)),
            )
            for value in values
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{path.name} is no list of case groups ({error!r}): give each a name, a share and cases, pairs of files"
        ) from error
    missing = [str(file) for group in groups for pair in group.cases for file in pair if not file.is_file()]
    if missing or not all(group.cases and group.share > 0 for group in groups):
        raise TrainingError(f"{path.name} names no cases, no share or files that are not there: {missing[:3]}")
    return groups


class RealCases:
    """Labelled cases on disk; opened when first drawn and kept in memory."""

    def __init__(self, groups: Sequence[CaseGroup]) -> None:
        self._groups = groups
        self._shares = np.array([group.share for group in groups]) / sum(group.share for group in groups)
        self._opened: dict[Path, tuple[ShownVolume, list[Subject]]] = {}

    def draw(self, number: int, rng: np.random.Generator) -> Subject | None:
        group = self._groups[int(rng.choice(len(self._groups), p=self._shares))]
        image, label = group.cases[int(rng.integers(len(group.cases)))]
        if image not in self._opened:
            self._opened[image] = _open_case(image, label, group.is_sought)
        shown, subjects = self._opened[image]
        if not subjects:
            return None
        # Large parts rather than small ones, and yet each now and then.
        weights = np.array([sum(subject.region.counts) for subject in subjects], np.float64) ** 0.25
        subject = subjects[int(rng.choice(len(subjects), p=weights / weights.sum()))]
        subject.intensity = shown.intensity(rng)
        return subject


def _open_case(image: Path, label: Path, is_sought: bool) -> tuple[ShownVolume, list[Subject]]:
    volume, label_map = read_pair(image, label)
    subjects = []
    for value in np.unique(label_map[label_map > 0]):
        parts, _ = ndimage.label(label_map == value, structure=CONNECTED_26)
        sizes = np.bincount(parts.ravel())[1:]
        for part in np.flatnonzero((sizes >= FEWEST_VOXELS) & (sizes >= SMALLEST_PART * sizes.max())):
            region = Region.around(np.asarray(parts == part + 1))
            subjects.append(Subject(volume, PRESETS["ct"], region, is_sought=is_sought and value == 1))
    return ShownVolume(volume, bool(volume.array.min() < AIR_HU), lambda rng: None), subjects


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
