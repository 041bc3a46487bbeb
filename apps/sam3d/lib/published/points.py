"""The published prompts: voxels drawn at random, with replacement, without a word on which side they are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

N_TARGET, N_ANYWHERE = 10, 20

Points = NDArray[np.int64]


def training_points(target: NDArray[np.bool_], rng: np.random.Generator) -> Points:
    """10 voxels of the target (P, P, P), none where it is empty, then 20 of the whole patch; (N, 3) patch voxels.

    The 20 were meant to be background, but may lie in the target, as published.
    """
    anywhere = np.ones(target.shape, np.bool_)
    return np.concatenate([drawn(target, N_TARGET, rng), drawn(anywhere, N_ANYWHERE, rng)])


def validation_points(target: NDArray[np.bool_], rng: np.random.Generator) -> Points:
    """10 voxels of the target (P, P, P), or of the whole patch where it is empty; (10, 3) patch voxels."""
    return drawn(target if target.any() else np.ones(target.shape, np.bool_), N_TARGET, rng)


def drawn(region: NDArray[np.bool_], count: int, rng: np.random.Generator) -> Points:
    """`count` voxels of a region, each as likely as any other and some perhaps twice; (0, 3) of an empty one."""
    places = np.flatnonzero(region)
    if not len(places):
        return np.zeros((0, 3), np.int64)
    return np.stack(np.unravel_index(rng.choice(places, count), region.shape), axis=1)
