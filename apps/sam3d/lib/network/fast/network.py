"""`encode` and `decode` of the published network for one patch at a time, on the CPU."""

from __future__ import annotations

from itertools import islice

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from lib.network.fast.decoder import FastMaskDecoder
from lib.network.fast.encoder import FastEncoder
from lib.network.fast.prompt import FastPromptEncoder
from lib.network.mask_decoder import MaskDecoder
from lib.network.sam3d import Embedding, Sam3D


class FastSam3D(nn.Module):
    """Takes a network's weights as they are now; `dtype` is what large products are computed in."""

    @torch.inference_mode()
    def __init__(self, network: Sam3D, dtype: torch.dtype) -> None:
        super().__init__()
        assert isinstance(network.mask_decoder, MaskDecoder), "networks with a decoder of our own are fast as they are"
        self.settings = network.settings
        self._encoder = FastEncoder(network.image_encoder, dtype)
        self._prompts = FastPromptEncoder(network.prompt_encoder)
        self._decoder = FastMaskDecoder(network.mask_decoder, dtype)

    @torch.inference_mode()
    def encode(self, patch: Tensor) -> Embedding:
        """patch (1, 1, D, H, W), as for `Sam3D.encode`."""
        image = F.avg_pool3d(rearrange(patch, "b 1 d h w -> b 1 h w d"), 2)
        features = self._encoder(patch)
        fusion = self._decoder.prepare(islice(features, 3), image)
        feature = next(features)
        # Of the plain network's shape, whoever looks at it or mirrors it; channels stay last in memory.
        return Embedding(feature[None].permute(0, 4, 1, 2, 3), fusion[None].permute(0, 4, 1, 2, 3), image)

    @torch.inference_mode()
    def decode(self, embedding: Embedding, point_coords: Tensor, point_labels: Tensor) -> Tensor:
        """Logits (1, 2, D, H, W), as from `Sam3D.decode`."""
        tokens = self._prompts(embedding.feature, point_coords, point_labels)
        return self._decoder(tokens, embedding.fusion[0].permute(1, 2, 3, 0))
