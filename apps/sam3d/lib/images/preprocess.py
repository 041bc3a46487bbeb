"""The one road from a volume to the patch a network sees, for inference, training and scoring alike.

Order, as the method was published: sample at the patch's spacing, clip, normalise, and only then 0 outside.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.geometry import PatchGrid
from lib.images.volumes import Volume
from lib.settings import PRESETS, Intensity

# Percentiles are read off at most about this many voxels, spread evenly.
SAMPLED_VOXELS = 1_000_000
# Air is what lies in the lowest twentieth between the least value and the (nearly) greatest: noise, masks and all.
AIR_FRACTION = 0.05
BRIGHT_PERCENTILE = 99.5
# Where percentiles do not clip, values farther from the mean than this do.
OPEN_DEVIATIONS = 100.0
# Fat is about -100 HU, lung and air are far below; of MR images that had values below 0 at all (interpolation, bias
# correction), one in five thousand voxels or fewer lay this low.
FAT_OR_AIR_HU = -50
FAT_OR_AIR_SHARE = 0.001

NOT_HOUNSFIELD = "no voxel is as dark as fat or air on CT, so preset any was used: name preset ct for CT"


def intensity_of(volume: Volume, intensity: Intensity) -> Intensity:
    """The numbers to normalise this volume with: percentiles become values; anything else is passed through."""
    if not intensity.is_percentile:
        return intensity
    values = _some_values(volume)
    lowest, bright = values.min(), np.percentile(values, BRIGHT_PERCENTILE)
    tissue = values[values > lowest + AIR_FRACTION * (bright - lowest)]
    if not len(tissue):
        tissue = values
    low, high = np.percentile(tissue, [intensity.low, intensity.high])
    clipped = np.clip(tissue, low, high)
    # A flat volume has no spread to divide by, and becomes 0 all over.
    mean, std = float(clipped.mean()), float(clipped.std()) or 1.0
    if intensity.is_open:
        return Intensity(mean - OPEN_DEVIATIONS * std, mean + OPEN_DEVIATIONS * std, mean, std)
    return Intensity(float(low), float(high), mean, std)


def chosen_intensity(volume: Volume, intensity: Intensity, is_named: bool) -> tuple[Intensity, tuple[str, ...]]:
    """The numbers to normalise this volume with, and a note where they are not those of `intensity`: unless somebody
    named it, the CT preset is not used on what is no CT."""
    if not is_named and intensity == PRESETS["ct"] and not looks_like_hounsfield(volume):
        return intensity_of(volume, PRESETS["any"]), (NOT_HOUNSFIELD,)
    return intensity_of(volume, intensity), ()


def looks_like_hounsfield(volume: Volume) -> bool:
    """Whether raw voxel values are those of CT: some of them as low as fat, lung or air.

    False for MR, for CT whose offset was dropped (air at 0), and for a cut-out of bare organ without fat or air.
    """
    return bool((_some_values(volume) < FAT_OR_AIR_HU).mean() >= FAT_OR_AIR_SHARE)


def _some_values(volume: Volume) -> NDArray[np.float64]:
    """All voxels (N,) of a small volume, evenly spread ones of a large one."""
    step = max(1, int(np.ceil((volume.array.size / SAMPLED_VOXELS) ** (1 / 3))))
    return volume.array[::step, ::step, ::step].astype(np.float64).ravel()


def normalise(values: NDArray[Any], intensity: Intensity) -> NDArray[np.float32]:
    """Clip to [low, high], then (value - mean) / std, as float32 of the same shape; NaN stays NaN."""
    assert not intensity.is_percentile, "percentiles must be resolved by intensity_of first"
    clipped = np.clip(np.asarray(values, dtype=np.float32), np.float32(intensity.low), np.float32(intensity.high))
    clipped -= np.float32(intensity.mean)
    clipped /= np.float32(intensity.std)
    return clipped


def sample_patch(volume: Volume, grid: PatchGrid, intensity: Intensity, antialias: bool = True) -> NDArray[np.float32]:
    """The network's input (P, P, P), axes (d, h, w): 0, the mean, outside of the volume; `intensity` is resolved."""
    patch = normalise(grid.sample(volume.array, fill=np.nan, antialias=antialias), intensity)
    return np.nan_to_num(patch, copy=False, nan=0.0)
