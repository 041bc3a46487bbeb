"""The click contract, for the answer of any network: what the user pointed at is so.

A foreground click's voxel is in its label, a background click's voxel is in none, and no click takes back another.
Where a prediction disagrees with a click, the voxels around that click change with it: those within a radius that are
nearer to it than to any click that asks for something else. Near is geodesic: a path is longer where the image differs
from what was clicked, so that a correction fills a structure and stops at its edge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from skimage.graph import MCP_Geometric

from lib.boxes import CONNECTED_26, Box, Index, relative

FACES = ndimage.generate_binary_structure(3, 1)

# How much longer a path gets per robust standard deviation of intensity, and where a voxel belongs to a third label.
EDGE_WEIGHT = 1.0
STRANGER_COST = 2.0
# Beyond this many deviations everything is equally foreign; without a limit one metal voxel would wall off a region.
EDGE_LIMIT = 4.0
# Corrections in very fine volumes stay below this many voxels each way, so that time and memory are bounded.
MAX_REACH = 12
# A correction reaches so far from its click, its rivals lie within twice that, and what they see as far again: no voxel
# farther than this (in voxels, each way) from every foreground click has any influence.
FARTHEST_SIGHT = 3 * MAX_REACH
# Where more clicks than this share a neighbourhood, each gets less room.
CROWD = 64


@dataclass(frozen=True)
class _Click:
    """One voxel and the label value, 0 for none, that it must have."""

    voxel: Index
    value: int


@dataclass(frozen=True)
class _Field:
    """Geodesic distance in mm from a click to the voxels of `box`; infinite beyond the radius."""

    box: Box
    distance: NDArray[np.float64]

    def over(self, box: Box) -> NDArray[np.float64]:
        """The distances at the voxels of another box, infinite where the two do not meet."""
        i, j, k = (
            slice(max(a.start, b.start), max(a.start, b.start, min(a.stop, b.stop)))
            for a, b in zip(self.box, box, strict=True)
        )
        common = (i, j, k)
        inside = np.full([edge.stop - edge.start for edge in box], np.inf)
        inside[relative(common, box)] = self.distance[relative(common, self.box)]
        return inside


def honour_clicks(
    label_map: NDArray[np.uint8],
    clicks: Mapping[int, NDArray[np.int64]],
    background: NDArray[np.int64],
    array: NDArray[np.generic],
    spacing: ArrayLike,
    radius_mm: float,
) -> tuple[NDArray[np.uint8], int]:
    """Make `label_map` (I, J, K) agree with all clicks; returns the map and how many clicks it had disagreed with.

    `clicks` maps a label value to its foreground voxels (N, 3); `background` (M, 3) must be in no label. All lie in the
    volume. A voxel that is both, or is clicked for two labels, becomes background. `array` (I, J, K) holds finite
    intensities, `spacing` (3,) mm per voxel; no voxel farther than `radius_mm` from a wrong click changes, except that
    a click always moves its direct neighbours where nothing else asks for them. A map that agrees is returned as it is.
    """
    wanted = _wanted(clicks, background)
    wrong = [click for click in wanted if label_map[click.voxel] != click.value]
    if not wrong:
        return label_map, 0
    correction = _Correction(wanted, label_map, array, np.asarray(spacing, dtype=np.float64), radius_mm)
    corrected = label_map.copy()
    # Background comes last, so that it wins where two regions were forced to meet.
    for click in sorted(wrong, key=lambda click: click.value == 0):
        box, region = correction.region(click)
        corrected[box][region] = click.value
    return corrected, len(wrong)


def _wanted(clicks: Mapping[int, NDArray[np.int64]], background: NDArray[np.int64]) -> list[_Click]:
    """One value per clicked voxel."""
    values: dict[Index, int] = {}
    for value, points in clicks.items():
        for i, j, k in points.tolist():
            values[i, j, k] = value if values.get((i, j, k), value) == value else 0
    for i, j, k in background.tolist():
        values[i, j, k] = 0
    return [_Click(voxel, value) for voxel, value in values.items()]


class _Correction:
    """Finds the region of each wrong click among all clicks; distances are computed once per click, when needed."""

    def __init__(
        self,
        clicks: list[_Click],
        label_map: NDArray[np.uint8],
        array: NDArray[np.generic],
        spacing: NDArray[np.float64],
        radius_mm: float,
    ) -> None:
        self._clicks = clicks
        self._voxels = np.array([click.voxel for click in clicks], dtype=np.int64)
        self._values = np.array([click.value for click in clicks])
        self._label_map = label_map
        self._array = array
        self._spacing = spacing
        self._radius_mm = radius_mm
        self._reach = np.clip(np.ceil(radius_mm / spacing).astype(int), 1, MAX_REACH)
        self._fields: dict[Index, _Field] = {}

    def region(self, click: _Click) -> tuple[Box, NDArray[np.bool_]]:
        """The voxels, as a mask over a box, that change with `click`: connected, with it inside, and no other's."""
        field = self._field(click)
        region = field.distance <= self._radius_mm
        near_mm, rivals = self._rivals(click)
        for distance_mm, rival in zip(near_mm, rivals, strict=True):
            if distance_mm > 2 * field.distance[region].max():
                break  # by the triangle inequality no rival from here on is nearer to any voxel of the region
            theirs = self._field(rival).over(field.box)
            # Background keeps what is equally near; between two labels nobody gets it.
            region &= field.distance <= theirs if click.value == 0 and rival.value != 0 else field.distance < theirs
        centre = tuple(index - edge.start for index, edge in zip(click.voxel, field.box, strict=True))
        numbered, _ = ndimage.label(region, structure=CONNECTED_26)
        region = numbered == numbered[centre]
        if np.count_nonzero(region) == 1:
            region = ndimage.binary_dilation(region, structure=FACES)
            for rival in rivals:
                inside = tuple(index - edge.start for index, edge in zip(rival.voxel, field.box, strict=True))
                if all(0 <= index < size for index, size in zip(inside, region.shape, strict=True)):
                    region[inside] = False
        return field.box, region

    def _rivals(self, click: _Click) -> tuple[list[float], list[_Click]]:
        """Distances in mm to the clicks that ask for another value and may reach the same voxels, and these, by it."""
        apart = np.abs(self._voxels - np.array(click.voxel))
        near = np.flatnonzero((self._values != click.value) & (apart <= 2 * self._reach).all(axis=1))
        distance_mm = np.linalg.norm(apart[near] * self._spacing, axis=1)
        order = np.argsort(distance_mm, kind="stable")
        return distance_mm[order].tolist(), [self._clicks[int(index)] for index in near[order]]

    def _field(self, click: _Click) -> _Field:
        if click.voxel not in self._fields:
            self._fields[click.voxel] = self._measured(click)
        return self._fields[click.voxel]

    def _room(self, voxel: NDArray[np.int64]) -> NDArray[np.int64]:
        """Voxels each way (3,) that a click may change; fewer in a crowd, so that a thousand clicks take seconds."""
        neighbours = int((np.abs(self._voxels - voxel) <= 2 * self._reach).all(axis=1).sum())
        share = min(1.0, float(np.cbrt(CROWD / neighbours)))
        room: NDArray[np.int64] = np.maximum((self._reach * share).astype(np.int64), 1)
        return room

    def _measured(self, click: _Click) -> _Field:
        """Geodesic distances around one click, by Dijkstra's method over the 26 neighbours of every voxel."""
        voxel = np.array(click.voxel)
        reach = self._room(voxel)
        low = np.maximum(voxel - reach, 0)
        high = np.minimum(voxel + reach + 1, self._array.shape)
        box = (slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2]))
        i, j, k = (voxel - low).tolist()
        centre = (i, j, k)
        offsets = np.meshgrid(*[np.arange(a, b) - v for a, b, v in zip(low, high, voxel, strict=True)], indexing="ij")
        straight_mm = np.sqrt(sum((offset * mm) ** 2 for offset, mm in zip(offsets, self._spacing, strict=True)))
        costs = 1.0 + EDGE_WEIGHT * _strangeness(self._array[box].astype(np.float64), centre)
        values = self._label_map[box]
        costs[(values != values[centre]) & (values != click.value)] += STRANGER_COST
        costs[straight_mm > self._radius_mm] = -1.0  # a negative cost is a wall
        distance, _ = MCP_Geometric(costs, sampling=tuple(self._spacing)).find_costs([centre])
        return _Field(box, distance)


def _strangeness(values: NDArray[np.float64], centre: Index) -> NDArray[np.float64]:
    """How far each voxel is from the clicked tissue, in robust standard deviations of the box, at most EDGE_LIMIT.

    The tissue is the median of the 3 x 3 x 3 voxels at the click, so that one noisy voxel does not decide.
    """
    around = tuple(slice(max(index - 1, 0), index + 2) for index in centre)
    away = np.abs(values - np.median(values[around]))
    scale = 1.4826 * float(np.median(np.abs(values - np.median(values)))) or float(away.mean())
    strangeness: NDArray[np.float64] = np.minimum(away / (scale or 1.0), EDGE_LIMIT)
    return strangeness
