"""Several labels' margins as one label map, in the box where labels may be and then in the whole volume."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lib.boxes import Box, bounding_box, overlap, relative

Floats = NDArray[np.float32]
LabelMap = NDArray[np.uint8]

NOWHERE: Box = (slice(0, 0), slice(0, 0), slice(0, 0))


def nearest_logit_wins(found: list[tuple[int, Box, Floats]], around: Box) -> NDArray[np.uint8]:
    """The label map, in a box around them all, of several labels' margins: each voxel goes to the label with the
    largest positive one."""
    label_map = np.zeros([edge.stop - edge.start for edge in around], np.uint8, order="F")
    for value, box, margin in found:
        is_mine = margin > 0
        for other_value, other_box, other_margin in found:
            common = overlap(box, other_box)
            if other_value == value or common is None:
                continue
            mine, theirs = margin[relative(common, box)], other_margin[relative(common, other_box)]
            # Equal margins go to the first label, so that the same request has one answer.
            is_mine[relative(common, box)] &= (mine > theirs) | ((mine == theirs) & (value < other_value))
        label_map[relative(box, around)][is_mine] = value
    return label_map


def within(label_map: NDArray[np.uint8], box: Box, roi: Box) -> NDArray[np.uint8]:
    """The part of a label map, which covers `box`, that lies in another box."""
    limited = np.zeros_like(label_map)
    common = overlap(box, roi)
    if common is not None:
        limited[relative(common, box)] = label_map[relative(common, box)]
    return limited


def placed(part: NDArray[np.uint8], box: Box, shape: tuple[int, int, int]) -> tuple[NDArray[np.uint8], Box]:
    """A label map of `shape`, i fastest, that is 0 but for a box, and the smallest box that holds its labels."""
    whole = np.zeros(shape, np.uint8, order="F")
    labelled = bounding_box(part > 0)
    if labelled is None:
        return whole, NOWHERE
    i, j, k = (slice(a.start + b.start, a.start + b.stop) for a, b in zip(box, labelled, strict=True))
    whole[i, j, k] = part[labelled]
    return whole, (i, j, k)


def voxels_inside(points: NDArray[np.int64], box: Box) -> NDArray[np.int64]:
    """Those of some voxels (N, 3) that lie in a box."""
    low, high = np.array([[edge.start, edge.stop] for edge in box]).T
    found: NDArray[np.int64] = points[((points >= low) & (points < high)).all(axis=1)]
    return found
