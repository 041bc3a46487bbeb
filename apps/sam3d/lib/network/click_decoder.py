"""The decoder of our own networks: a residual U-Net over the image, the clicks and the mask so far.

It works at half the patch's resolution and sees and answers the full one: 2 x 2 x 2 voxels become channels on the way
in and voxels again on the way out (sub-pixel layers, Shi et al. 2016). What it says is added to the mask so far, so
that a finer patch starts from what the coarser one found (docs/decisions/0022). U-Net: Ronneberger et al. 2015;
residual blocks: He et al. 2016; instance norm and leaky ReLU as in nnU-Net (Isensee et al. 2021).
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from lib.network import click_maps
from lib.network.convolution import Conv3d
from lib.settings import NetworkSettings

# What is added of the mask so far, which lies in [-1, 1], to the network's own margin.
PRIOR_GAIN = 2.0
BLOCK = click_maps.STRIDE


def _convolution(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        Conv3d(in_channels, out_channels, kernel_size=3, padding=1, bias=False),
        AffineInstanceNorm(out_channels, out_channels),
    )


class AffineInstanceNorm(nn.GroupNorm):
    """An instance norm, as a group norm of one channel a group, which is faster. A single cell stays as it is."""

    def forward(self, x: Tensor) -> Tensor:
        if x[0, 0].numel() > 1:
            return super().forward(x)
        return x * self.weight.view(1, -1, 1, 1, 1) + self.bias.view(1, -1, 1, 1, 1)


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut: (B, in, h, w, d) to (B, out, h, w, d)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.first = _convolution(in_channels, out_channels)
        self.second = _convolution(out_channels, out_channels)
        self.shortcut = nn.Conv3d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        inner = self.second(F.leaky_relu(self.first(x), 0.01))
        return F.leaky_relu(inner + self.shortcut(x), 0.01)


def _double(x: Tensor) -> Tensor:
    """Twice the size, trilinear, cells aligned."""
    return F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)


class ClickDecoder(nn.Module):
    """Four levels, from half the patch's resolution down; channels by `settings.click_unet`, fine to coarse. The
    encoder's features join at the token grid, the second level."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        widths, dim, maps = settings.click_unet, settings.head_dim, click_maps.COUNT
        self.shallow = nn.Sequential(_convolution(3 * settings.neck_dim, dim), nn.LeakyReLU(0.01))
        self.deep = nn.Sequential(_convolution(settings.neck_dim, dim), nn.LeakyReLU(0.01))
        joined = [2 * BLOCK**3 + maps, widths[0] + 2 * dim, *widths[1:-1]]
        self.down = nn.ModuleList(ResidualBlock(n, width) for n, width in zip(joined, widths, strict=True))
        steps = list(zip(widths[1:], widths[:-1], strict=True))
        self.widen = nn.ModuleList(nn.Conv3d(coarse, fine, kernel_size=1) for coarse, fine in steps)
        self.up = nn.ModuleList(ResidualBlock(fine, fine) for _, fine in steps)
        self.margin = nn.Conv3d(widths[0], BLOCK**3, kernel_size=1)

    def prepare(self, features: list[Tensor], image: Tensor) -> Tensor:
        """features: the three shallow maps (B, C, h, w, d). Returns what no click changes, (B, head_dim, h, w, d)."""
        fusion: Tensor = self.shallow(torch.cat(features, dim=1))
        return fusion

    def forward(self, prompted: Tensor, fusion: Tensor, image: Tensor, maps: Tensor, prior: Tensor) -> Tensor:
        """prompted (B, C, h, w, d) from the prompt encoder; fusion from `prepare`; image and prior (B, 1, H, W, D), the
        latter in [-1, 1]; click maps (B, COUNT, H/2, W/2, D/2). Returns the margin (B, 1, D, H, W): how much the
        object's logit exceeds the background's."""
        seen = torch.cat([image, prior], dim=1)
        x = torch.cat([_to_channels(seen), maps], dim=1)
        levels = []
        for number, block in enumerate(self.down):
            if number:
                x = F.avg_pool3d(x, 2)
            if number == 1:
                x = torch.cat([x, fusion, self.deep(prompted)], dim=1)
            x = block(x)
            levels.append(x)
        for number in reversed(range(len(self.up))):
            x = self.up[number](levels[number] + _double(self.widen[number](x)))
        margin = _to_voxels(self.margin(x)) + PRIOR_GAIN * prior
        return margin.permute(0, 1, 4, 2, 3)  # (h, w, d) back to (d, h, w)


def _to_channels(x: Tensor) -> Tensor:
    return rearrange(x, "b c (h i) (w j) (d k) -> b (c i j k) h w d", i=BLOCK, j=BLOCK, k=BLOCK)


def _to_voxels(x: Tensor) -> Tensor:
    return rearrange(x, "b (c i j k) h w d -> b c (h i) (w j) (d k)", i=BLOCK, j=BLOCK, k=BLOCK)
