"""An object's margin on the volume's own grid: the box that was looked at, and what patches have said about it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lib.boxes import CONNECTED_26, Box, bounding_box, hull, overlap, relative
from lib.errors import GeometryError
from lib.geometry import PatchGrid
from lib.interactive.priors import OUTSIDE, SUREST, Layer

Floats = NDArray[np.float32]

# The margin of a mask that was drawn.
DRAWN = 4.0
# So many lengths of a part away from it, what is missing is no more of the same.
FAR = 2.0
# Steps, in voxels, in which the surroundings of a click are searched for what is right already.
FIRST_REACH = 8


@dataclass(frozen=True)
class Answer:
    """margin is how much the object's logit exceeds the background's at the voxels of `box`; what lies outside of it
    is background. Never changed in place."""

    box: Box
    margin: Floats

    @classmethod
    def of_layers(cls, layers: list[Layer], shape: tuple[int, int, int], clicked: NDArray[np.int64]) -> Answer:
        """What patches say, coarse to fine, where any of them sees the object, and at the clicked voxels (N, 3)."""
        boxes = [_box_of_voxels(clicked)]
        for layer in layers:
            box = _object_box(layer, shape)
            if box is not None:
                boxes.append(box)
        around = hull(boxes)
        answer = cls(around, np.full([edge.stop - edge.start for edge in around], OUTSIDE, np.float32))
        for layer in layers:
            _paste(layer, shape, answer)
        return answer

    @classmethod
    def of_mask(cls, box: Box, mask: NDArray[np.bool_]) -> Answer:
        """What somebody drew: as sure as may be, and yet to be corrected."""
        return cls(box, np.where(mask, DRAWN, -DRAWN).astype(np.float32))

    @property
    def nbytes(self) -> int:
        return int(self.margin.nbytes)

    def sampled(self, grid: PatchGrid) -> Floats:
        """The margin (P, P, P) as a patch of the volume sees it."""
        i, j, k = (place - edge.start for place, edge in zip(grid.centre, self.box, strict=True))
        return replace(grid, centre=(i, j, k)).sample(self.margin, fill=OUTSIDE)

    def at(self, voxel: NDArray[np.int64]) -> float:
        """The margin of one voxel (i, j, k)."""
        inner = tuple(int(place) - edge.start for place, edge in zip(voxel, self.box, strict=True))
        is_inside = all(0 <= place < n for place, n in zip(inner, self.margin.shape, strict=True))
        return float(self.margin[inner]) if is_inside else OUTSIDE

    def with_layer(self, layer: Layer, shape: tuple[int, int, int]) -> Answer:
        """The answer with one more patch's say."""
        grown = _object_box(layer, shape)
        box = self.box if grown is None else hull([self.box, grown])
        margin = np.full([edge.stop - edge.start for edge in box], OUTSIDE, np.float32)
        margin[relative(self.box, box)] = self.margin
        answer = Answer(box, margin)
        _paste(layer, shape, answer)
        return answer

    def painted(self, voxels: NDArray[np.int64], is_object: bool) -> Answer:
        """The answer with some voxels (N, 3) as the user painted them."""
        box = hull([self.box, _box_of_voxels(voxels)])
        margin = np.full([edge.stop - edge.start for edge in box], OUTSIDE, np.float32)
        margin[relative(self.box, box)] = self.margin
        inner = voxels - np.array([edge.start for edge in box])
        margin[tuple(inner.T)] = SUREST if is_object else -SUREST
        return Answer(box, margin)

    def joined(self, other: Answer) -> Answer:
        """Both objects as one."""
        box = hull([self.box, other.box])
        margin = np.full([edge.stop - edge.start for edge in box], OUTSIDE, np.float32)
        margin[relative(self.box, box)] = self.margin
        inner = relative(other.box, box)
        margin[inner] = np.maximum(margin[inner], other.margin)
        return Answer(box, margin)

    def is_far_from(self, voxel: NDArray[np.int64], spacing: NDArray[np.float64]) -> bool:
        """Whether a voxel (i, j, k) lies farther from every part of the object than FAR times its length."""
        parts, count = ndimage.label(self.margin > 0, structure=CONNECTED_26)
        inner = voxel - np.array([edge.start for edge in self.box])
        for box in ndimage.find_objects(parts) if count else ():
            sides = [(edge.stop - edge.start) * mm for edge, mm in zip(box, spacing, strict=True)]
            gaps = [
                max(edge.start - at, at + 1 - edge.stop, 0) * mm
                for at, edge, mm in zip(inner, box, spacing, strict=True)
            ]
            if np.linalg.norm(gaps) <= FAR * max(sides):
                return False
        return True

    def depth_mm(self, voxel: NDArray[np.int64], is_object: bool, spacing: NDArray[np.float64]) -> float:
        """How far, in mm, a voxel (i, j, k) lies from the nearest one that is what it is said to be: object or not.
        Infinite where there is none."""
        if not is_object and self.at(voxel) <= 0:
            return 0.0
        reach = FIRST_REACH
        while True:
            low = [max(int(place) - reach, edge.start) for place, edge in zip(voxel, self.box, strict=True)]
            high = [min(int(place) + reach + 1, edge.stop) for place, edge in zip(voxel, self.box, strict=True)]
            is_all = all(a <= edge.start and b >= edge.stop for a, b, edge in zip(low, high, self.box, strict=True))
            nearest = self._nearest_mm(low, high, voxel, is_object, spacing)
            # Beyond the box all is background.
            beyond = [
                min(place - edge.start + 1, edge.stop - place) for place, edge in zip(voxel, self.box, strict=True)
            ]
            outside = min(float(n) * mm for n, mm in zip(beyond, spacing, strict=True)) if not is_object else np.inf
            found = min(nearest, outside)
            # What lies beyond what was searched is farther away than this.
            if is_all or found <= reach * float(spacing.min()):
                return found
            reach *= 2

    def _nearest_mm(
        self, low: list[int], high: list[int], voxel: NDArray[np.int64], is_object: bool, spacing: NDArray[np.float64]
    ) -> float:
        if any(a >= b for a, b in zip(low, high, strict=True)):
            return float(np.inf)
        i, j, k = (slice(a - edge.start, b - edge.start) for a, b, edge in zip(low, high, self.box, strict=True))
        is_right = (self.margin[i, j, k] > 0) == is_object
        squares = [((np.arange(a, b) - v) * mm) ** 2 for a, b, v, mm in zip(low, high, voxel, spacing, strict=True)]
        distance = squares[0][:, None, None] + squares[1][None, :, None] + squares[2][None, None, :]
        return float(np.sqrt(distance.min(where=is_right, initial=np.inf)))


