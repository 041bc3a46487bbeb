"""How large each label of a mask is: voxels, millilitres and the longest diameter in an axial slice."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist

from lib.boxes import Box

ML_PER_MM3 = 1e-3
SUPERIOR = 2  # of RAS


def measure(
    label_map: NDArray[np.uint8], box: Box, affine: NDArray[np.float64], values: Mapping[str, int]
) -> dict[str, dict[str, float]]:
    """Of each label in label_map (I, J, K), all of them in `box`, whose `affine` takes indices to RAS mm: `voxels`,
    `volume_ml` and `axial_diameter_mm`.

    The diameter reaches from edge to edge of voxels, in the one slice where it is longest. Slices are those across the
    axis nearest to Superior; of an oblique volume they are axial but for that angle.
    """
    directions = affine[:3, :3]
    across = int(np.argmax(np.abs(directions[SUPERIOR]) / np.linalg.norm(directions, axis=0)))
    voxel_mm3 = float(abs(np.linalg.det(directions)))
    part = np.moveaxis(label_map[box], across, 0)
    in_plane = np.delete(directions, across, axis=1)
    found = {}
    for name, value in values.items():
        mask = part == value
        voxels = int(np.count_nonzero(mask))
        found[name] = {
            "voxels": voxels,
            "volume_ml": round(voxels * voxel_mm3 * ML_PER_MM3, 4),
            "axial_diameter_mm": round(_longest(mask, in_plane), 1),
        }
    return found


def _longest(slices: NDArray[np.bool_], in_plane: NDArray[np.float64]) -> float:
    """Longest distance, mm, between corners of voxels of one of `slices` (S, A, B), whose axes A and B step by the
    columns of `in_plane` (3, 2)."""
    longest = 0.0
    corners = [_corners(plane) @ in_plane.T for plane in slices if plane.any()]
    # No distance is longer than the box around it: most slices need not be looked at.
    limits = [float(np.linalg.norm(np.ptp(points, axis=0))) for points in corners]
    for limit, points in sorted(zip(limits, corners, strict=True), key=lambda pair: -pair[0]):
        if limit <= longest:
            break
        longest = max(longest, float(pdist(_outermost(points)).max()))
    return longest


def _corners(plane: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The corners (N, 2), in indices, of the first and the last voxel in each row of a plane (A, B)."""
    rows = np.flatnonzero(plane.any(axis=1))
    first = np.argmax(plane[rows], axis=1)
    last = plane.shape[1] - 1 - np.argmax(plane[rows, ::-1], axis=1)
    sides = [(rows + half, end) for half in (-0.5, 0.5) for end in (first - 0.5, last + 0.5)]
    return np.concatenate([np.stack(side, axis=1) for side in sides])


def _outermost(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Those of points (N, 3) in a plane that the longest distance can lie between."""
    axes = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)[2][:2]
    try:
        return points[ConvexHull(points @ axes.T).vertices]
    except QhullError:
        return points
