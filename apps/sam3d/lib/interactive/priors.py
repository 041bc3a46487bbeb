"""The mask so far, from one patch to the next: the margin of an object as another patch sees it.

A margin is how much the object's logit exceeds the background's. What a network is given of it is its probability from
-1 to 1, and 0 where nothing is known.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lib.geometry import PatchGrid

Floats = NDArray[np.float32]

# The margin where no patch has looked, and the largest one that is kept: surer than this is of no use to anybody.
OUTSIDE = -8.0
SUREST = 8.0
# Samples over which a patch gives way to what lies around it.
RIM = 6
# A correction's patch is so many error depths wide; its answer counts fully within some of them, and fades out.
WIDTH_DEPTHS, FULL_DEPTHS, FADE = 9.0, 2.0, 1.6
# An error is at least this deep, in samples of the patch that is opened for it: else it would be lost in its middle.
LEAST_DEPTH = 2.0


@dataclass(frozen=True)
class Layer:
    """What one patch says: margin (P, P, P) and how much it counts, weight (P, P, P) from 0 to 1."""

    grid: PatchGrid
    margin: Floats
    weight: Floats


def as_prior(margin: Floats) -> Floats:
    """The network's third input: what was found, -1 background to 1 object."""
    return np.asarray(np.tanh(margin / 2), np.float32)


def rim_weights(size: int) -> Floats:
    """(P, P, P): 1 inside, falling to nearly 0 over the last samples at each border."""
    from_border = np.minimum(np.arange(size) + 0.5, size - np.arange(size) - 0.5)
    ramp = np.clip(from_border / RIM, 0, 1).astype(np.float32)
    return np.asarray(ramp[:, None, None] * ramp[None, :, None] * ramp[None, None, :])


def ball_weights(size: int, centre: NDArray[np.float64], radius: float) -> Floats:
    """(P, P, P): 1 within `radius` samples of a patch index (3,), falling to 0 at FADE times that."""
    along = [np.square(np.arange(size, dtype=np.float32) - np.float32(place)) for place in centre]
    distance = np.sqrt(along[0][:, None, None] + along[1][None, :, None] + along[2][None, None, :])
    return np.asarray(np.clip((FADE - distance / radius) / (FADE - 1), 0, 1), np.float32)


def composed(layers: Iterable[Layer], onto: PatchGrid) -> Floats:
    """The margin (Q, Q, Q) of some layers, coarse to fine, at the samples of another patch of the same volume."""
    margin = np.full((onto.size,) * 3, OUTSIDE, np.float32)
    for layer in layers:
        weight = layer.grid.resample(layer.weight, onto, 0.0)
        margin += weight * (layer.grid.resample(layer.margin, onto, 0.0) - margin)
    return margin
