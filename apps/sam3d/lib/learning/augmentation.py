"""Light variation of training patches: mirrored, brighter or fainter, each voxel of the target kept with its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lib.boxes import Index

Patch = NDArray[np.float32]


@dataclass(frozen=True)
class Augmentation:
    """How much patches may change; `shift` and `scale` are in the network's normalised units."""

    flip_share: float = 0.5
    shift: float = 0.2
    scale: float = 0.1

    def __call__(self, patch: Patch, target: Patch, at: Index, rng: np.random.Generator) -> tuple[Patch, Patch, Index]:
        """A changed patch (P, P, P), its target (P, P, P), and where the patch index `at` (d, h, w) has come to lie."""
        is_flipped = rng.random(3) < self.flip_share
        axes = tuple(int(axis) for axis in np.flatnonzero(is_flipped))
        factor = np.float32(1.0 + self.scale * rng.uniform(-1.0, 1.0))
        shift = np.float32(self.shift * rng.uniform(-1.0, 1.0))
        d, h, w = (
            n - 1 - place if flipped else place for place, n, flipped in zip(at, patch.shape, is_flipped, strict=True)
        )
        changed = np.ascontiguousarray(np.flip(patch, axes)) * factor + shift
        return changed, np.ascontiguousarray(np.flip(target, axes)), (d, h, w)
