"""Cases to annotate: files of an image and its truth, some of a family that the demo network never saw."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lib.images.volumes import open_volume
from lib.synthesis.phantoms import make_phantom

FAMILY_SEED = 9000
SHAPE, SPACING_MM = (120, 120, 64), (1.6, 1.6, 2.2)


@dataclass(frozen=True)
class AnnotatedCase:
    """An image in the studies folder, and its truth outside of it, where the server does not see it."""

    name: str
    image: Path
    label: Path

    def truth(self) -> NDArray[np.bool_]:
        return np.asarray(open_volume(self.label).array > 0)

    def spacing(self) -> NDArray[np.float64]:
        return open_volume(self.image).spacing


def new_family(count: int, studies: Path, truths: Path) -> list[AnnotatedCase]:
    """Phantoms with two targets each: a bright core within a dark coat, both of which are the lesion. The demo network
    has learned that an object is of one piece, and answers a click on the core with the core."""
    return [_write(f"coated_{number:02}", *_coated(number), studies, truths) for number in range(count)]


def paired(folder: Path, studies: Path, truths: Path) -> list[AnnotatedCase]:
    """Copies of the cases of a folder, `*_image.nii.gz` beside `*_label.nii.gz`, by name."""
    cases = []
    for image in sorted(folder.glob("*_image.nii.gz")):
        name = image.name.removesuffix("_image.nii.gz")
        label = image.with_name(f"{name}_label.nii.gz")
        case = AnnotatedCase(name, studies / f"{name}.nii.gz", truths / f"{name}.nii.gz")
        case.image.write_bytes(image.read_bytes())
        case.label.write_bytes(label.read_bytes())
        cases.append(case)
    return cases


def poisoned(cases: list[AnnotatedCase], how: str, folder: Path) -> list[Path]:
    """Label files to submit for the cases, in their order: `true`, `shuffled` between them, `inverted` or `empty`."""
    written = []
    for number, case in enumerate(cases):
        image, truth = nibabel.load(case.image), case.truth()
        if how == "shuffled":
            other = cases[(number + 1) % len(cases)].truth()
            truth = np.zeros_like(truth)
            common = tuple(slice(0, min(a, b)) for a, b in zip(truth.shape, other.shape, strict=True))
            truth[common] = other[common]
        elif how == "inverted":
            truth = ~truth
        elif how == "empty":
            truth = np.zeros_like(truth)
        path = folder / f"{how}_{case.name}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(truth.astype(np.uint8), image.affine), path)
        written.append(path)
    return written


def _coated(number: int) -> tuple[NDArray[np.int16], NDArray[np.float64], NDArray[np.bool_]]:
    """Image, affine and truth of a phantom of the new family."""
    rng = np.random.default_rng([FAMILY_SEED, number])
    phantom = make_phantom(FAMILY_SEED + number, SHAPE, SPACING_MM, scene="parenchyma")
    image, truth = phantom.array.astype(np.float32), np.zeros(SHAPE, np.bool_)
    where = np.stack(
        np.meshgrid(*(np.arange(n) * s for n, s in zip(SHAPE, SPACING_MM, strict=True)), indexing="ij"), -1
    )
    for side in (0.3, 0.7):
        extent = np.array(SHAPE) * SPACING_MM
        centre = extent * [side, rng.uniform(0.35, 0.65), rng.uniform(0.35, 0.65)]
        stretch = rng.uniform(0.8, 1.25, 3)
        distance = np.linalg.norm((where - centre) / stretch, axis=-1)
        core_mm = rng.uniform(6.0, 9.0)
        coat_mm = core_mm + rng.uniform(5.0, 8.0)
        for inside, change in ((distance < coat_mm, -90.0), (distance < core_mm, 230.0)):
            image += change * ndimage.gaussian_filter(inside.astype(np.float32), 0.6)
        truth |= distance < coat_mm
    return np.clip(image, -1024, 3071).astype(np.int16), phantom.affine, truth


def _write(
    name: str,
    array: NDArray[np.int16],
    affine: NDArray[np.float64],
    truth: NDArray[np.bool_],
    studies: Path,
    truths: Path,
) -> AnnotatedCase:
    case = AnnotatedCase(name, studies / f"{name}.nii.gz", truths / f"{name}.nii.gz")
    nibabel.save(nibabel.Nifti1Image(array, affine), case.image)
    nibabel.save(nibabel.Nifti1Image(truth.astype(np.uint8), affine), case.label)
    return case
