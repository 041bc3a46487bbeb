"""Where the clicks are, as maps the decoder can read.

The published decoder knows a click only by the features found there. Networks of our own also get, at each grid voxel,
how near the nearest foreground and background clicks are, and how different the image is from the clicked tissue.
See docs/decisions/0002-click-maps.md.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# Decay lengths, in patch voxels, of the nearness maps: about the click, and about its neighbourhood.
REACHES = (3.0, 12.0)
COUNT = 2 * len(REACHES) + 1
# Beyond this many standard deviations "different tissue" needs no more telling.
_MAX_CONTRAST = 3.0


def click_maps(image: Tensor, point_coords: Tensor, point_labels: Tensor, stride: int) -> Tensor:
    """Maps of the clicks on a grid whose cells are `stride` patch voxels wide.

    image (B, 1, h, w, d), the patch's mean in each cell; point_coords (B, N, 3) in patch voxels (d, h, w), voxel
    centres on integers; point_labels (B, N), 1 foreground, 0 background. Returns (B, COUNT, h, w, d).
    """
    batch, _, *grid = image.shape
    if point_coords.shape[1] == 0:
        return image.new_zeros(batch, COUNT, *grid)
    cells = [torch.arange(n, device=image.device) * stride + (stride - 1) / 2 for n in grid]
    centres = torch.stack(torch.meshgrid(*cells, indexing="ij"), dim=-1).reshape(1, -1, 3)
    points = point_coords.to(image.dtype)[..., [1, 2, 0]]  # (d, h, w) to the network's (h, w, d)
    distance = torch.cdist(centres.to(image.dtype).expand(batch, -1, -1), points)
    nearness = []
    for label in (1, 0):
        nearest = distance.masked_fill((point_labels != label)[:, None], torch.inf).amin(dim=-1)
        nearness += [torch.exp(-nearest / reach) for reach in REACHES]
    maps = torch.stack([*nearness, _contrast(image, points, point_labels, distance, stride)], dim=1)
    return maps.reshape(batch, COUNT, *grid)


def _contrast(image: Tensor, points: Tensor, point_labels: Tensor, distance: Tensor, stride: int) -> Tensor:
    """Image minus its value at the nearest foreground click, (B, cells); zero where there is no foreground click."""
    side = image.shape[-1] * stride
    grid = ((points + 0.5) * 2 / side - 1)[:, None, None, :, [2, 1, 0]]  # grid_sample wants the last axis first
    clicked = F.grid_sample(image, grid, padding_mode="border", align_corners=False)[:, 0, 0, 0]
    is_foreground = point_labels == 1
    nearest = distance.masked_fill(~is_foreground[:, None], torch.inf).argmin(dim=-1)
    contrast = image.flatten(1) - clicked.gather(1, nearest)
    contrast = contrast.clamp(-_MAX_CONTRAST, _MAX_CONTRAST)
    return contrast * is_foreground.any(dim=1, keepdim=True)
