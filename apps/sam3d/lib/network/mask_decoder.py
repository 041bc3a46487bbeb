"""Multi-layer aggregation: four feature maps and the image itself become two logits a voxel."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.network.convolution import Conv3d, conv3d
from lib.settings import NetworkSettings


def upsample(x: Tensor) -> Tensor:
    """Twice the size, trilinear, corners aligned (the published decoder's convention)."""
    return F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=True)


def _conv(in_channels: int, out_channels: int) -> Conv3d:
    return Conv3d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)


def _layer(in_channels: int, out_channels: int) -> tuple[nn.Module, ...]:
    # Not the faster InstanceNorm of lib.network.layers, which is too rough for the recorded intermediates.
    return _conv(in_channels, out_channels), nn.InstanceNorm3d(out_channels), nn.ReLU()


class AggregationHeads(nn.Module):
    """One head a feature map; head2 to head5, shallow to deep (names of the published checkpoints)."""

    head2: nn.Sequential
    head3: nn.Sequential
    head4: nn.Sequential
    head5: nn.Sequential

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        for name in ("head2", "head3", "head4", "head5"):
            self.add_module(name, self._head(settings.neck_dim, settings.head_dim))

    @staticmethod
    def _head(neck_dim: int, head_dim: int) -> nn.Sequential:
        return nn.Sequential(*_layer(neck_dim, head_dim), *_layer(head_dim, head_dim))


class MaskDecoder(nn.Module):
    """The first fusion convolution is linear in its input channels, so the share of everything the clicks do not touch
    (three heads and the image) is computed once a patch by `prepare`, and `forward` adds the rest for each prompt."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.settings = settings
        self.mlahead = AggregationHeads(settings)
        dim = settings.head_dim
        self.cls = nn.Sequential(*_layer(4 * dim + 1, dim), _conv(dim, 2))

    def prepare(self, features: list[Tensor], image: Tensor) -> Tensor:
        """features: the three shallow maps (B, C, h, w, d); image (B, 1, H/2, W/2, D/2). Returns their share of the
        fusion."""
        heads = (self.mlahead.head2, self.mlahead.head3, self.mlahead.head4)
        inputs = [upsample(head(feature)) for head, feature in zip(heads, features, strict=True)]
        dim, fusing = self.settings.head_dim, self.cls.get_parameter("0.weight")
        weight = torch.cat([fusing[:, : 3 * dim], fusing[:, 4 * dim : 4 * dim + 1]], dim=1)
        return conv3d(torch.cat([*inputs, image], dim=1), weight, padding=1)

    def forward(self, prompted: Tensor, fusion: Tensor) -> Tensor:
        """prompted (B, C, h, w, d) from the prompt encoder; fusion from `prepare`. Returns logits (B, 2, D, H, W):
        background and object."""
        dim, fusing = self.settings.head_dim, self.cls.get_parameter("0.weight")
        fusion = fusion + conv3d(upsample(self.mlahead.head5(prompted)), fusing[:, 3 * dim : 4 * dim], padding=1)
        logits: Tensor = self.cls[1:](fusion)
        return upsample(logits).permute(0, 1, 4, 2, 3)  # (h, w, d) back to (d, h, w)
