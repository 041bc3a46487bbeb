"""The published decoder (lib.network.mask_decoder) without its concatenation and without most of its up-sampled work.

Up-sampling and convolution are linear and commute: along h, the slowest axis, the fusion convolution's three taps are
applied to the token grid's planes and their results interpolated, which halves the work; a plane at a time, so that
nothing but the result is large.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.network.fast.dense import Convolution, product
from lib.network.mask_decoder import MaskDecoder, upsample

# Rows whose squares are summed at once.
ROWS_AT_ONCE = 16384
NORM_EPS = 1e-5


class FastMaskDecoder:
    """`head` for each feature map as it comes, `fused` for their sum, `logits` for the answer."""

    def __init__(self, decoder: MaskDecoder, dtype: torch.dtype) -> None:
        heads = decoder.mlahead
        self.dtype, self.dim = dtype, decoder.settings.head_dim
        self.heads = [FastHead(head, dtype) for head in (heads.head2, heads.head3, heads.head4, heads.head5)]
        fusing = decoder.cls.get_parameter("0.weight").detach()
        dim = self.dim
        self.shallow = Fusion(fusing[:, : 3 * dim], dtype)
        self.deep = Fusion(fusing[:, 3 * dim : 4 * dim], dtype)
        self.image_weight = fusing[:, 4 * dim :].contiguous(memory_format=torch.channels_last_3d)
        # (taps of the last convolution and classes, channels)
        self.last = decoder.cls.get_parameter("3.weight").detach().permute(2, 3, 4, 0, 1).flatten(0, 3).to(dtype)

    def prepare(self, features: Iterable[Tensor], image: Tensor) -> Tensor:
        """The three shallow maps (h, w, d, C) and the image (1, 1, H/2, W/2, D/2): their share (H/2, W/2, D/2, dim)."""
        answers = [head(feature) for head, feature in zip(self.heads, features, strict=False)]
        side = [1, 1, 1]
        channels_last = image.contiguous(memory_format=torch.channels_last_3d)
        share = torch.mkldnn_convolution(channels_last, self.image_weight, None, side, side, side, 1)
        share = share[0].permute(1, 2, 3, 0)
        return self.shallow.added(torch.cat(answers, dim=-1), share).to(self.dtype)

    def __call__(self, tokens: Tensor, fusion: Tensor) -> Tensor:
        """tokens (T, C) from the prompt encoder; fusion (H/2, W/2, D/2, dim) from `prepare`. Returns logits as
        `MaskDecoder` does."""
        grid = fusion.shape[0] // 2
        answer = self.heads[3](tokens.view(grid, grid, grid, -1))
        fused = _normalised(self.deep.added(answer, fusion.to(torch.float32, copy=True)).flatten(0, 2))
        logits = self._last_convolution(fused.to(self.dtype), fusion.shape[0])
        return upsample(logits[None]).permute(0, 1, 4, 2, 3)  # (h, w, d) back to (d, h, w)

    def _last_convolution(self, rows: Tensor, side: int) -> Tensor:
        """rows (side^3, dim) to (2, side, side, side): every tap for every voxel first, and then moved in place, for
        oneDNN computes two output channels as slowly as sixteen."""
        taps = product(self.last, rows).float().view(3, 3, 3, 2, side, side, side)
        padded = torch.zeros(2, side + 2, side + 2, side + 2)
        for h in range(3):
            for w in range(3):
                for d in range(3):
                    # Tap (h, w, d) reads what lies there; so what lies here goes the other way.
                    at = [slice(2 - tap, 2 - tap + side) for tap in (h, w, d)]
                    padded[:, at[0], at[1], at[2]] += taps[h, w, d]
        return padded[:, 1:-1, 1:-1, 1:-1].contiguous()


class FastHead:
    """Twice a 3x3x3 convolution, instance norm and ReLU."""

    def __init__(self, head: nn.Sequential, dtype: torch.dtype) -> None:
        self.layers = [Convolution(layer, dtype) for layer in head if isinstance(layer, nn.Conv3d)]

    def __call__(self, grid: Tensor) -> Tensor:
        """grid (h, w, d, C) to (h, w, d, dim), single precision."""
        for layer in self.layers:
            out = layer(grid).float()
            grid = _normalised(out.flatten(0, 2)).view(out.shape)
        return grid


class Fusion:
    """A 3x3x3 convolution of a grid that is first up-sampled twice, corners aligned."""

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        self.dtype, self.dim = dtype, len(weight)
        # Taps along h become channels: (3 * out, in, kw, kd)
        by_tap = weight.permute(2, 0, 1, 3, 4).flatten(0, 1)
        self.weight = by_tap.to(dtype).contiguous(memory_format=torch.channels_last)

    def added(self, grid: Tensor, total: Tensor) -> Tensor:
        """The convolution of grid (h, w, d, in), added in place to total (2h, 2w, 2d, out), single precision."""
        ones, size = [1, 1], len(grid)
        weights = interpolation(size)  # (2h, h)
        for plane in range(size):
            channels_first = grid[plane].to(self.dtype)[None].permute(0, 3, 1, 2)
            wide = F.interpolate(channels_first, scale_factor=2, mode="bilinear", align_corners=True)
            taps = torch.mkldnn_convolution(wide, self.weight, None, ones, ones, ones, 1)[0].permute(1, 2, 0).float()
            for tap, part in enumerate(taps.split(self.dim, dim=-1)):
                for source in weights[:, plane].nonzero()[:, 0].tolist():
                    target = source + 1 - tap
                    if 0 <= target < 2 * size:
                        total[target].add_(part, alpha=float(weights[source, plane]))
        return total


def interpolation(size: int) -> Tensor:
    """(2 * size, size): how `upsample` mixes the samples of one axis."""
    return F.interpolate(torch.eye(size)[None], scale_factor=2, mode="linear", align_corners=True)[0].T


def _normalised(rows: Tensor) -> Tensor:
    """InstanceNorm without parameters and ReLU of rows (N, C), in place: centred first, so that nothing is lost."""
    mean, squares = rows.mean(0), torch.zeros(rows.shape[1])
    for part in rows.split(ROWS_AT_ONCE):
        part -= mean
        squares += part.square().sum(0)
    rows *= (squares / len(rows) + NORM_EPS).rsqrt()
    return rows.relu_()
