"""Where the clicks are, as maps the decoder can read.

The published decoder knows a click only by the features found there. Networks of our own also get, at each grid voxel
and for foreground and background each: how near the closest click is, in a straight line and along tissue like the
clicked one (geodesic maps as in DeepIGeoS, Wang et al. 2018); and whether the voxel belongs to the region that this
tissue fills before the path to the next voxels becomes suddenly longer. See docs/decisions/0002-click-maps.md.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# The maps' cells are so many patch voxels wide.
STRIDE = 2
# Sweeps over the grid, there and back along every axis, that the geodesic maps get: a path may turn that often.
SWEEPS = 4
# Decay lengths, in patch voxels, of the straight nearness maps: about the click, and about its neighbourhood.
REACHES = (3.0, 12.0)
COUNT = 2 * (len(REACHES) + 2) + 1
# Tissue like the clicked one: within so many patch voxels of the click its deviation is measured, never less than that.
TISSUE_RADIUS, LEAST_DEVIATION = 6.0, 0.05
# The length of a step in clicked tissue, and how much of a step's cost the single voxel has beside its neighbourhood.
STEP, VOXEL_SHARE = 0.1, 0.3
# A region ends where this much more of the grid costs most, relative to the way so far (plus a few steps).
GROWTH, HEAD_START = 1.15, 2.0
SMALLEST_REGION = 6
# Scales that bring the maps to the order of one.
LENGTH_SCALE, MAX_CONTRAST = 8.0, 4.0


def click_maps(image: Tensor, point_coords: Tensor, point_labels: Tensor) -> Tensor:
    """Maps of the clicks on a grid whose cells are `STRIDE` patch voxels wide.

    image (B, 1, h, w, d), the patch's mean in each cell; point_coords (B, N, 3) in patch voxels (d, h, w), voxel
    centres on integers; point_labels (B, N), 1 foreground, 0 background. Returns (B, COUNT, h, w, d) of the image's
    type.
    """
    batch, _, *grid = image.shape
    if point_coords.shape[1] == 0:
        return image.new_zeros(batch, COUNT, *grid)
    # Distances need single precision, whatever the rest of the network runs in.
    with torch.autocast(image.device.type, enabled=False):
        image = image.float()
        distance = _distances(point_coords, grid)
        maps = []
        for label in (1, 0):
            nearest, which = distance.masked_fill((point_labels != label)[:, None], torch.inf).min(dim=-1)
            contrast, cost = _unlikeness(image, distance, which)
            has_click = nearest.isfinite()
            length = _geodesic(nearest.reshape(batch, *grid), cost.reshape(batch, *grid)).flatten(1)
            maps += [torch.exp(-nearest / reach) for reach in REACHES]
            maps += [(length.log1p() / LENGTH_SCALE).clamp(max=1), _region(length)]
            if label == 1:
                maps.append(contrast * has_click)
        return torch.stack(maps, dim=1).reshape(batch, COUNT, *grid)


def _distances(point_coords: Tensor, grid: list[int]) -> Tensor:
    """Straight distances (B, cells, N) from the cells of a grid to the points, in patch voxels."""
    points = point_coords.float()[..., [1, 2, 0]]  # (d, h, w) to the network's (h, w, d)
    cells = [torch.arange(n, device=points.device) * STRIDE + (STRIDE - 1) / 2 for n in grid]
    centres = torch.stack(torch.meshgrid(*cells, indexing="ij"), dim=-1).reshape(1, -1, 3)
    return torch.cdist(centres.expand(len(points), -1, -1), points)


def _unlikeness(image: Tensor, distance: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
    """How each cell differs from the tissue at its closest click: signed, in deviations of that tissue, and as the cost
    of a step into it; both (B, cells). `which` (B, cells) names the closest click."""
    smooth = F.avg_pool3d(image, 3, stride=1, padding=1, count_include_pad=False)
    squares = []
    for values in (smooth.flatten(1), image.flatten(1)):
        # The click's own cell counts fully, cells up to a radius away for the deviation only.
        own = values.gather(1, distance.argmin(dim=1))
        near = (distance < TISSUE_RADIUS).float()
        mean = torch.einsum("bv,bvn->bn", values, near) / near.sum(dim=1).clamp(min=1)
        square = torch.einsum("bv,bvn->bn", values.square(), near) / near.sum(dim=1).clamp(min=1)
        deviation = (square - mean.square()).clamp(min=0).sqrt() + LEAST_DEVIATION
        squares.append((values - own.gather(1, which)) / deviation.gather(1, which))
    cost = STEP + squares[0].square() + VOXEL_SHARE * squares[1].square()
    return squares[0].clamp(-MAX_CONTRAST, MAX_CONTRAST) / MAX_CONTRAST, cost


def _geodesic(nearest: Tensor, cost: Tensor) -> Tensor:
    """Length of the cheapest path to a click, (B, h, w, d), where a step into a cell takes its cost (B, h, w, d).

    nearest (B, h, w, d) is the straight distance to the closest click. Steps go along the axes. Fast sweeping (Zhao
    2005): a run of steps one way along an axis costs a difference of that axis's cumulative costs, so the best run to
    every cell of a line is one running minimum. A path that turns more often than there are sweeps stays longer.
    """
    # A click between cells, or beside the grid, still has a closest cell to start from.
    closest = nearest.flatten(1).amin(dim=1)[:, None, None, None]
    starts = ((nearest < 1.5 * STRIDE) | (nearest == closest)) & nearest.isfinite()
    length = torch.where(starts, 0.0, torch.inf)
    cost = STRIDE * cost
    ways = [(axis, cost.cumsum(axis), cost.flip(axis).cumsum(axis).flip(axis)) for axis in (1, 2, 3)]
    for _ in range(SWEEPS):
        for axis, forth, back in ways:
            onward = (length - forth).cummin(axis).values + forth
            returning = (length - back).flip(axis).cummin(axis).values.flip(axis) + back
            length = torch.minimum(length, torch.minimum(onward, returning))
    return length.clamp(min=0)


def _region(length: Tensor) -> Tensor:
    """Inside (to 1) or outside (to -1) of the region that ends where the path lengths (B, cells) rise most suddenly."""
    ordered = length.sort(dim=1).values
    count = length.shape[1]
    sizes = torch.logspace(0, 1, 120, base=count * 0.6 / GROWTH / SMALLEST_REGION, device=length.device)
    sizes = (sizes * SMALLEST_REGION).long().clamp(max=count - 1)
    grown = (sizes * GROWTH).long().clamp(max=count - 1)
    here, there = ordered[:, sizes], ordered[:, grown]
    rise = ((there - here) / (here + HEAD_START)).nan_to_num(nan=-1.0, posinf=-1.0)
    end = here.gather(1, rise.argmax(dim=1, keepdim=True))
    inside = ((end + 0.5).log() - (length + 0.5).log()).clamp(-2, 2) / 2
    return inside.nan_to_num(nan=-1.0)
