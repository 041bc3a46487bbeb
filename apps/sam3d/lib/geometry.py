"""Where things are: the one road between voxel indices, and the patch of a volume that a network sees.

Indices are floats with voxel centres on whole numbers. An affine is (4, 4) and takes a voxel index (i, j, k) to RAS
millimetres. A patch has axes (d, h, w): d runs towards Superior, h towards Anterior, w towards Right, each along the
voxel axis of the volume that lies closest, so a patch is never rotated against its volume and sampling is separable.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from nibabel.orientations import io_orientation
from numpy.typing import ArrayLike, NDArray

from lib.errors import GeometryError

Floats = NDArray[np.float64]
Box = tuple[slice, slice, slice]
Shape = tuple[int, int, int]

# An affine whose axes, at unit length, span less than this volume is taken for flat (1 is a right-angled one).
MIN_UNIT_VOLUME = 1e-4
# Float32 affines put a sample that belongs on the volume's very edge this far (in voxels) beside it.
EDGE_TOLERANCE = 1e-4
# Voxels turned to float32 at once while sampling, so that a fine grid under a patch needs no second copy of its box.
SLAB_VOXELS = 4_000_000


def check_affine(affine: ArrayLike) -> Floats:
    """The affine as float64 (4, 4); GeometryError if it is not one that can be inverted."""
    matrix = np.asarray(affine, dtype=np.float64)
    if matrix.shape != (4, 4):
        raise GeometryError(f"an affine must be a 4 x 4 matrix, but this one has shape {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise GeometryError(f"the affine holds values that are not finite: {matrix.tolist()}")
    if matrix[3].tolist() != [0.0, 0.0, 0.0, 1.0]:
        raise GeometryError(f"the last row of an affine must be 0 0 0 1, but it is {matrix[3].tolist()}")
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    if not (lengths > 0).all():
        raise GeometryError(f"the affine is singular: its voxels measure {lengths.tolist()} mm")
    unit_volume = abs(float(np.linalg.det(matrix[:3, :3] / lengths)))
    if unit_volume < MIN_UNIT_VOLUME:
        raise GeometryError(f"the affine is singular: its axes lie in one plane, {matrix[:3, :3].tolist()}")
    return matrix


def spacing_of(affine: ArrayLike) -> Floats:
    """Millimetres from a voxel to the next along i, j and k, (3,)."""
    lengths: Floats = np.linalg.norm(check_affine(affine)[:3, :3], axis=0)
    return lengths


def map_indices(points: ArrayLike, from_affine: ArrayLike, to_affine: ArrayLike) -> Floats:
    """Indices (N, 3) of one grid as float indices (N, 3) of another: the only function that turns a click."""
    indices = _as_points(points)
    step = np.linalg.solve(check_affine(to_affine), check_affine(from_affine))
    mapped: Floats = indices @ step[:3, :3].T + step[:3, 3]
    return mapped


def canonical_axes(affine: ArrayLike) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """For each patch axis (d, h, w): the voxel axis closest to it, and +1 or -1 where that runs the other way.

    Voxel axes that lie evenly between two directions go to one of them by nibabel's rule; no axis is ever taken twice.
    """
    directions = io_orientation(check_affine(affine))  # type: ignore[no-untyped-call]
    towards = [int(direction) for direction in directions[:, 0]]
    axes = (towards.index(2), towards.index(1), towards.index(0))
    signs = (int(directions[axes[0], 1]), int(directions[axes[1], 1]), int(directions[axes[2], 1]))
    return axes, signs


@dataclass(frozen=True)
class PatchGrid:
    """A cube of size^3 samples along a volume's own voxel axes; make one with `PatchGrid.around`.

    `centre` is a native index (i, j, k); `axes` and `steps` give, for d, h and w, the native axis and the signed native
    voxels from one sample to the next; `offset` says how many samples the cube was moved off the centre.
    """

    centre: tuple[float, float, float]
    axes: tuple[int, int, int]
    steps: tuple[float, float, float]
    size: int
    spacing_mm: float
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @classmethod
    def around(cls, affine: ArrayLike, centre: ArrayLike, size: int, spacing_mm: float) -> PatchGrid:
        """The patch whose sample (size // 2, size // 2, size // 2) falls exactly on the native index `centre` (3,)."""
        middle = _as_points(np.asarray(centre)[None])[0]
        if size < 1:
            raise GeometryError(f"a patch needs at least one sample a side, but its size is {size}")
        if not (np.isfinite(spacing_mm) and spacing_mm > 0):
            raise GeometryError(f"a patch's spacing must be more than 0 mm, but it is {spacing_mm}")
        axes, signs = canonical_axes(affine)
        spacing = spacing_of(affine)
        steps = [sign * spacing_mm / float(spacing[axis]) for axis, sign in zip(axes, signs, strict=True)]
        return cls(_triple(middle), axes, _triple(steps), int(size), float(spacing_mm))

    @property
    def key(self) -> tuple[object, ...]:
        """The same for the same patch of the same volume, and hashable."""
        return (self.centre, self.axes, self.steps, self.size, self.spacing_mm, self.offset)

    @property
    def to_volume(self) -> Floats:
        """(4, 4), taking a patch index (d, h, w) to a native float index (i, j, k)."""
        matrix = np.eye(4)
        matrix[:3, :3] = 0.0
        for column, axis in enumerate(self.axes):
            matrix[axis, column] = self.steps[column]
            matrix[axis, 3] = self._positions(column, np.zeros(1))[0]
        return matrix

    def shifted(self, offset: ArrayLike) -> PatchGrid:
        """The patch `offset` (3,) samples further along (d, h, w); whole numbers keep the samples on one lattice."""
        return replace(self, offset=_triple(np.asarray(self.offset) + _as_points(np.asarray(offset)[None])[0]))

    def indices(self, points: ArrayLike) -> Floats:
        """Native indices (N, 3) as float patch indices (N, 3) in the order (d, h, w)."""
        indices: Floats = self._units(_as_points(points)) + self.size // 2 - np.asarray(self.offset)
        return indices

    def contains(self, points: ArrayLike, margin: float = 0) -> NDArray[np.bool_]:
        """Which native points (N, 3) lie in a cell of the patch, `margin` cells or more from its border; (N,)."""
        cells = self._cells(self._units(_as_points(points)))
        inside: NDArray[np.bool_] = ((cells >= margin) & (cells < self.size - margin)).all(axis=1)
        return inside

    def box(self, shape: tuple[int, ...], samples: Box | None = None) -> Box:
        """The native voxels whose centres lie in the patch: neighbouring patches share none and leave none out.

        With `samples`, slices along (d, h, w), only those that are nearest to one of these.
        """
        low, high = [0, 0, 0], [0, 0, 0]
        for column, axis in enumerate(self.axes):
            points = np.zeros((shape[axis], 3))
            points[:, axis] = np.arange(shape[axis])
            cells = self._cells(self._units(points))[:, column]
            start, stop = (0, self.size) if samples is None else (samples[column].start, samples[column].stop)
            inside = np.flatnonzero((cells >= max(0, start)) & (cells < min(self.size, stop)))
            if not len(inside):
                raise GeometryError(
                    f"the patch around voxel {self.centre}, moved by {self.offset} samples, holds no voxel of the "
                    f"volume of shape {tuple(shape)}"
                )
            low[axis], high[axis] = int(inside[0]), int(inside[-1]) + 1
        return slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2])

    def sample(self, array: NDArray[np.generic], fill: float, antialias: bool = True) -> NDArray[np.float32]:
        """The patch (P, P, P) of an array (I, J, K), by linear interpolation; touches no voxel beside the patch.

        Samples more than half a voxel outside of the volume are `fill`. Along an axis where samples lie further apart
        than voxels, `antialias` widens the kernel to the samples' distance, so that every voxel has its say.
        """
        patch = np.full((self.size,) * 3, fill, dtype=np.float32)
        inside: list[slice] = []
        weights: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * 3
        box: list[slice] = [slice(0)] * 3
        for column, axis in enumerate(self.axes):
            positions = self._positions(column, np.arange(self.size))
            reach = 0.5 + EDGE_TOLERANCE
            known = np.flatnonzero((positions >= -reach) & (positions <= array.shape[axis] - 1 + reach))
            if not len(known):
                return patch
            inside.append(slice(int(known[0]), int(known[-1]) + 1))
            support = max(1.0, abs(self.steps[column])) if antialias else 1.0
            box[axis], weights[axis] = _interpolation(positions[inside[-1]], array.shape[axis], support)
        values = _apply(array[box[0], box[1], box[2]], weights)
        patch[inside[0], inside[1], inside[2]] = values.transpose(self.axes)
        return patch

    def paste_values(
        self, values: NDArray[np.floating[Any]], shape: tuple[int, ...], box: Box | None = None
    ) -> tuple[Box, NDArray[np.float32]]:
        """The patch's box in a volume of `shape`, or a box within that, and values (P, P, P) interpolated linearly at
        its voxel centres."""
        if values.shape != (self.size,) * 3:
            raise GeometryError(f"a patch of size {self.size} cannot paste values of shape {values.shape}")
        box = box or self.box(shape)
        weights: list[NDArray[np.float32]] = []
        source: list[slice] = []
        for column, axis in enumerate(self.axes):
            points = np.zeros((box[axis].stop - box[axis].start, 3))
            points[:, axis] = np.arange(box[axis].start, box[axis].stop)
            part, rows = _interpolation(self.indices(points)[:, column], self.size, support=1.0)
            source.append(part)
            weights.append(rows)
        pasted = _apply(values[source[0], source[1], source[2]], weights)
        return box, np.ascontiguousarray(pasted.transpose(np.argsort(self.axes)))

    def resample(self, values: NDArray[np.floating[Any]], onto: PatchGrid, fill: float) -> NDArray[np.float32]:
        """Values (P, P, P) of this patch at the samples (Q, Q, Q) of another one of the same volume, by linear
        interpolation; `fill` at samples more than half a step outside of this patch."""
        resampled = np.full((onto.size,) * 3, fill, dtype=np.float32)
        inside: list[slice] = []
        weights: list[NDArray[np.float32]] = []
        source: list[slice] = []
        for column in range(3):
            natives = onto._positions(column, np.arange(onto.size))
            positions = (natives - self._positions(column, np.zeros(1))) / self.steps[column]
            known = np.flatnonzero((positions >= -0.5) & (positions <= self.size - 0.5))
            if not len(known):
                return resampled
            inside.append(slice(int(known[0]), int(known[-1]) + 1))
            support = max(1.0, abs(onto.steps[column] / self.steps[column]))
            part, rows = _interpolation(positions[inside[-1]], self.size, support)
            source.append(part)
            weights.append(rows)
        resampled[inside[0], inside[1], inside[2]] = _apply(values[source[0], source[1], source[2]], weights)
        return resampled

    def _units(self, points: Floats) -> Floats:
        """Native points (N, 3) in samples from the centre of the unmoved patch, (N, 3) as (d, h, w)."""
        axes = list(self.axes)
        units: Floats = (points[:, axes] - np.asarray(self.centre)[axes]) / np.asarray(self.steps)
        return units

    def _cells(self, units: Floats) -> Floats:
        # Rounded before the patch's own place is added, so that neighbours agree on who owns a voxel on their border.
        cells: Floats = np.floor(units + 0.5) + self.size // 2 - np.asarray(self.offset)
        return cells

    def _positions(self, column: int, samples: Floats | NDArray[np.int_]) -> Floats:
        """Native index, along its axis, of samples of one patch axis."""
        moved = samples - self.size // 2 + self.offset[column]
        positions: Floats = self.centre[self.axes[column]] + self.steps[column] * moved
        return positions


