"""Which form of a network answers clicks."""

from __future__ import annotations

import logging
from typing import cast

import torch
from torch import Tensor, nn

from lib.network.fast.allocator import keep_freed_memory
from lib.network.fast.dense import is_available
from lib.network.fast.network import FastSam3D
from lib.network.mask_decoder import MaskDecoder
from lib.network.precision import operand_type
from lib.network.sam3d import Embedding, Sam3D

logger = logging.getLogger(__name__)


def for_clicks(network: Sam3D, precision: str, device: torch.device) -> Sam3D:
    """The fastest form of a network on a device, in `auto`, `fp32` or `bf16`; it answers and cannot be trained.

    SettingsError where the device has no bf16. On the CPU the published network gives its weights up to it.
    """
    dtype = operand_type(precision, device)
    logger.info("clicks are answered in %s", str(dtype).removeprefix("torch."))
    if device.type == "cpu" and isinstance(network.mask_decoder, MaskDecoder) and is_available():
        keep_freed_memory()
        return cast(Sam3D, FastSam3D(network, dtype))
    if dtype == torch.bfloat16:
        return cast(Sam3D, InBfloat16(network))
    return network


class InBfloat16(nn.Module):
    """A network whose large products PyTorch computes in bfloat16; norms, softmax and sums stay as they are."""

    def __init__(self, network: Sam3D) -> None:
        super().__init__()
        self.network, self.settings = network, network.settings

    def encode(self, patch: Tensor) -> Embedding:
        with torch.autocast(patch.device.type, torch.bfloat16):
            return self.network.encode(patch)

    def decode(
        self, embedding: Embedding, point_coords: Tensor, point_labels: Tensor, prior: Tensor | None = None
    ) -> Tensor:
        with torch.autocast(point_coords.device.type, torch.bfloat16):
            return self.network.decode(embedding, point_coords, point_labels, prior)
