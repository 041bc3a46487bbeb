"""The published training crop: MONAI's own transforms, in the published order and with the published numbers.

Where the description is silent (how a zoom pads, say), MONAI's defaults hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.transforms import (
    Compose,
    CropForegroundd,
    Lambdad,
    NormalizeIntensityd,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandRotate90d,
    RandRotated,
    RandShiftIntensityd,
    RandSpatialCropd,
    RandZoomd,
    SpatialPadd,
)
from numpy.typing import NDArray

from lib.settings import Intensity

IMAGE, LABEL = "image", "label"
BOTH = (IMAGE, LABEL)
# Half of the images are made brighter or darker by up to this much, in HU; where values are not HU, by as much of
# their spread as that is of the published sets' (their mean deviation is 48 HU).
SHIFT_HU, SHIFT_SHARE = 20.0, 0.42
# The crop that is centred on lesions is this much wider than the one that is trained on, which lies anywhere in it.
WIDER = 154 / 128
CENTRED_ODDS = (2, 1)  # on a lesion voxel against anywhere else
ZOOM_SHARE, ZOOM = 0.8, (0.85, 1.25)
IN_PLANE_SHARE, TURN, IN_PLANE_ZOOM = 0.3, np.pi / 6, (0.9, 1.1)
EVEN = 0.5

Patch = NDArray[np.float32]


@dataclass(frozen=True)
class CropRecipe:
    """What crops of a set have in common: their size, whether they are turned and zoomed within slices only, and
    whether voxel values are HU."""

    patch_size: int
    is_in_plane: bool = False
    is_hounsfield: bool = True


def training_crop(
    image: NDArray[np.float32],
    target: NDArray[np.bool_],
    intensity: Intensity,
    recipe: CropRecipe,
    rng: np.random.Generator,
) -> tuple[Patch, Patch]:
    """A patch and its target (P, P, P), drawn from a clipped image (D, H, W) that is not normalised yet; float32, the
    target 0 or 1."""
    transform = _transform(intensity, recipe)
    transform.set_random_state(int(rng.integers(2**31)))
    pair: Any = {IMAGE: torch.tensor(image[None]), LABEL: torch.tensor(target[None], dtype=torch.float32)}
    (drawn,) = transform(pair)
    return _array(drawn[IMAGE]), _array(drawn[LABEL])


def _transform(intensity: Intensity, recipe: CropRecipe) -> Compose:
    shift = SHIFT_HU if recipe.is_hounsfield else SHIFT_SHARE * intensity.std
    wide = round(recipe.patch_size * WIDER)
    low, high = IN_PLANE_ZOOM
    linear = ["trilinear"] * 2
    if recipe.is_in_plane:
        zoom = RandZoomd(BOTH, IN_PLANE_SHARE, (1.0, low, low), (1.0, high, high), mode=linear)
        turns = [RandRotated(BOTH, range_x=TURN, prob=IN_PLANE_SHARE, mode=["bilinear"] * 2), zoom]
    else:
        turns = [RandZoomd(BOTH, ZOOM_SHARE, *ZOOM, mode=linear)]
    return Compose(
        [
            RandShiftIntensityd(IMAGE, offsets=shift, prob=EVEN),
            CropForegroundd(BOTH, source_key=IMAGE, select_fn=lambda values: values > intensity.low),
            NormalizeIntensityd(IMAGE, subtrahend=np.array(intensity.mean), divisor=np.array(intensity.std)),
            *turns,
            Lambdad(LABEL, lambda values: (values > 0.5).float()),
            SpatialPadd(BOTH, spatial_size=[wide] * 3),
            RandCropByPosNegLabeld(
                BOTH, LABEL, spatial_size=[wide] * 3, pos=CENTRED_ODDS[0], neg=CENTRED_ODDS[1], num_samples=1
            ),
            RandSpatialCropd(BOTH, roi_size=[recipe.patch_size] * 3, random_size=False),
            *(RandFlipd(BOTH, prob=EVEN, spatial_axis=axis) for axis in range(3)),
            RandRotate90d(BOTH, prob=EVEN, spatial_axes=(0, 1)),
        ]
    )


def _array(values: Any) -> Patch:
    array: Patch = np.ascontiguousarray(values[0].numpy(), dtype=np.float32)
    return array