def same_place(
    grid: PatchGrid, affine: ArrayLike, shape: Shape, other_affine: ArrayLike, other_shape: Shape
) -> PatchGrid:
    """The patch of another volume that lies there as `grid` lies in its own: as far along the volume's extent towards
    Superior, Anterior and Right, of the same size and spacing."""
    axes, signs = canonical_axes(affine)
    other_axes, other_signs = canonical_axes(other_affine)
    centre = np.zeros(3)
    for axis, sign, other_axis, other_sign in zip(axes, signs, other_axes, other_signs, strict=True):
        share = (grid.centre[axis] + 0.5) / shape[axis]
        centre[other_axis] = (share if sign == other_sign else 1 - share) * other_shape[other_axis] - 0.5
    return PatchGrid.around(other_affine, centre, grid.size, grid.spacing_mm).shifted(grid.offset)


def _interpolation(positions: Floats, length: int, support: float) -> tuple[slice, NDArray[np.float32]]:
    """The entries of an axis of `length` that matter to samples at `positions` (M,), and their weights (M, entries).

    The kernel is a triangle of half-width `support`. What it leaves outside of the axis is shared among the rest, which
    for a support of 1 repeats the border value up to half a voxel beyond it.
    """
    low = max(0, int(np.floor(positions.min() - support)) + 1)
    high = min(length - 1, int(np.ceil(positions.max() + support)) - 1)
    low, high = min(low, length - 1), max(high, 0)
    distances = np.abs(positions[:, None] - np.arange(low, high + 1)[None, :])
    weights = np.maximum(0.0, 1.0 - distances / support)
    weights /= weights.sum(axis=1, keepdims=True)
    return slice(low, high + 1), weights.astype(np.float32)


