"""How a label's own grid lies against its image's: the same, another one that says where it lies, or beside it.

Lengths are millimetres, and axes those of the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from lib.errors import LabelError
from lib.geometry import map_indices, spacing_of
from lib.images.volumes import Volume
from lib.labels.files import Layer

Floats = NDArray[np.float64]

# A label of which less than this lies inside its image belongs to another image, or lost its header.
LEAST_INSIDE = 0.9
# Corners this near, in the image's smallest voxels, are those of one grid, rounded.
SAME_GRID = 0.1
# Axes that lean less than this against each other, at unit length, are parallel.
PARALLEL = 0.02
# Boxes of one length, in the larger voxels of the two along an axis, are meant for one box.
HALF_A_VOXEL = 0.5 + 1e-3
# Samples along each axis of a grid when only its extent matters.
EXTENT_SAMPLES = 50


@dataclass(frozen=True)
class _Boxes:
    """A label's box and its image's along the image's axes: lengths, the larger voxels, the way between the middles."""

    label: Floats
    image: Floats
    voxels: Floats
    way: Floats

    @property
    def are_alike(self) -> bool:
        return bool((np.abs(self.label - self.image) <= HALF_A_VOXEL * self.voxels).all())

    @property
    def are_apart(self) -> bool:
        return bool((np.abs(self.way) > HALF_A_VOXEL * self.voxels).any())


def grid_note(layer: Layer, volume: Volume, file: str) -> str:
    """A note that a label has a grid of its own; empty where it has the image's, in any order of axes or not."""
    if layer.values.shape == volume.shape:
        corners = np.array(list(product(*((0.0, n - 1.0) for n in volume.shape))))
        apart = map_indices(corners, layer.affine, volume.affine) - corners
        if np.abs(apart).max() <= SAME_GRID:
            return ""
    sizes = " x ".join(str(n) for n in layer.values.shape)
    spacing = " x ".join(f"{length:.3g}" for length in spacing_of(layer.affine))
    return (
        f"{file} has a grid of its own ({sizes} voxels of {spacing} mm); it is placed on the image's by where it lies, "
        "each voxel of the image taking the nearest of the label's"
    )


def refuse_beside(layer: Layer, volume: Volume, file: str) -> None:
    """LabelError, with the millimetres, for a grid made for the image's box that does not lie there, and for one that
    says neither."""
    boxes = _boxes(layer, volume)
    is_like_sized = sorted(layer.values.shape) == sorted(volume.shape)
    if boxes is not None and boxes.are_alike:
        if not boxes.are_apart:
            return
        raise LabelError(
            f"{file} covers as much as its image, but lies {_mm(boxes.way)} off it ({_along(boxes.way)}): it was "
            "shifted or mirrored, or its header was lost or is another image's; save it again from the image"
        )
    if not layer.is_placed:
        raise LabelError(
            f"{file} does not say where it lies, and has shape {layer.values.shape} where its image has "
            f"{volume.shape}; save it again from the image, with its place"
        )
    if is_like_sized and (share := _extent_inside(layer, volume)) < LEAST_INSIDE:
        raise LabelError(
            f"{file} has its image's size, but only {share:.0%} of its extent lies within the image, and its middle "
            f"{_mm(_between_middles(layer, volume))} off the image's; its header was lost or is another image's: "
            "save it again from the image"
        )


def _boxes(layer: Layer, volume: Volume) -> _Boxes | None:
    """The two boxes; None where their axes are not parallel."""
    own, image = layer.affine[:3, :3], volume.affine[:3, :3]
    leaning = np.linalg.solve(image / volume.spacing, own / spacing_of(layer.affine))
    rows, columns = linear_sum_assignment(-np.abs(leaning))  # the label's axis along each of the image's
    beside = np.abs(leaning)
    beside[rows, columns] = 0.0
    if beside.max() > PARALLEL:
        return None
    spacing = spacing_of(layer.affine)[columns]
    label = np.array(layer.values.shape)[columns] * spacing
    return _Boxes(
        label,
        np.array(volume.shape) * volume.spacing,
        np.maximum(spacing, volume.spacing),
        np.linalg.solve(image / volume.spacing, _between_middles(layer, volume)),
    )


def _between_middles(layer: Layer, volume: Volume) -> Floats:
    """The way from the middle of the image's box to that of the label's, RAS."""
    ends = [
        affine[:3, :3] @ ((np.array(shape) - 1) / 2) + affine[:3, 3]
        for affine, shape in ((volume.affine, volume.shape), (layer.affine, layer.values.shape))
    ]
    way: Floats = ends[1] - ends[0]
    return way


def _extent_inside(layer: Layer, volume: Volume) -> float:
    """How much of a layer's box lies within the image's."""
    axes = [(np.arange(EXTENT_SAMPLES) + 0.5) / EXTENT_SAMPLES * n - 0.5 for n in layer.values.shape]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    return float((beyond(points, layer, volume) == 0).mean())


def beyond(points: NDArray[Any], layer: Layer, volume: Volume) -> Floats:
    """How far points (N, 3) of a label lie outside of the image's box, (N,)."""
    indices = map_indices(points, layer.affine, volume.affine)
    over = np.maximum(np.maximum(-0.5 - indices, indices - (np.array(volume.shape) - 0.5)), 0.0)
    # On the border itself, and rounded, a point is inside.
    far: Floats = np.linalg.norm(np.where(over > 1e-3, over, 0.0) * volume.spacing, axis=1)
    return far


def _mm(way: Floats) -> str:
    return f"{float(np.linalg.norm(way)):.3g} mm"


def _along(way: Floats) -> str:
    return ", ".join(
        f"{length:+.3g} mm along {axis}" for axis, length in zip("ijk", way, strict=True) if abs(length) > 0.01
    )
