"""How patches cover an object: which patches the clicks open, where a mask that reaches a border goes on, and how the
answers of overlapping patches become one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import log2

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lib.boxes import Box, bounding_box, hull, overlap, relative
from lib.errors import GeometryError
from lib.geometry import PatchGrid
from lib.images.volumes import Volume
from lib.network.weights import Card

Floats = NDArray[np.float32]

# A click this close to a patch's border (as a share of its side) opens a patch of its own: the network sees too little
# of what lies beyond.
BORDER_SHARE = 1 / 8
# Neighbours lie this share of a side apart, so they see a good part of what is already known.
STRIDE_SHARE = 5 / 8
# Fewer object voxels than this on a face are no reason to look further.
MIN_TOUCHING = 4
# The coarsest patch of a chain is no wider: nothing that is clicked on is.
WIDEST_MM = 512.0


def spacings(volume: Volume, card: Card) -> list[float]:
    """How far apart in mm the samples of patches lie, coarse to fine: from a patch that covers the volume to the last
    that is no finer than its finest voxels. Networks that do not read the mask so far have one spacing, their own."""
    if not card.network.has_prior:
        return [card.spacing_mm]
    extent = min(WIDEST_MM, float((np.array(volume.shape) * volume.spacing).max()))
    finest = float(volume.spacing.min())
    coarsest = max(extent / card.network.patch_size, finest)
    return [coarsest / 2**level for level in range(int(log2(coarsest / finest) + 1e-6) + 1)]


def opens_patch(click: NDArray[np.int64], grids: Iterable[PatchGrid]) -> bool:
    """Whether a foreground click (3,) lies in, or well off the border of, none of the patches: it opens its own."""
    return not any(grid.contains(click[None], margin=grid.size * BORDER_SHARE).all() for grid in grids)


def reaches_border(grid: PatchGrid, margin: Floats, volume: Volume) -> bool:
    """Whether the object goes on beyond the patch, inside the volume. margin (P, P, P) as for `neighbours`."""
    return any(True for _ in _open_faces(grid, (margin > 0) & is_in_volume(grid, volume), volume))


def finest_that_holds(answers: Iterable[tuple[PatchGrid, Floats]], volume: Volume) -> int:
    """The position of the first patch, of one or more, finest first, that its object ends in; of the last where it ends
    in none. Each comes with its margin (P, P, P) as for `neighbours`."""
    number = -1
    for number, (grid, margin) in enumerate(answers):
        if not reaches_border(grid, margin, volume):
            return number
    return number


def neighbours(grid: PatchGrid, margin: Floats, volume: Volume) -> list[tuple[PatchGrid, Floats]]:
    """Where the object goes on: a neighbouring patch for each face of the patch that the object touches inside the
    volume, with the pseudo-clicks (N, 3), native float indices, that tell it what to follow.

    margin (P, P, P) is how much the object's logit exceeds the background's.
    """
    is_object = (margin > 0) & is_in_volume(grid, volume)
    found = []
    for axis, side, neighbour in _open_faces(grid, is_object, volume):
        clicks = _pseudo_clicks(is_object, axis, side, grid.size - _stride(grid.size))
        found.append((neighbour, _to_native(clicks, grid)))
    return found


def is_covered(grid: PatchGrid, others: Iterable[PatchGrid]) -> bool:
    """Whether the middle of the patch lies in another one: it would hardly show anything new."""
    middle = _to_native(np.full((1, 3), grid.size // 2, np.float32), grid)
    return any(other.contains(middle).all() for other in others)


def grids_over(volume: Volume, size: int, spacing_mm: float) -> Iterator[PatchGrid]:
    """As few patches as cover every voxel of the volume with the usual overlap, centred on it."""
    centre = (np.array(volume.shape) - 1) / 2
    middle = PatchGrid.around(volume.affine, centre, size, spacing_mm)
    stride = _stride(size)
    extents = [(volume.shape[axis] - 1) / abs(step) for axis, step in zip(middle.axes, middle.steps, strict=True)]
    counts = [1 + max(0, int(np.ceil((extent - (size - 1)) / stride))) for extent in extents]
    half = 0.0 if size % 2 else 0.5  # the middle of an even number of samples lies between two of them
    offsets = [[half + (n - (count - 1) / 2) * stride for n in range(count)] for count in counts]
    grids = (middle.shifted((d, h, w)) for d in offsets[0] for h in offsets[1] for w in offsets[2])
    return (grid for grid in grids if _box(grid, volume) is not None)


def blend(parts: Sequence[tuple[PatchGrid, Floats]], volume: Volume, clicked: NDArray[np.int64]) -> tuple[Box, Floats]:
    """The answers (P, P, P) of overlapping patches as one, at the native voxels of a box that holds all of the object
    and the clicked voxels (N, 3).

    Each counts most at its middle and hardly at its border, so no seam shows; voxels of the box that no patch covers
    are minus infinity.
    """
    boxes = [box for grid, margin in parts for box in [_object_box(grid, margin, volume)] if box is not None]
    i, j, k = (
        slice(int(low), int(high) + 1) for low, high in zip(clicked.min(axis=0), clicked.max(axis=0), strict=True)
    )
    around = hull([(i, j, k), *boxes])
    total = np.zeros([edge.stop - edge.start for edge in around], np.float32)
    weight_sum = np.zeros_like(total)
    for grid, margin in parts:
        box = overlap(grid.box(volume.shape), around)
        if box is not None:
            _, weighted, weights = tapered(grid, margin, volume, box)
            inside = relative(box, around)
            total[inside] += weighted
            weight_sum[inside] += weights
    with np.errstate(invalid="ignore", divide="ignore"):
        return around, np.where(weight_sum > 0, total / weight_sum, -np.inf).astype(np.float32)


def tapered(grid: PatchGrid, margin: Floats, volume: Volume, box: Box | None = None) -> tuple[Box, Floats, Floats]:
    """A patch's answer (P, P, P) at the native voxels of its box, or of a box within that, times the weights that it
    has there; and these."""
    weight = _taper(grid.size)
    box, weighted = grid.paste_values(margin * weight, volume.shape, box)
    _, weights = grid.paste_values(weight, volume.shape, box)
    return box, weighted, weights


def _object_box(grid: PatchGrid, margin: Floats, volume: Volume) -> Box | None:
    """The native voxels that interpolation may make part of the object: those beside a sample of it; None without."""
    samples = bounding_box(margin > 0)
    if samples is None:
        return None
    d, h, w = (slice(edge.start - 1, edge.stop + 1) for edge in samples)
    return _box(grid, volume, (d, h, w))


def _open_faces(grid: PatchGrid, is_object: NDArray[np.bool_], volume: Volume) -> Iterator[tuple[int, int, PatchGrid]]:
    """Faces that the object (P, P, P) touches and behind which the volume goes on: patch axis, side (0 or -1), and the
    patch that lies there."""
    stride = _stride(grid.size)
    for axis in range(3):
        for side in (0, -1):
            if np.count_nonzero(is_object.take(side, axis=axis)) < MIN_TOUCHING:
                continue
            step: list[int] = [0, 0, 0]
            step[axis] = stride if side else -stride
            neighbour = grid.shifted(step)
            if _has_news(neighbour, grid, axis, volume):
                yield axis, side, neighbour


def _stride(size: int) -> int:
    return int(size * STRIDE_SHARE)


def is_in_volume(grid: PatchGrid, volume: Volume) -> NDArray[np.bool_]:
    """(P, P, P), which samples lie in the volume, half a voxel beyond its outer centres included."""
    diagonal = _to_native(np.repeat(np.arange(grid.size, dtype=np.float32)[:, None], 3, axis=1), grid)
    along = [(diagonal[:, axis] >= -0.5) & (diagonal[:, axis] <= volume.shape[axis] - 0.5) for axis in grid.axes]
    return np.asarray(along[0][:, None, None] & along[1][None, :, None] & along[2][None, None, :])


def _has_news(neighbour: PatchGrid, grid: PatchGrid, axis: int, volume: Volume) -> bool:
    """Whether the neighbour along a patch axis holds voxels that the patch does not; with thick slices it may not."""
    box, seen = _box(neighbour, volume), grid.box(volume.shape)
    if box is None:
        return False
    native_axis = grid.axes[axis]
    return bool(box[native_axis].start < seen[native_axis].start or box[native_axis].stop > seen[native_axis].stop)


def _box(grid: PatchGrid, volume: Volume, samples: Box | None = None) -> Box | None:
    """The patch's voxels, or those of some samples; None where it lies between thick slices or beside the volume."""
    try:
        return grid.box(volume.shape, samples)
    except GeometryError:
        return None