def _apply(array: NDArray[np.generic], weights: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Weights (M, n) of each axis applied to an array (n0, n1, n2), in slabs along the axis slowest in memory."""
    order = sorted(range(3), key=lambda axis: -abs(array.strides[axis]))
    ordered = array.transpose(order)
    outer, middle, inner = (weights[axis] for axis in order)
    rows = max(1, SLAB_VOXELS // max(1, ordered.shape[1] * ordered.shape[2]))
    planes = np.empty((ordered.shape[0], len(middle), len(inner)), dtype=np.float32)
    for start in range(0, len(ordered), rows):
        slab = ordered[start : start + rows].astype(np.float32)
        planes[start : start + rows] = middle @ (slab @ inner.T)
    flat = outer @ planes.reshape(len(planes), -1)
    result = flat.reshape(len(outer), len(middle), len(inner))
    return result.transpose(np.argsort(order))


def _as_points(points: ArrayLike) -> Floats:
    indices = np.asarray(points, dtype=np.float64)
    if indices.size == 0:
        return np.zeros((0, 3))
    if indices.ndim != 2 or indices.shape[1] != 3:
        raise GeometryError(f"points must have shape (N, 3), but theirs is {indices.shape}")
    if not np.isfinite(indices).all():
        raise GeometryError("points must be finite numbers, but some are not")
    return indices


def _triple(values: ArrayLike) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in np.asarray(values, dtype=np.float64))
    return first, second, third
