"""How a set's voxel values are normalised: by its preset, else by what its own training cases show."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lib.datasets.inspection import CaseFacts
from lib.settings import PRESETS, Intensity

# Clip values: these percentiles of the target's voxels over all training cases, as nnU-Net does (Isensee et al. 2021)
# and as the published constants look.
LOW, HIGH = 0.5, 99.5


def intensity_for(preset: str | None, training: Sequence[CaseFacts]) -> tuple[Intensity, str]:
    """The numbers, and where they come from in a few words. `training` are facts of cases that have the target.

    Where an image is no CT, raw values of one scanner mean nothing on another: each volume's own percentiles count.
    """
    if preset is not None:
        return PRESETS[preset], f"preset {preset}"
    if not all(facts.is_hounsfield for facts in training):
        return PRESETS["mr"], "percentiles of each volume, for not all images look like CT"
    # Each case counts the same, whatever the size of its target.
    values = np.concatenate([facts.values for facts in training])
    low, high = np.percentile(values, [LOW, HIGH])
    clipped = np.clip(values, low, high)
    spread = float(clipped.std()) or 1.0  # a flat target has no spread to divide by
    measured = Intensity(round(float(low), 3), round(float(high), 3), round(float(clipped.mean()), 3), round(spread, 3))
    return measured, f"measured on the target of {len(training)} training cases"