def _pseudo_clicks(is_object: NDArray[np.bool_], axis: int, side: int, depth: int) -> Floats:
    """Where a user would click what both patches see: the object's deepest voxel of the shared slab, and the one of the
    touched face; (2, 3) patch indices."""
    slab = [slice(None)] * 3
    slab[axis] = slice(-depth, None) if side else slice(depth)
    start = [0, 0, 0]
    start[axis] = is_object.shape[axis] - depth if side else 0
    # The slab's outer face is a cut, not a border of the object.
    padded = np.pad(is_object[tuple(slab)], [(0, 0) if a == axis else (1, 1) for a in range(3)])
    deep = np.array(np.unravel_index(ndimage.distance_transform_edt(padded).argmax(), padded.shape))
    deepest = deep - [0 if a == axis else 1 for a in range(3)] + start
    face = ndimage.distance_transform_edt(np.pad(is_object.take(side, axis=axis), 1))
    on_face = list(np.array(np.unravel_index(face.argmax(), face.shape)) - 1)
    on_face.insert(axis, is_object.shape[axis] - 1 if side else 0)
    return np.array([deepest, on_face], np.float32)


def _to_native(points: Floats, grid: PatchGrid) -> Floats:
    to_volume = grid.to_volume
    native: Floats = (points @ to_volume[:3, :3].T + to_volume[:3, 3]).astype(np.float32)
    return native


def _taper(size: int) -> Floats:
    """(P, P, P), 1 in the middle and nearly 0 at the borders, smooth between."""
    ramp = np.minimum(np.arange(size) + 0.5, size - np.arange(size) - 0.5) / (size * (1 - STRIDE_SHARE))
    weights = np.sin(np.minimum(ramp, 1) * np.pi / 2) ** 2 + 1e-4
    weights = weights.astype(np.float32)
    return np.asarray(weights[:, None, None] * weights[None, :, None] * weights[None, None, :])
