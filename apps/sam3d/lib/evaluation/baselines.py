"""Classical segmentation from the same clicks, for comparison: region growing, random walker and geodesic distances,
all of scikit-image."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.graph import MCP_Geometric
from skimage.segmentation import flood, random_walker

from lib.boxes import Box, Index
from lib.images.volumes import Volume

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]
Baseline = Callable[[Volume, Sequence[Index], Sequence[Index]], Mask]

REACH_MM = 64.0  # how far beyond the clicks is looked
WORKING_MM = 1.5  # finer voxels are averaged up to about this size
SEED_VOXELS = 2  # so many on each side of a click are taken to be as the click is
WIDEST_TOLERANCE = 3.0  # in standard deviations of those voxels
NARROWING, ATTEMPTS = 0.7, 12
SLOPE_SIGMA = 0.7  # voxels over which the image's slope is taken
FLAT_COST = 0.1  # of a mm where the image does not change at all, where its mean slope costs 1


def region_growing(volume: Volume, foreground: Sequence[Index], background: Sequence[Index]) -> Mask:
    """Voxels connected to a foreground click and as bright as it, by the widest tolerance that spares all background
    clicks."""
    view = _View.of(volume, [*foreground, *background])
    seeds, spared = view.coarse(foreground), view.coarse(background)
    tolerance = WIDEST_TOLERANCE * max(_spread(view.values, seeds), 1e-3 * float(np.ptp(view.values)))
    values = ndimage.median_filter(view.values, size=3)
    mask = np.zeros(values.shape, np.bool_)
    for _ in range(ATTEMPTS):
        mask = np.zeros(values.shape, np.bool_)
        for seed in seeds:
            mask |= flood(values, seed, tolerance=tolerance)  # type: ignore[no-untyped-call]
        if not any(mask[click] for click in spared):
            break
        tolerance *= NARROWING
    return view.native(mask)


def random_walk(volume: Volume, foreground: Sequence[Index], background: Sequence[Index]) -> Mask:
    """Voxels from which a random walker meets a foreground click before a background click or the border of the box."""
    view = _View.of(volume, [*foreground, *background])
    labels = np.zeros(view.values.shape, np.int8)
    for axis, length in enumerate(labels.shape):
        if length > 2:
            labels.swapaxes(0, axis)[[0, -1]] = 2
    seeds = [(click, value) for clicks, value in ((background, 2), (foreground, 1)) for click in view.coarse(clicks)]
    for voxels in (SEED_VOXELS, 0):  # around the clicks, then the clicks themselves, which no other one overrules
        for seed, value in seeds:
            labels[_around(seed, voxels)] = value
    if np.ptp(view.values) > 0 and (labels == 2).any():  # else there is nothing to go by
        with warnings.catch_warnings():
            # The solver's tolerance may take probabilities a little past 0 and 1; only the larger one counts.
            warnings.filterwarnings("ignore", message="The probability range is outside", category=UserWarning)
            labels = random_walker(view.values, labels, mode="cg_j", spacing=view.spacing)
    return view.native(np.asarray(labels == 1))


def geodesic(volume: Volume, foreground: Sequence[Index], background: Sequence[Index]) -> Mask:
    """Voxels with a shorter path to a foreground click than to a background click or the border of the box; a path is
    longer where the image changes (the distance of Criminisi et al., ECCV 2008, without its smoothing)."""
    view = _View.of(volume, [*foreground, *background])
    slope = ndimage.gaussian_gradient_magnitude(view.values, SLOPE_SIGMA)
    costs = FLAT_COST + slope / max(float(slope.mean()), 1e-9)
    seeds, spared = view.coarse(foreground), view.coarse(background)
    is_border = np.ones(costs.shape, np.bool_)
    is_border[tuple(slice(1, -1) if length > 2 else slice(None) for length in costs.shape)] = False
    rivals = [*spared, *map(tuple, np.argwhere(is_border).tolist())]
    to_object, to_rest = (_path_lengths(costs, view.spacing, starts) for starts in (seeds, rivals))
    return view.native(to_object < to_rest)


def _path_lengths(costs: NDArray[np.float64], spacing: NDArray[np.float64], starts: Sequence[Index]) -> Floats:
    """The cost of the cheapest path from any of `starts` to each voxel; infinite everywhere without one."""
    if not starts:
        return np.full(costs.shape, np.inf)
    lengths, _ = MCP_Geometric(costs, sampling=tuple(spacing)).find_costs(starts)
    return np.asarray(lengths, np.float64)


BASELINES: Mapping[str, Baseline] = {
    "region growing": region_growing,
    "random walker": random_walk,
    "geodesic": geodesic,
}


@dataclass(frozen=True)
class _View:
    """The part of a volume around the clicks, averaged over `factors` voxels; `spacing` is that of the averages."""

    box: Box
    factors: tuple[int, ...]
    values: NDArray[np.float64]
    spacing: NDArray[np.float64]
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, volume: Volume, clicks: Sequence[Index]) -> _View:
        reach = np.ceil(REACH_MM / volume.spacing).astype(int)
        low = np.maximum(np.min(clicks, axis=0) - reach, 0)
        high = np.minimum(np.max(clicks, axis=0) + reach + 1, volume.shape)
        i, j, k = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        factors = tuple(max(1, int(WORKING_MM / step)) for step in volume.spacing)
        values = _averaged(volume.array[i, j, k].astype(np.float64), factors)
        return cls((i, j, k), factors, values, volume.spacing * factors, volume.shape)

    def coarse(self, clicks: Sequence[Index]) -> list[Index]:
        starts = [part.start for part in self.box]
        return [
            ((i - starts[0]) // self.factors[0], (j - starts[1]) // self.factors[1], (k - starts[2]) // self.factors[2])
            for i, j, k in clicks
        ]

    def native(self, mask: Mask) -> Mask:
        """A mask of the averages as one of the volume."""
        for axis, factor in enumerate(self.factors):
            mask = mask.repeat(factor, axis=axis)
        whole = np.zeros(self.shape, np.bool_)
        i, j, k = self.box
        whole[self.box] = mask[: i.stop - i.start, : j.stop - j.start, : k.stop - k.start]
        return whole


def _averaged(values: NDArray[np.float64], factors: Sequence[int]) -> NDArray[np.float64]:
    """Means of blocks; an incomplete last block is filled up with its border."""
    values = np.pad(values, [(0, -n % factor) for n, factor in zip(values.shape, factors, strict=True)], mode="edge")
    for axis, factor in enumerate(factors):
        blocks = values.reshape(*values.shape[:axis], -1, factor, *values.shape[axis + 1 :])
        values = blocks.mean(axis=axis + 1)
    return values


def _spread(values: NDArray[np.float64], seeds: Sequence[Index]) -> float:
    """Standard deviation of the values around the seeds."""
    return float(np.concatenate([values[_around(seed, SEED_VOXELS)].ravel() for seed in seeds]).std())


def _around(seed: Index, voxels: int) -> Box:
    """A box of so many voxels on each side of one, cut off at the low border (slices end at the high one anyway)."""
    i, j, k = (slice(max(0, at - voxels), at + voxels + 1) for at in seed)
    return i, j, k
