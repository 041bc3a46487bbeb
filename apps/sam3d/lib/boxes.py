"""Voxel indices and boxes of them: the words that clicks, prompts, the click contract and the metrics share."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

# A voxel (i, j, k), and the slices of a box of voxels along these axes.
Index = tuple[int, int, int]
Box = tuple[slice, slice, slice]

# Voxels that share a face, an edge or a corner are connected.
CONNECTED_26 = np.ones((3, 3, 3), dtype=bool)


def bounding_box(region: NDArray[np.bool_]) -> Box | None:
    """The smallest box that holds every true voxel of `region` (I, J, K); None where there is none."""
    slices = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        occupied = np.flatnonzero(region.any(axis=others))
        if occupied.size == 0:
            return None
        slices.append(slice(int(occupied[0]), int(occupied[-1]) + 1))
    return slices[0], slices[1], slices[2]


def relative(box: Box, within: Box) -> Box:
    """A box in the coordinates of another that holds it."""
    i, j, k = (slice(a.start - b.start, a.stop - b.start) for a, b in zip(box, within, strict=True))
    return i, j, k


def overlap(first: Box, second: Box) -> Box | None:
    """The voxels two boxes share, or None."""
    i, j, k = (slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(first, second, strict=True))
    return (i, j, k) if all(edge.start < edge.stop for edge in (i, j, k)) else None


def hull(boxes: Iterable[Box]) -> Box:
    """The smallest box around some boxes, of which there is one at least."""
    edges = list(zip(*boxes, strict=True))
    i, j, k = (slice(min(edge.start for edge in axis), max(edge.stop for edge in axis)) for axis in edges)
    return i, j, k


def grown(box: Box, voxels: int, shape: tuple[int, int, int]) -> Box:
    """The box with so many more voxels on each side, as far as a volume of `shape` has them."""
    i, j, k = (
        slice(max(0, edge.start - voxels), min(n, edge.stop + voxels)) for edge, n in zip(box, shape, strict=True)
    )
    return i, j, k
