"""Where the clicks are, as maps the decoder can read.

The published decoder knows a click only by the features found there. Networks of our own also get, at each grid voxel,
how near the nearest foreground and background clicks are, in a straight line and along tissue like the clicked one
(geodesic maps as in DeepIGeoS, Wang et al. 2018), and how different the image is from the clicked tissue.
See docs/decisions/0002-click-maps.md.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# Decay lengths, in patch voxels, of the nearness maps: about the click, and about its neighbourhood.
STRAIGHT_REACHES = (3.0, 12.0)
GEODESIC_REACHES = (8.0, 40.0)
COUNT = 2 * (len(STRAIGHT_REACHES) + len(GEODESIC_REACHES)) + 1
# A step between tissues that differ by one standard deviation costs this many steps within one.
TISSUE_COST = 6.0
# Beyond this many standard deviations "different tissue" needs no more telling.
MAX_CONTRAST = 3.0


def click_maps(image: Tensor, point_coords: Tensor, point_labels: Tensor, stride: int) -> Tensor:
    """Maps of the clicks on a grid whose cells are `stride` patch voxels wide.

    image (B, 1, h, w, d), the patch's mean in each cell; point_coords (B, N, 3) in patch voxels (d, h, w), voxel
    centres on integers; point_labels (B, N), 1 foreground, 0 background. Returns (B, COUNT, h, w, d) of the image's
    type.
    """
    batch, _, *grid = image.shape
    if point_coords.shape[1] == 0:
        return image.new_zeros(batch, COUNT, *grid)
    # Distances need single precision, whatever the rest of the network runs in.
    with torch.autocast(image.device.type, enabled=False):
        smooth = F.avg_pool3d(image.float(), 3, stride=1, padding=1, count_include_pad=False)
        points = point_coords.float()[..., [1, 2, 0]]  # (d, h, w) to the network's (h, w, d)
        cells = [torch.arange(n, device=image.device) * stride + (stride - 1) / 2 for n in grid]
        centres = torch.stack(torch.meshgrid(*cells, indexing="ij"), dim=-1).reshape(1, -1, 3)
        distance = torch.cdist(centres.expand(batch, -1, -1), points)
        clicked = _values_at(smooth, points, stride)
        maps = []
        for label in (1, 0):
            nearest, which = distance.masked_fill((point_labels != label)[:, None], torch.inf).min(dim=-1)
            has_click = nearest.isfinite()
            contrast = ((smooth.flatten(1) - clicked.gather(1, which)) * has_click).clamp(-MAX_CONTRAST, MAX_CONTRAST)
            along = _geodesic(nearest.reshape(batch, *grid), contrast.abs().reshape(batch, *grid), stride).flatten(1)
            maps += [torch.exp(-nearest / reach) for reach in STRAIGHT_REACHES]
            maps += [torch.exp(-along / reach) for reach in GEODESIC_REACHES]
            if label == 1:
                maps.append(contrast)
        return torch.stack(maps, dim=1).reshape(batch, COUNT, *grid).to(image.dtype)


def _values_at(image: Tensor, points: Tensor, stride: int) -> Tensor:
    """The image (B, 1, h, w, d) at points (B, N, 3), in patch voxels (h, w, d); (B, N)."""
    side = image.shape[-1] * stride
    grid = ((points + 0.5) * 2 / side - 1)[:, None, None, :, [2, 1, 0]]  # grid_sample wants the last axis first
    return F.grid_sample(image, grid, padding_mode="border", align_corners=False)[:, 0, 0, 0]


def _geodesic(nearest: Tensor, contrast: Tensor, stride: int) -> Tensor:
    """Length of the cheapest path to a click, in patch voxels, where unlike tissue is longer; (B, h, w, d).

    nearest (B, h, w, d) is the straight distance to the closest click, contrast the difference from its tissue. Steps
    go along the axes; as many are taken as a side has cells, so a path that winds more stays unknown (infinite).
    """
    cost = stride * (1 + TISSUE_COST * contrast)
    length = torch.where(nearest < stride, nearest, torch.inf)
    # A click beside the grid, or between its cells, still has a closest cell to start from.
    closest = nearest.flatten(1).amin(dim=1)[:, None, None, None]
    length = torch.where((nearest == closest) & nearest.isfinite(), nearest, length)
    for _ in range(nearest.shape[-1]):
        padded = F.pad(length, (1, 1, 1, 1, 1, 1), value=torch.inf)
        step = torch.minimum(padded[:, 2:, 1:-1, 1:-1], padded[:, :-2, 1:-1, 1:-1])
        step = torch.minimum(step, torch.minimum(padded[:, 1:-1, 2:, 1:-1], padded[:, 1:-1, :-2, 1:-1]))
        step = torch.minimum(step, torch.minimum(padded[:, 1:-1, 1:-1, 2:], padded[:, 1:-1, 1:-1, :-2]))
        length = torch.minimum(length, step + cost)
    return length
