"""What is practised on: one object of one volume, and how it is looked at for one sample."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from lib.boxes import Index
from lib.geometry import PatchGrid
from lib.images.preprocess import normalise
from lib.images.volumes import Volume
from lib.learning.case_cache import Region
from lib.settings import Intensity

Floats = NDArray[np.float32]

# Of the smallest object to practise on.
FEWEST_VOXELS = 20
# How often a first click is in the middle, and how often anywhere, deeper places rather than others.
MIDDLE_SHARE, DEEP_SHARE = 0.45, 0.4
INVERTED_SHARE, GAMMA_SHARE, NOISE_SHARE, BLUR_SHARE = 0.15, 0.3, 0.3, 0.15
# Between these normalised values contrast is bent.
BENT = (-2.5, 2.5)


@dataclass(eq=False)
class Subject:
    """One object to click on. `intensity` holds resolved numbers."""

    volume: Volume
    intensity: Intensity
    region: Region
    # Whether it is what a user would want found unasked, as a lesion is and one organ among many is not.
    is_sought: bool = True
    _depth: NDArray[np.uint8] | None = field(default=None, repr=False)

    @property
    def extent_mm(self) -> float:
        """The longest side of the box around the object."""
        return float((np.array(self.region.mask.shape) * self.volume.spacing).max())

    def target(self, grid: PatchGrid) -> Floats:
        """How much of each sample's surroundings (P, P, P) the object fills, 0 to 1."""
        start = self.region.start
        i, j, k = (place - first for place, first in zip(grid.centre, start, strict=True))
        return replace(grid, centre=(i, j, k)).sample(self.region.mask, fill=0.0)

    def first_click(self, rng: np.random.Generator) -> Index:
        """Where a user begins: the middle of the object, deep in it, or anywhere in it."""
        choice = rng.random()
        if choice > MIDDLE_SHARE + DEEP_SHARE:
            return self.region.draw(rng)
        depth = self._depths()
        if choice < MIDDLE_SHARE:
            deepest = np.flatnonzero(depth == depth.max())
            flat = int(deepest[int(rng.integers(deepest.size))])
        else:
            cumulative = np.cumsum(np.square(depth.ravel(), dtype=np.float32), dtype=np.float64)
            flat = int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
        inner = np.unravel_index(flat, depth.shape)
        i, j, k = (int(at) + first for at, first in zip(inner, self.region.start, strict=True))
        return i, j, k

    def _depths(self) -> NDArray[np.uint8]:
        if self._depth is None:
            mask = np.pad(self.region.mask, 1)
            depth = ndimage.distance_transform_edt(mask, sampling=self.volume.spacing / self.volume.spacing.min())
            self._depth = np.clip(np.rint(2 * depth[1:-1, 1:-1, 1:-1]), 0, 255).astype(np.uint8)
        return self._depth


@dataclass(frozen=True)
class Look:
    """One way to see a subject, the same for all of its patches: turned, mirrored, brighter, inverted, noisy."""

    order: tuple[int, int, int]
    flips: tuple[int, ...]
    scale: float
    shift: float
    gamma: float
    noise: float
    blur: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Look:
        order = (0, 1, 2)
        if rng.random() < 0.3:
            first, second, third = (int(axis) for axis in rng.permutation(3))
            order = (first, second, third)
        scale = float(np.exp(rng.uniform(-0.25, 0.25))) * (-1 if rng.random() < INVERTED_SHARE else 1)
        return cls(
            order,
            tuple(int(axis) for axis in np.flatnonzero(rng.random(3) < 0.4)),
            scale,
            float(rng.uniform(-0.3, 0.3)),
            float(np.exp(rng.uniform(-0.6, 0.6))) if rng.random() < GAMMA_SHARE else 1.0,
            float(rng.uniform(0, 0.3)) if rng.random() < NOISE_SHARE else 0.0,
            float(rng.uniform(0.3, 1.0)) if rng.random() < BLUR_SHARE else 0.0,
        )

    def patch(self, subject: Subject, grid: PatchGrid, rng: np.random.Generator) -> Floats:
        """The subject's voxels (P, P, P) as this look shows them, not yet turned; 0 outside of the volume."""
        values = normalise(grid.sample(subject.volume.array, fill=np.nan), subject.intensity)
        low, high = BENT
        if self.gamma != 1.0:
            share = np.clip((values - low) / (high - low), 0, 1) ** np.float32(self.gamma)
            inside = (values > low) & (values < high)
            values = np.where(inside, low + (high - low) * share, values)
        values = values * np.float32(self.scale) + np.float32(self.shift)
        if self.noise:
            values = values + np.float32(self.noise) * rng.standard_normal(values.shape, np.float32)
        values = np.nan_to_num(values, nan=0.0).astype(np.float32, copy=False)
        if self.blur:
            values = ndimage.gaussian_filter(values, self.blur)
        return values

    def turn(self, values: Floats) -> Tensor:
        """An array (P, P, P) as the network sees it, (1, 1, P, P, P)."""
        turned = np.flip(values.transpose(self.order), self.flips)
        return torch.from_numpy(np.ascontiguousarray(turned))[None, None]

    def turn_back(self, values: Floats) -> Floats:
        """Undo `turn` for an array (P, P, P)."""
        back: Floats = np.flip(values, self.flips).transpose(np.argsort(self.order))
        return np.ascontiguousarray(back)

    def turn_points(self, points: NDArray[np.float64], size: int) -> NDArray[np.float64]:
        """Patch indices (N, 3) where `turn` has taken them."""
        turned = points[:, list(self.order)].copy()
        for axis in self.flips:
            turned[:, axis] = size - 1 - turned[:, axis]
        return turned
