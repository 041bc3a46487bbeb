"""The decoder of our own networks: a small U-Net over the image and the clicks, with the encoder's features inside.

The published decoder knows of the clicks only what the prompt encoder put into the deepest features. This one reads
click maps (lib.network.click_maps) at half resolution, so that what it answers follows the clicks from the first
training step on (docs/decisions/0002). U-Net: Ronneberger et al. 2015, with sums for skip connections.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.network import click_maps
from lib.network.convolution import Conv3d
from lib.network.layers import InstanceNorm
from lib.settings import NetworkSettings


def _layer(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        Conv3d(in_channels, out_channels, kernel_size=3, padding=1, bias=False), InstanceNorm(), nn.ReLU()
    )


def _double(x: Tensor) -> Tensor:
    """Twice the size, trilinear, cells aligned."""
    return F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)


class ClickDecoder(nn.Module):
    """Three levels: half the patch's resolution, the token grid, half of that; channels by `settings.click_unet`."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        fine, middle, coarse = settings.click_unet
        dim, maps = settings.head_dim, click_maps.COUNT
        self.shallow = _layer(3 * settings.neck_dim, dim)
        self.deep = _layer(settings.neck_dim, dim)
        self.down_fine = nn.Sequential(_layer(1 + maps, fine), _layer(fine, fine))
        self.down_middle = nn.Sequential(_layer(fine + 2 * dim, middle), _layer(middle, middle))
        self.bottom = nn.Sequential(_layer(middle, coarse), _layer(coarse, coarse))
        self.to_middle = nn.Conv3d(coarse, middle, kernel_size=1)
        self.up_middle = nn.Sequential(_layer(middle, middle), _layer(middle, middle))
        self.to_fine = nn.Conv3d(middle, fine, kernel_size=1)
        self.up_fine = nn.Sequential(_layer(fine, fine), _layer(fine, fine))
        self.logits = nn.Conv3d(fine, 2, kernel_size=1)
        # Straight from the clicks to the logits: a fresh network answers something from the start.
        self.click_logits = nn.Conv3d(maps, 2, kernel_size=1)

    def prepare(self, features: list[Tensor], image: Tensor) -> Tensor:
        """features: the three shallow maps (B, C, h, w, d). Returns what no click changes, (B, head_dim, h, w, d)."""
        fusion: Tensor = self.shallow(torch.cat(features, dim=1))
        return fusion

    def forward(self, prompted: Tensor, fusion: Tensor, image: Tensor, maps: Tensor) -> Tensor:
        """prompted (B, C, h, w, d) from the prompt encoder; fusion from `prepare`; image (B, 1, H/2, W/2, D/2) and
        click maps (B, COUNT, H/2, W/2, D/2). Returns logits (B, 2, D, H, W): background and object."""
        fine = self.down_fine(torch.cat([image, maps], dim=1))
        middle = self.down_middle(torch.cat([F.avg_pool3d(fine, 2), fusion, self.deep(prompted)], dim=1))
        coarse = self.bottom(F.avg_pool3d(middle, 2))
        middle = middle + _double(self.to_middle(coarse))
        middle = middle + self.up_middle(middle)
        fine = fine + _double(self.to_fine(middle))
        fine = fine + self.up_fine(fine)
        logits = self.logits(fine) + self.click_logits(maps)
        return _double(logits).permute(0, 1, 4, 2, 3)  # (h, w, d) back to (d, h, w)
