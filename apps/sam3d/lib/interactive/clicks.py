"""A simulated user: where somebody who knows the truth would click next.

The protocol is that of interactive segmentation challenges: the first click goes where the target is deepest, every
later one where the largest connected error is. Training and evaluation share these functions. Indices are (i, j, k).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from lib.boxes import CONNECTED_26, Box, Index, bounding_box
from lib.errors import PromptError


@dataclass(frozen=True)
class _Component:
    """One connected error: its voxels within `box`, and whether the mask missed them."""

    box: Box
    region: NDArray[np.bool_]
    is_missed: bool


def first_click(label: NDArray[np.bool_], spacing: ArrayLike) -> Index:
    """The voxel of `label` (I, J, K) farthest, in mm, from its border; of several, the first in index order.

    `spacing` (3,) is in mm per voxel. What lies beyond the volume is outside. Raises PromptError for an empty label.
    """
    return _deepest(label, spacing, rng=None)


def next_click(
    label: NDArray[np.bool_],
    mask: NDArray[np.bool_],
    spacing: ArrayLike,
    rng: np.random.Generator | None = None,
) -> tuple[Index, bool] | None:
    """The click that corrects the largest error of `mask` against `label`, both (I, J, K); None when they agree.

    Missed and spurious voxels are split, each on its own, into 26-connected components, and the one of most voxels is
    clicked at its deepest point: foreground (True) where the mask missed it, background (False) where it is spurious.
    `rng` breaks ties; without it they are broken the same way in every call.
    """
    rng = np.random.default_rng(0) if rng is None else rng
    largest = _largest_error(label, mask, rng)
    if largest is None:
        return None
    inner = _deepest(largest.region, spacing, rng)
    return _shifted(inner, largest.box), largest.is_missed


def random_click(region: NDArray[np.bool_], rng: np.random.Generator) -> Index:
    """A voxel of `region` (I, J, K), drawn with a probability that grows with the square of its depth in voxels.

    Cheap enough for every training step. Raises PromptError for an empty region.
    """
    box, depth = _depths(region)
    cumulative = np.cumsum(np.square(depth, dtype=np.float64))
    drawn = np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right")
    return _shifted(_unravel(int(drawn), depth.shape), box)


def deep_click(region: NDArray[np.bool_], rng: np.random.Generator) -> Index:
    """One of the deepest voxels of `region` (I, J, K), by steps to its outside; as cheap as `random_click`.

    Raises PromptError for an empty region.
    """
    box, depth = _depths(region)
    deepest = np.flatnonzero(depth == depth.max())
    return _shifted(_unravel(int(deepest[int(rng.integers(deepest.size))]), depth.shape), box)


def largest_error(
    label: NDArray[np.bool_], mask: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[NDArray[np.bool_], bool] | None:
    """The error of `next_click` as a region (I, J, K), and whether the mask missed it; None when they agree."""
    found = _largest_error(label, mask, rng)
    if found is None:
        return None
    region = np.zeros_like(label)
    region[found.box] = found.region
    return region, found.is_missed


def _depths(region: NDArray[np.bool_]) -> tuple[Box, NDArray[np.int32]]:
    """The box around `region`, and in it each voxel's steps to the outside, 0 beside the region."""
    box = _occupied(region)
    depth: NDArray[np.int32] = ndimage.distance_transform_cdt(np.pad(region[box], 1), metric="chessboard")
    return box, depth[1:-1, 1:-1, 1:-1]


def _largest_error(label: NDArray[np.bool_], mask: NDArray[np.bool_], rng: np.random.Generator) -> _Component | None:
    """The component of most voxels over both kinds of error, or None without any."""
    wrong = label != mask
    box = bounding_box(wrong)
    if box is None:
        return None
    kinds = [(wrong[box] & label[box], True), (wrong[box] & ~label[box], False)]
    numbered = [ndimage.label(region, structure=CONNECTED_26)[0] for region, _ in kinds]
    sizes = [np.bincount(numbers.ravel())[1:] for numbers in numbered]
    most = max(int(size.max(initial=0)) for size in sizes)
    tied = [(kind, int(index) + 1) for kind in (0, 1) for index in np.flatnonzero(sizes[kind] == most)]
    kind, number = tied[int(rng.integers(len(tied)))]
    region = numbered[kind] == number
    return _Component(box, region, is_missed=kinds[kind][1])


def _deepest(region: NDArray[np.bool_], spacing: ArrayLike, rng: np.random.Generator | None) -> Index:
    """The voxel farthest from the outside of `region`, in mm; of equals one drawn by `rng`, or the first."""
    box = _occupied(region)
    padded = np.pad(region[box], 1)
    depth = ndimage.distance_transform_edt(padded, sampling=np.asarray(spacing, dtype=np.float64))
    inner = depth[1:-1, 1:-1, 1:-1]
    # Depths that differ by rounding alone are equal, or the order of additions would break the tie.
    candidates = np.flatnonzero(inner >= inner.max() * (1 - 1e-9))
    drawn = candidates[0] if rng is None else candidates[int(rng.integers(candidates.size))]
    return _shifted(_unravel(int(drawn), inner.shape), box)


def _occupied(region: NDArray[np.bool_]) -> Box:
    """The box around `region`. Raises PromptError where it is empty."""
    box = bounding_box(region)
    if box is None:
        raise PromptError(f"a region of shape {region.shape} has no voxel to click on; pass one that is not empty")
    return box


def _unravel(flat: int, shape: tuple[int, ...]) -> Index:
    i, j, k = np.unravel_index(flat, shape)
    return int(i), int(j), int(k)


def _shifted(inner: Index, box: Box) -> Index:
    """An index within `box` as an index of the volume."""
    return box[0].start + inner[0], box[1].start + inner[1], box[2].start + inner[2]
