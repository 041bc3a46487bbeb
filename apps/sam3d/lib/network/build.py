"""The only place where the network's parts are put together."""

from __future__ import annotations

import torch
from torch import nn

from lib.network.sam3d import Sam3D
from lib.settings import NetworkSettings


def build_sam3d(settings: NetworkSettings, seed: int | None = None) -> Sam3D:
    """A fresh network on the CPU, in evaluation mode; with a seed its random parameters are reproducible."""
    if seed is None:
        return Sam3D(settings).eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Sam3D(settings)
        initialise_positions(network)
    return network.eval()


def initialise_positions(network: Sam3D) -> None:
    """Give a network that has no SAM weights small random positions, for zeros would leave its tokens all alike."""
    encoder = network.image_encoder
    nn.init.trunc_normal_(encoder.pos_embed, std=0.02)
    nn.init.trunc_normal_(encoder.depth_embed, std=0.02)
    nn.init.trunc_normal_(network.prompt_encoder.background_embedding, std=0.02)
    for name, parameter in encoder.named_parameters():
        if ".rel_pos_" in name:
            nn.init.trunc_normal_(parameter, std=0.02)
