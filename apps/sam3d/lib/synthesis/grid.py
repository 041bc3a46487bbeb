"""Where a synthetic volume's voxels lie, and the two cheap tools everything is made with: smooth random
fields and per-axis matrices.

A field or a blur over a box of n^3 voxels is three small matrix products, which on one core is many times faster than
`scipy.ndimage` at the sizes used here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Grid:
    """An axis-aligned lattice; `axes` are the voxel centres' positions in mm, ascending, evenly spaced."""

    axes: tuple[Floats, Floats, Floats]

    @classmethod
    def centred(cls, shape: tuple[int, ...], spacing_mm: tuple[float, ...] = (1.0, 1.0, 1.0)) -> Grid:
        """A grid whose voxel with index shape // 2 lies at 0 mm."""
        first, second, third = (
            ((np.arange(n) - n // 2) * step).astype(np.float32) for n, step in zip(shape, spacing_mm, strict=True)
        )
        return cls((first, second, third))

    def moved(self, offset_mm: NDArray[np.float64]) -> Grid:
        """The same lattice, `offset_mm` (3,) further along its axes."""
        first, second, third = (
            (axis + np.float32(offset)).astype(np.float32) for axis, offset in zip(self.axes, offset_mm, strict=True)
        )
        return Grid((first, second, third))

    @property
    def shape(self) -> tuple[int, int, int]:
        first, second, third = self.axes
        return len(first), len(second), len(third)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        first, second, third = (float(axis[1] - axis[0]) if len(axis) > 1 else 1.0 for axis in self.axes)
        return first, second, third

    @property
    def low_mm(self) -> Floats:
        return np.array([axis[0] for axis in self.axes], np.float32)

    @property
    def high_mm(self) -> Floats:
        return np.array([axis[-1] for axis in self.axes], np.float32)

    def refined(self, factors: tuple[int, ...]) -> Grid:
        """Each voxel cut into `factors[a]` along axis a; odd factors keep the old centres among the new ones."""
        first, second, third = (
            (axis[:, None] + step * (np.arange(n) - (n - 1) / 2) / n).ravel().astype(np.float32)
            for axis, step, n in zip(self.axes, self.spacing_mm, factors, strict=True)
        )
        return Grid((first, second, third))

    def box(self, low_mm: NDArray[np.float64], high_mm: NDArray[np.float64]) -> Box:
        """The voxels between two corners; its slices may be empty."""
        first, second, third = (
            slice(int(np.searchsorted(axis, low)), int(np.searchsorted(axis, high, side="right")))
            for axis, low, high in zip(self.axes, low_mm, high_mm, strict=True)
        )
        return first, second, third

    def crop(self, box: Box) -> Grid:
        first, second, third = (axis[part] for axis, part in zip(self.axes, box, strict=True))
        return Grid((first, second, third))


def is_empty(box: Box) -> bool:
    return any(part.stop <= part.start for part in box)


def apply_axes(array: Floats, matrices: tuple[Floats, Floats, Floats]) -> Floats:
    """`matrices[a]` (m, n) applied along axis a of `array`."""
    first, second, third = matrices
    head = first @ array.reshape(array.shape[0], -1)
    out = head.reshape(first.shape[0], *array.shape[1:])
    out = np.matmul(second, out)
    return np.asarray(out @ third.T, np.float32)


def smooth_field(rng: np.random.Generator, grid: Grid, period_mm: float) -> Floats:
    """A random field of zero mean and unit deviation that turns over about every `period_mm`."""
    weights = [_spline_weights(axis, period_mm) for axis in grid.axes]
    shape = tuple(matrix.shape[1] for matrix in weights)
    lattice = rng.standard_normal(shape, np.float32)
    # Along the long axes last: the products are smallest that way.
    out = np.matmul(weights[1], (weights[0] @ lattice.reshape(shape[0], -1)).reshape(-1, *shape[1:]))
    return np.asarray(out @ weights[2].T, np.float32)


def _spline_weights(axis: Floats, period_mm: float) -> Floats:
    """Quadratic B-spline weights (n, lattice), scaled so that white noise keeps its deviation."""
    knots = int(np.ceil((axis[-1] - axis[0]) / period_mm)) + 3
    position = (axis - axis[0]) / period_mm + 1.0
    distance = np.abs(position[:, None] - np.arange(knots)[None, :])
    weights = np.where(distance < 0.5, 0.75 - distance**2, 0.5 * np.maximum(1.5 - distance, 0.0) ** 2)
    weights /= np.sqrt((weights**2).sum(1, keepdims=True))
    return weights.astype(np.float32)


def gaussian_matrix(n: int, sigma: float) -> Floats:
    """Blur along one axis; `sigma` in voxels. Rows sum to 1, so the border is not darkened."""
    offset = np.arange(n)[:, None] - np.arange(n)[None, :]
    kernel = np.exp(-0.5 * (offset / max(sigma, 1e-3)) ** 2)
    kernel /= kernel.sum(1, keepdims=True)
    return np.asarray(kernel, np.float32)


def slices_matrices(n: int, thickness: float, start: float) -> tuple[Floats, Floats]:
    """Acquisition of `n` fine samples as thick slices: (average (slices, n), interpolate (n, slices)).

    Slices are `thickness` samples apart and thick; the first slice's centre lies at sample `start`.
    """
    centres = np.arange(start, n - 1 + thickness, thickness)
    distance = np.abs(centres[:, None] - np.arange(n)[None, :])
    average = np.clip(thickness / 2 + 0.5 - distance, 0.0, 1.0) + 1e-6 * np.exp(-distance)
    average /= average.sum(1, keepdims=True)
    position = np.clip((np.arange(n) - start) / thickness, 0, len(centres) - 1)
    interpolate = np.clip(1.0 - np.abs(position[:, None] - np.arange(len(centres))[None, :]), 0.0, 1.0)
    return average.astype(np.float32), interpolate.astype(np.float32)
