"""A pool to choose cases from: three families of small phantoms, unequal in size and in what they ask of the network.

`plain` is the common one, and what the demo network knows; in `coated` and `paired` it finds half of the object at
first, and `paired` is rare. Cases are numbered family by family, as scanners and protocols follow one another in a
folder of studies.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lib.learning.cases import Case
from lib.synthesis.phantoms import make_phantom

SHAPE, SPACING_MM = (32, 32, 32), (2.0, 2.0, 2.0)
SEED = 12_000
# Cases of each family in the pool, and beside it to validate on: the same shares.
POOL = {"plain": 36, "coated": 16, "paired": 8}
VALIDATION = {"plain": 18, "coated": 8, "paired": 4}
# Where the object lies: families differ in what surrounds it, too, as those of different scanners and sites do.
SURROUNDINGS = {"plain": ("ct", "parenchyma"), "coated": ("mr", "brain"), "paired": ("mr", "limb")}
# First element of a case's seed.
POOL_STREAM, VALIDATION_STREAM = 10, 11

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class FamilyCase:
    """A case on disk, and the family that it is of."""

    case: Case
    family: str


def write_families(folder: Path, counts: dict[str, int], stream: int) -> list[FamilyCase]:
    """The cases of all families, in the order of their names; those that are there already are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    families = [family for family, count in counts.items() for _ in range(count)]
    return [_written(folder, number, family, stream) for number, family in enumerate(families)]


def _written(folder: Path, number: int, family: str, stream: int) -> FamilyCase:
    name = f"case_{number:03}"
    image, label = folder / f"{name}.nii.gz", folder / f"{name}_label.nii.gz"
    if not label.exists():
        array, affine, truth = family_case(family, number, stream)
        nibabel.save(nibabel.Nifti1Image(array, affine), image)
        nibabel.save(nibabel.Nifti1Image(truth.astype(np.uint8), affine), label)
    return FamilyCase(Case(name, image, label), family)


def family_case(family: str, number: int, stream: int) -> tuple[NDArray[np.int16], NDArray[np.float64], Mask]:
    """Image (I, J, K), affine and truth of case `number` of a family; the same arguments give the same case."""
    rng = np.random.default_rng([SEED, stream, number])
    modality, scene = SURROUNDINGS[family]
    phantom = make_phantom(SEED + 1000 * stream + number, SHAPE, SPACING_MM, family=modality, scene=scene)
    image, truth = phantom.array.astype(np.float32), np.zeros(SHAPE, np.bool_)
    centre = np.array(SHAPE) * rng.uniform(0.38, 0.62, 3)
    tissue = float(np.median(image[ndimage.distance_transform_edt(np.ones(SHAPE)) > 8]))
    unit = 100.0 if modality == "ct" else 250.0
    for radius_mm, shift_mm, change in _parts(family, rng):
        inside = _blob(centre + np.array(shift_mm) / SPACING_MM, radius_mm, rng)
        edge = ndimage.gaussian_filter(inside.astype(np.float32), 0.6)
        value = tissue + unit * change + rng.normal(0, 0.08 * unit, SHAPE)
        image += edge * (value - image)
        truth |= inside
    low = -1024 if modality == "ct" else 0
    return np.clip(image, low, 3071).astype(np.int16), phantom.affine, truth


def _parts(family: str, rng: np.random.Generator) -> list[tuple[float, tuple[float, float, float], float]]:
    """What to paint, in this order: radius in mm, shift off the centre in mm, and change of value in units."""
    middle = (0.0, 0.0, 0.0)
    if family == "plain":
        return [(rng.uniform(8, 13), middle, float(rng.choice([-1, 1])) * rng.uniform(0.7, 1.3))]
    if family == "coated":
        core_mm = rng.uniform(5.0, 7.0)
        return [(core_mm + rng.uniform(4.5, 7.0), middle, -0.9), (core_mm, middle, 1.2)]
    way = rng.standard_normal(3)
    way = way / np.linalg.norm(way) * rng.uniform(10, 13)
    x, y, z = (float(part) for part in way)
    return [(rng.uniform(7, 9), (x, y, z), 1.3), (rng.uniform(7, 9), middle, -0.8)]


def _blob(centre: NDArray[np.float64], radius_mm: float, rng: np.random.Generator) -> Mask:
    """An ellipsoid about a voxel, (I, J, K)."""
    where = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), axis=-1)
    offset = (where - centre) * SPACING_MM / rng.uniform(0.85, 1.18, 3)
    return np.asarray(np.linalg.norm(offset, axis=-1) < radius_mm)
