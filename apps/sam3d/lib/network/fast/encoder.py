"""The image encoder on rows of tokens (lib.network.image_encoder), and the shallow features' share of the decoder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.network.fast.blocks import ROWS_AT_ONCE, FastBlock
from lib.network.fast.dense import Convolution, Dense
from lib.network.image_encoder import Block, ImageEncoder, cells_of


class FastEncoder:
    """Yields the four feature maps, shallow to deep, each as soon as it is there."""

    def __init__(self, encoder: ImageEncoder, dtype: torch.dtype) -> None:
        self.settings = encoder.settings
        # The only layer that sees raw voxels, and the cheapest one: always in single precision.
        self.embedding = Dense(*encoder.embedding_kernel(), torch.float32)
        self.positions = encoder.positions().detach().flatten(0, 3)
        self.necks = [FastNeck(cast(nn.Sequential, neck), dtype) for neck in encoder.neck_3d]
        self.blocks = [FastBlock(cast(Block, block), dtype) for block in encoder.blocks]

    def __call__(self, patch: Tensor) -> Iterator[Tensor]:
        """patch (1, 1, D, H, W), normalised; features (h, w, d, neck_dim), single precision."""
        grid = self.settings.grid_size
        x = self.embedding(cells_of(patch, self.settings.token_stride).flatten(0, 3))
        x += self.positions
        for index, block in enumerate(self.blocks):
            block(x)
            if index in self.settings.neck_blocks:
                yield self.necks[self.settings.neck_blocks.index(index)](x).view(grid, grid, grid, -1)


class FastNeck:
    """Channels mixed, a 3x3x3 convolution, and a norm over channels after each."""

    def __init__(self, neck: nn.Sequential, dtype: torch.dtype) -> None:
        mix, self.norm1, spread, self.norm2 = neck
        self.mix = Dense(mix.get_parameter("weight").flatten(1), None, dtype)
        self.spread = Convolution(cast(nn.Conv3d, spread), dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """x (tokens, C) of a cubic grid to (tokens, neck_dim)."""
        grid = round(len(x) ** (1 / 3))
        mixed = torch.cat([_over_channels(self.mix(part).float(), self.norm1) for part in x.split(ROWS_AT_ONCE)])
        spread = self.spread(mixed.view(grid, grid, grid, -1)).float()
        return _over_channels(spread.reshape(len(x), -1), self.norm2)


def _over_channels(rows: Tensor, norm: nn.Module) -> Tensor:
    """A ChannelNorm on rows (N, C)."""
    assert isinstance(norm, nn.LayerNorm)
    return F.layer_norm(rows, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
