"""Training patches cut out of whole phantoms as a click's patch is cut out of a patient, at any of the zooms.

Scenes that fill one patch (lib.synthesis.patches) vary more; these have the surroundings, the slices and the borders
of whole volumes, and show the same object from as near and as far as the predictor looks at it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lib.geometry import PatchGrid
from lib.images.preprocess import intensity_of, sample_patch
from lib.images.volumes import Volume, make_volume
from lib.interactive.clicks import first_click
from lib.interactive.patches import finest_that_holds
from lib.learning.augmentation import Augmentation
from lib.learning.case_cache import Region
from lib.settings import PRESETS
from lib.synthesis.phantoms import Phantom, practice_phantom

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

LESION_SHARE = 0.75
# What else can be told from its surroundings as a whole.
ORGANS = frozenset(
    {
        *("liver", "spleen", "kidney_left", "kidney_right", "stomach", "organ", "fluid", "nucleus", "spine", "bone"),
        *("aorta", "vena_cava", "vessel"),
    }
)
FEWEST_VOXELS = 15
# A patch must show this much of its target; from far away a lesion of a few mm is hardly a sample, and found all the
# same: whoever asks all zooms must not hear of something larger there.
FEWEST_SHOWN, FEWEST_SHOWN_FROM_AFAR = 30, 3
# How often the place is the target's middle, not anywhere in it.
MIDDLE_SHARE = 0.7
# How often the patch is that of a click there, and how far off it may lie else, as a share of a half.
CENTRED_SHARE, JITTER = 0.5, 0.5
# How often the zoom is not the one that fits: the predictor looks at all of them, and must not be misled by any.
OTHER_ZOOM_SHARE = 0.5
VARIATION = Augmentation(flip_share=0.3, shift=0.25, scale=0.15)


def phantom_view(rng: np.random.Generator, size: int, zooms_mm: Sequence[float]) -> tuple[Floats, Mask]:
    """A patch (P, P, P) float32, axes (d, h, w), and its target bool: one object of one phantom, seen with samples one
    of `zooms_mm` apart (finest first)."""
    while True:
        phantom, family = practice_phantom(rng)
        target = _target(rng, phantom)
        if target is None:
            continue
        volume = make_volume(phantom.array, phantom.affine, "phantom")
        region = Region.around(target)
        grid, fewest = _placed(rng, volume, region, first_click(target, volume.spacing), size, zooms_mm)
        shown = region.target(grid)
        if shown.sum() < fewest:
            continue
        patch = sample_patch(volume, grid, intensity_of(volume, PRESETS[family]))
        patch, shown, _ = VARIATION(patch, shown, (0, 0, 0), rng)
        return patch, shown > 0


def _placed(
    rng: np.random.Generator,
    volume: Volume,
    region: Region,
    middle: tuple[int, int, int],
    size: int,
    zooms_mm: Sequence[float],
) -> tuple[PatchGrid, int]:
    """A patch that shows the object, mostly around its middle and at the zoom that it fits into, and how many samples
    of it there must be."""
    voxel = middle if rng.random() < MIDDLE_SHARE else region.draw(rng)
    grids = [PatchGrid.around(volume.affine, voxel, size, spacing_mm) for spacing_mm in zooms_mm]
    fitting = finest_that_holds(((grid, region.target(grid) - 0.5) for grid in grids), volume)
    number = int(rng.integers(len(grids))) if rng.random() < OTHER_ZOOM_SHARE else fitting
    grid = grids[number]
    if rng.random() > CENTRED_SHARE:
        reach = int(JITTER * (size // 2))
        grid = grid.shifted(rng.integers(-reach, reach + 1, size=3))
    return grid, FEWEST_SHOWN_FROM_AFAR if number > fitting else FEWEST_SHOWN


def _target(rng: np.random.Generator, phantom: Phantom) -> Mask | None:
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
