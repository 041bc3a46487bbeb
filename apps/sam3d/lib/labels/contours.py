"""A plane of a mask as closed polygons: their insides are its voxels' centres, by any rule of filling."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.distance import cdist
from skimage.measure import find_contours

Floats = NDArray[np.float64]

# How far a channel keeps off the centres of voxels, in voxels, and how many are looked at for one that does.
CLEARANCE, MOST_CHANNELS = 0.2, 64


def polygons(plane: NDArray[np.bool_]) -> list[Floats]:
    """Polygons (N, 2), in indices with voxel centres on integers, one for each part of a plane (I, J) whose voxels
    meet at their edges; the last point is not the first once more.

    An edge runs half a voxel from the centres beside it, and cuts corners. A hole is joined to what surrounds it by a
    channel of no width, for polygons of DICOM know no holes.
    """
    parts, count = ndimage.label(np.pad(plane, 1))
    found = []
    for number, box in enumerate(ndimage.find_objects(parts), start=1):
        (rows, columns) = box
        window = (slice(rows.start - 1, rows.stop + 1), slice(columns.start - 1, columns.stop + 1))
        part = (parts[window] == number).astype(np.float64)
        rings: list[Floats] = find_contours(part, 0.5)  # type: ignore[no-untyped-call]
        outer, *holes = sorted((ring[:-1] for ring in rings), key=_area, reverse=True)
        for hole in holes:
            outer = _joined(outer, hole)
        found.append(_corners(outer) + np.array([rows.start - 2, columns.start - 2]))
    assert len(found) == count
    return found


def _area(ring: Floats) -> float:
    """The area that a ring surrounds, whichever way it runs."""
    i, j = ring.T
    return abs(float(i @ np.roll(j, -1) - j @ np.roll(i, -1))) / 2


def _joined(outer: Floats, hole: Floats) -> Floats:
    """One ring that runs around the outer one, over to the hole, around that, and back the same way.

    Over as short a channel as keeps off the voxels' centres, for one on its line is on neither side.
    """
    starts, ends = (ring + 0.5 * (np.roll(ring, -1, axis=0) - ring) for ring in (outer, hole))
    lengths = cdist(starts, ends)
    shortest = np.argpartition(lengths, min(MOST_CHANNELS, lengths.size) - 1, axis=None)[:MOST_CHANNELS]
    pairs = np.stack(np.unravel_index(shortest[np.argsort(lengths.ravel()[shortest])], lengths.shape), axis=1)
    clear = np.array([_clearance(starts[at], ends[into]) for at, into in pairs])
    at, into = pairs[int((clear >= min(CLEARANCE, clear.max())).argmax())]
    around = np.concatenate([ends[into : into + 1], hole[into + 1 :], hole[: into + 1], ends[into : into + 1]])
    return np.concatenate([outer[: at + 1], starts[at : at + 1], around, starts[at : at + 1], outer[at + 1 :]])


def _clearance(start: Floats, end: Floats) -> float:
    """How far the nearest voxel's centre is from the line between two points."""
    low, high = np.floor(np.minimum(start, end)), np.ceil(np.maximum(start, end))
    centres = np.stack(np.meshgrid(*(np.arange(a, b + 1) for a, b in zip(low, high, strict=True))), axis=-1)
    way = end - start
    along = np.clip(((centres - start) @ way) / max(float(way @ way), 1e-12), 0.0, 1.0)
    return float(np.linalg.norm(start + along[..., None] * way - centres, axis=-1).min())


def _corners(ring: Floats) -> Floats:
    """A ring without the points at which it goes straight on."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    is_in_line = before[:, 0] * after[:, 1] == before[:, 1] * after[:, 0]
    corners: Floats = ring[~(is_in_line & ((before * after).sum(axis=1) > 0))]
    return corners
