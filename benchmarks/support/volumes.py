"""Images of any size, quickly made: a body in air, noise all over, and bright balls to click on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

AIR_HU, BODY_HU, BALL_HU, NOISE_HU = -1000, 40, 150, 15
RADIUS_MM = 12.0


@dataclass(frozen=True)
class BallVolume:
    """Voxels (I, J, K), mm per voxel, and the voxels in the balls' middles (N, 3)."""

    array: NDArray[np.int16]
    spacing: tuple[float, float, float]
    middles: NDArray[np.int64]

    @property
    def affine(self) -> NDArray[np.float64]:
        return np.diag([*self.spacing, 1.0])

    def save(self, path: Path) -> None:
        nibabel.save(nibabel.Nifti1Image(self.array, self.affine), path)


def with_balls(
    shape: tuple[int, int, int], spacing: tuple[float, float, float] = (0.8, 0.8, 1.0), balls: int = 1, seed: int = 0
) -> BallVolume:
    """`balls` of them lie as far apart as a row along the longest side allows."""
    rng = np.random.default_rng(seed)
    array = np.full(shape, AIR_HU, np.int16)
    array[tuple(slice(n // 8, n - n // 8) for n in shape)] = BODY_HU
    longest = int(np.argmax(np.array(shape) * spacing))
    middles = np.tile(np.array(shape) // 2, (balls, 1))
    middles[:, longest] = (np.arange(balls) + 1) * shape[longest] // (balls + 1)
    reach = np.ceil(RADIUS_MM / np.array(spacing)).astype(int)
    for middle in middles:
        low, high = np.maximum(middle - reach, 0), np.minimum(middle + reach + 1, shape)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        axes = [(np.arange(a, b) - m) * s for a, b, m, s in zip(low, high, middle, spacing, strict=True)]
        distance = np.linalg.norm(np.stack(np.meshgrid(*axes, indexing="ij")), axis=0)
        array[box][distance < RADIUS_MM] = BALL_HU
    tile = rng.normal(0, NOISE_HU, (64, 64, 64)).astype(np.int16)
    for start in range(0, shape[2], 64):
        part = array[:, :, start : start + 64]
        repeats = [-(-n // 64) for n in part.shape]
        part += np.tile(tile, repeats)[tuple(slice(n) for n in part.shape)]
    return BallVolume(array, spacing, middles)