def _box_of_voxels(voxels: NDArray[np.int64]) -> Box:
    i, j, k = (slice(int(a), int(b) + 1) for a, b in zip(voxels.min(axis=0), voxels.max(axis=0), strict=True))
    return i, j, k


def _object_box(layer: Layer, shape: tuple[int, int, int]) -> Box | None:
    """The native voxels that interpolation may make part of the object: those beside a sample of it; None without."""
    samples = bounding_box((layer.margin > 0) & (layer.weight > 0))
    if samples is None:
        return None
    d, h, w = (slice(edge.start - 1, edge.stop + 1) for edge in samples)
    try:
        return layer.grid.box(shape, (d, h, w))
    except GeometryError:
        return None  # between thick slices, or beside the volume


def _paste(layer: Layer, shape: tuple[int, int, int], answer: Answer) -> None:
    """Let a layer have its say in an answer that nobody else holds yet."""
    try:
        box = overlap(layer.grid.box(shape), answer.box)
    except GeometryError:
        return
    if box is None:
        return
    _, margin = layer.grid.paste_values(np.clip(layer.margin, -SUREST, SUREST), shape, box)
    _, weight = layer.grid.paste_values(layer.weight, shape, box)
    part = answer.margin[relative(box, answer.box)]
    part += weight * (margin - part)
