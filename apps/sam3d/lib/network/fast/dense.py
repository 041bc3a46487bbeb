"""Linear layers and convolutions by oneDNN, whatever PyTorch would choose.

PyTorch multiplies single-precision matrices by MKL, which on AMD processors reaches half of what oneDNN does.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# oneDNN packs a weight for about so many rows at once.
ROWS = 2048


def is_available() -> bool:
    """Whether this build of PyTorch has oneDNN's linear layer."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def product(x: Tensor, y: Tensor) -> Tensor:
    """x (N, K) times the transpose of y (M, K), as (N, M)."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, y, None, "none", [], "")
    return out


class Dense:
    """`nn.Linear` with its weight packed once; rows are computed in `dtype`."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(dtype).contiguous(), ROWS)
        self.bias = None if bias is None else bias.detach().to(dtype)

    @classmethod
    def of(cls, layer: nn.Linear, dtype: torch.dtype) -> Dense:
        return cls(layer.weight, layer.bias, dtype)

    def __call__(self, x: Tensor, activation: str = "none") -> Tensor:
        """x (N, in) to (N, out); activation is `none`, `relu` or `gelu` (the exact one)."""
        rows = x.to(self.dtype)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(rows, self.weight, self.bias, activation, [], "none")
        return out


class Convolution:
    """A 3D convolution of stride 1 over a grid of tokens, its sides padded with zeros."""

    def __init__(self, layer: nn.Conv3d, dtype: torch.dtype) -> None:
        self.dtype, self.groups = dtype, layer.groups
        self.padding = [int(side) // 2 for side in layer.kernel_size]
        self.weight = layer.weight.detach().to(dtype).contiguous(memory_format=torch.channels_last_3d)
        self.bias = None if layer.bias is None else layer.bias.detach().to(dtype)

    def __call__(self, grid: Tensor) -> Tensor:
        """grid (h, w, d, in) to (h, w, d, out), both contiguous."""
        # The batch comes first and the turn second: so the strides say channels-last, and nothing is copied.
        channels_first = grid.to(self.dtype)[None].permute(0, 4, 1, 2, 3)
        ones = [1, 1, 1]
        out: Tensor = torch.mkldnn_convolution(
            channels_first, self.weight, self.bias, self.padding, ones, ones, self.groups
        )
        return out[0].permute(1, 2, 3, 0)
