"""Parts shared by the encoder and the decoder: channel norm, windows, and 3D attention with relative positions."""

from __future__ import annotations

import torch
from einops import rearrange
from segment_anything.modeling.image_encoder import get_rel_pos
from torch import Tensor, nn
from torch.nn import functional as F

# What a masked pair of tokens gets added to its logit (the published value; exp(-100) is zero in fp32).
MASKED = -100.0


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a channels-first map (B, C, h, w, d)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class InstanceNorm(nn.Module):
    """`torch.nn.InstanceNorm3d` without parameters; as a group norm of one channel a group it is much faster, and
    rounds more roughly."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, h, w, d) to the same shape."""
        return F.group_norm(x, x.shape[1])


def split_windows(x: Tensor, size: int) -> Tensor:
    """Token grid (B, h, w, d, C) to windows (B*n, size^3, C); in a window h is slowest and d fastest, windows
    likewise."""
    return rearrange(x, "b (h i) (w j) (d k) c -> (b h w d) (i j k) c", i=size, j=size, k=size)


def merge_windows(windows: Tensor, size: int, grid: int) -> Tensor:
    """Undo `split_windows` for a cubic grid: (B*n, size^3, C) to (B, grid, grid, grid, C)."""
    n = grid // size
    return rearrange(windows, "(b h w d) (i j k) c -> b (h i) (w j) (d k) c", h=n, w=n, d=n, i=size, j=size, k=size)


def window_regions(grid: int, size: int, shift: int) -> Tensor:
    """Which side of the volume each token of each window comes from, after the grid was rolled by -shift.

    Returns (n, size^3) integers; tokens of one window with different numbers must not see each other, for the roll
    brought them together from opposite ends. Only the last window of an axis mixes ends.
    """
    side = torch.zeros(grid, dtype=torch.int64)
    side[grid - shift :] = 1
    regions = side[:, None, None] * 4 + side[None, :, None] * 2 + side[None, None, :]
    return split_windows(regions[None, ..., None], size).squeeze(-1)


class WindowAttention(nn.Module):
    """Multi-head attention among the size^3 tokens of a window, with decomposed relative positions on three axes.

    SAM's own attention (Kirillov et al. 2023, its `Attention` with `use_rel_pos`) has the tables for h and w;
    `rel_pos_d` is the added depth axis (arXiv 2306.13465, section 3.2). `lr` is the published gain on the relative
    terms.
    """

    lr: Tensor

    def __init__(self, dim: int, num_heads: int, window_size: int, rel_pos_rows: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        head_dim = dim // num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(rel_pos_rows, head_dim))
        self.rel_pos_w = nn.Parameter(torch.zeros(rel_pos_rows, head_dim))
        self.rel_pos_d = nn.Parameter(torch.zeros(rel_pos_rows, head_dim))
        self.register_buffer("lr", torch.ones(()))

    def forward(self, x: Tensor, regions: Tensor | None) -> Tensor:
        """x (n, size^3, C); regions (n, size^3) from `window_regions`, or None where nothing was rolled."""
        qkv = rearrange(self.qkv(x), "n t (three m c) -> three n m t c", three=3, m=self.num_heads)
        q, k, v = qkv.unbind(0)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=self._bias(q, regions))
        projected: Tensor = self.proj(rearrange(out, "n m t c -> n t (m c)"))
        return projected

    def _bias(self, q: Tensor, regions: Tensor | None) -> Tensor:
        """What is added to the logits: (n, heads, size^3 queries, size^3 keys)."""
        s = self.window_size
        grid = rearrange(q, "n m (i j k) c -> n m i j k c", i=s, j=s, k=s) * self.lr
        along_h = torch.einsum("nmijkc,iac->nmijka", grid, get_rel_pos(s, s, self.rel_pos_h))
        along_w = torch.einsum("nmijkc,jbc->nmijkb", grid, get_rel_pos(s, s, self.rel_pos_w))
        along_d = torch.einsum("nmijkc,kec->nmijke", grid, get_rel_pos(s, s, self.rel_pos_d))
        bias = along_h[..., :, None, None] + along_w[..., None, :, None] + along_d[..., None, None, :]
        bias = rearrange(bias, "n m i j k a b e -> n m (i j k) (a b e)")
        if regions is None:
            return bias
        is_same_region = regions[:, None, :, None] == regions[:, None, None, :]
        return bias + torch.where(is_same_region, 0.0, MASKED).to(bias.dtype)
