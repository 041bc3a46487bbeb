"""SAM's image encoder made volumetric: a patch of voxels in, four maps of features out. Nothing here knows of
prompts."""

from __future__ import annotations

import torch
from einops import rearrange
from segment_anything.modeling.common import MLPBlock
from segment_anything.modeling.image_encoder import PatchEmbed
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lib.network.adapter import SpatialAdapter
from lib.network.convolution import Conv3d
from lib.network.layers import ChannelNorm, WindowAttention, merge_windows, split_windows, window_regions
from lib.settings import NetworkSettings

# Tokens that pass through a block together: with more, temporaries outgrow the cache and glibc's mmap threshold.
TOKENS_AT_ONCE = 2048


class Block(nn.Module):
    """One transformer block: adapter, then windowed attention and MLP with SAM's weights.

    Everything after the adapter stays inside a window, so windows pass a few at a time: the temporaries fit the
    processor's cache, and no (n, heads, 512, 512) tensor of all windows ever exists.
    """

    regions: Tensor | None

    def __init__(self, settings: NetworkSettings, index: int) -> None:
        super().__init__()
        dim, self.window_size, self.grid_size = settings.embed_dim, settings.window_size, settings.grid_size
        # Even blocks are the shifted ones (in Swin it is the odd ones).
        self.shift = settings.window_size // 2 if index % 2 == 0 else 0
        self.windows_at_once = max(1, TOKENS_AT_ONCE // settings.window_size**3)
        self.adapter = SpatialAdapter(dim, settings.adapter_dim)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = WindowAttention(dim, settings.num_heads, settings.window_size, settings.rel_pos_rows(index))
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLPBlock(dim, 4 * dim)
        regions = window_regions(self.grid_size, self.window_size, self.shift) if self.shift else None
        self.register_buffer("regions", regions, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, h, w, d, C) to the same shape."""
        x = self._rolled(self.adapter(x), -self.shift)
        windows = split_windows(x, self.window_size)
        regions = None if self.regions is None else self.regions.repeat(x.shape[0], 1)
        groups = range(0, len(windows), self.windows_at_once)
        at = [slice(start, start + self.windows_at_once) for start in groups]
        out = torch.cat([self._windows(windows[s], None if regions is None else regions[s]) for s in at])
        return self._rolled(merge_windows(out, self.window_size, self.grid_size), self.shift)

    def _windows(self, x: Tensor, regions: Tensor | None) -> Tensor:
        x = x + self.attn(self.norm1(x), regions)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out

    @staticmethod
    def _rolled(x: Tensor, shift: int) -> Tensor:
        return x.roll((shift, shift, shift), dims=(1, 2, 3)) if shift else x


class ImageEncoder(nn.Module):
    """3D ViT with spatial adapters. Parameter names are those of the published checkpoints."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        dim, grid = settings.embed_dim, settings.grid_size
        self.settings = settings
        self.is_checkpointed = False
        self.patch_embed = PatchEmbed(
            kernel_size=(settings.vit_patch_size, settings.vit_patch_size),
            stride=(settings.vit_patch_size, settings.vit_patch_size),
            embed_dim=dim,
        )
        self.slice_embed = nn.Conv3d(dim, dim, kernel_size=(1, 1, settings.vit_patch_size), groups=dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, settings.sam_grid_size, settings.sam_grid_size, dim))
        self.depth_embed = nn.Parameter(torch.ones(1, grid, dim))
        self.blocks = nn.ModuleList(Block(settings, index) for index in range(settings.depth))
        self.neck_3d = nn.ModuleList(self._neck(settings) for _ in settings.neck_blocks)
        self.register_buffer("upsampling_weights", upsampling_weights(settings), persistent=False)

    upsampling_weights: Tensor

    @staticmethod
    def _neck(settings: NetworkSettings) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv3d(settings.embed_dim, settings.neck_dim, kernel_size=1, bias=False),
            ChannelNorm(settings.neck_dim, eps=1e-6),
            Conv3d(settings.neck_dim, settings.neck_dim, kernel_size=3, padding=1, bias=False),
            ChannelNorm(settings.neck_dim, eps=1e-6),
        )

    def forward(self, patch: Tensor) -> list[Tensor]:
        """patch (B, 1, D, H, W), normalised; returns four maps (B, neck_dim, h, w, d), shallow to deep."""
        x = self.tokens(patch)
        features = []
        for index, block in enumerate(self.blocks):
            if self.is_checkpointed and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
            if index in self.settings.neck_blocks:
                neck = self.neck_3d[self.settings.neck_blocks.index(index)]
                features.append(neck(x.movedim(-1, 1)))
        return features

    def tokens(self, patch: Tensor) -> Tensor:
        """Token grid (B, h, w, d, C) with its positions, of a patch (B, 1, D, H, W).

        The published network up-samples the patch, embeds each slice with SAM's 2D kernel and then joins slices with
        a depth-wise kernel. All three are linear, so they are one small kernel on the patch's own voxels; padding by
        the border's own value is what clamped interpolation does there (docs/decisions/0003).
        """
        kernel, bias = self.embedding_kernel()
        return F.linear(cells_of(patch, self.settings.token_stride), kernel, bias) + self.positions()

    def embedding_kernel(self) -> tuple[Tensor, Tensor]:
        """Up-sampling, SAM's patch kernel and the slice kernel as one: weight (C, (s+2)^3) and bias (C)."""
        # The three input channels see the same data, so their kernels add up.
        in_plane = self.patch_embed.proj.weight.sum(dim=1)
        along_depth = self.slice_embed.weight[:, 0, 0, 0]
        a = self.upsampling_weights
        kernel = torch.einsum("cij,ia,jb,ck,ke->cabe", in_plane, a, a, along_depth, a)
        bias = self.slice_embed.bias + self.patch_embed.proj.bias * along_depth.sum(dim=1)
        return kernel.flatten(1), bias

    def positions(self) -> Tensor:
        """(1, h, w, d, C): SAM's in-plane table pooled to our grid, plus the depth table."""
        grid = self.settings.grid_size
        in_plane = F.adaptive_avg_pool2d(self.pos_embed.movedim(-1, 1), grid).movedim(1, -1)
        return in_plane[:, :, :, None] + self.depth_embed[:, None, None]


def cells_of(patch: Tensor, stride: int) -> Tensor:
    """What each token of a patch (B, 1, D, H, W) sees, its own voxels and one more each way: (B, h, w, d, voxels)."""
    volume = rearrange(patch, "b 1 d h w -> b 1 h w d")  # the only place where the axes change order
    reach = stride + 2
    padded = F.pad(volume, (1, 1, 1, 1, 1, 1), mode="replicate").squeeze(1)
    cells = padded.unfold(1, reach, stride).unfold(2, reach, stride).unfold(3, reach, stride)
    return rearrange(cells, "b h w d i j k -> b h w d (i j k)")


def upsampling_weights(settings: NetworkSettings) -> Tensor:
    """(vit_patch_size, token_stride + 2): how each up-sampled voxel of a token mixes the patch's own voxels.

    Linear, half-pixel: up-sampled voxel t lies at (t + 0.5) / upsampling - 0.5; column 0 is the voxel before the token.
    """
    weights = torch.zeros(settings.vit_patch_size, settings.token_stride + 2)
    for t in range(settings.vit_patch_size):
        at = (t + 0.5) / settings.upsampling + 0.5
        low = int(at)
        weights[t, low] = 1 - (at - low)
        weights[t, low + 1] = at - low
    return weights
