"""3D convolution that stays on oneDNN for one small volume.

PyTorch (2.x, `ConvParams::use_mkldnn`) sends a single-precision volume of a batch of one to its own plain kernel on the
CPU when channels and the first two sides come to 20,480 or less, which here is several times slower. Nothing else is
different: same numbers to rounding, and any other input goes PyTorch's own way.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SMALL = 20480


class Conv3d(nn.Conv3d):
    """`torch.nn.Conv3d` of stride 1 without groups, on the faster road."""

    def forward(self, x: Tensor) -> Tensor:
        return conv3d(x, self.weight, self.bias, int(self.padding[0]))


def conv3d(x: Tensor, weight: Tensor, bias: Tensor | None = None, padding: int = 0) -> Tensor:
    """x (B, C, h, w, d) with a kernel (out, C, k, k, k), its sides padded by `padding` zeros."""
    if not _is_slow(x, weight):
        return F.conv3d(x, weight, bias, padding=padding)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        # oneDNN's own function cannot be differentiated; a batch of two takes its road, forward and back.
        return F.conv3d(x.expand(2, -1, -1, -1, -1), weight, bias, padding=padding)[:1]
    return torch.mkldnn_convolution(x.contiguous(), weight, bias, (padding,) * 3, (1,) * 3, (1,) * 3, 1)


def _is_slow(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and len(x) == 1
        and x.shape[1] * x.shape[2] * x.shape[3] <= SMALL
        and weight.shape[-1] > 1
        and torch.backends.mkldnn.is_available()
    )
