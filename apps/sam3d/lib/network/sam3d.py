"""The whole network: `encode` a patch once, `decode` a prompt as often as the user clicks. No file access here."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from lib.network.click_decoder import ClickDecoder
from lib.network.click_maps import STRIDE, click_maps
from lib.network.image_encoder import ImageEncoder
from lib.network.mask_decoder import MaskDecoder
from lib.network.prompt_encoder import PromptEncoder
from lib.settings import NetworkSettings

GROUPS = ("adapter", "depth", "decoder")
# Normalised voxels up to here are taken as they are.
USUAL = 3.0


@dataclass(frozen=True)
class Embedding:
    """What is kept of a patch: all that later clicks need and nothing that depends on them."""

    feature: Tensor  # (B, neck_dim, h, w, d), the deepest map
    fusion: Tensor  # (B, head_dim, ...), the share of the decoder that no click changes, on the decoder's own grid
    image: Tensor  # (B, 1, ...), the patch itself or, for the published decoder, at half resolution; axes (h, w, d)

    @property
    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (self.feature, self.fusion, self.image))


class Sam3D(nn.Module):
    """3DSAM-adapter (arXiv 2306.13465) with label embeddings for background clicks."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.settings = settings
        self.image_encoder = ImageEncoder(settings)
        self.prompt_encoder = PromptEncoder(settings)
        self.mask_decoder = ClickDecoder(settings) if settings.click_unet else MaskDecoder(settings)

    def encode(self, patch: Tensor) -> Embedding:
        """patch (B, 1, D, H, W), normalised voxels; slow, and independent of any prompt."""
        if self.settings.has_prior:
            patch = compressed(patch)
        features = self.image_encoder(patch)
        image = rearrange(patch, "b 1 d h w -> b 1 h w d")
        if not self.settings.has_prior:
            image = F.avg_pool3d(image, 2)
        fusion = self.mask_decoder.prepare(features[:3], image)
        return Embedding(feature=features[3], fusion=fusion, image=image)

    def decode(
        self, embedding: Embedding, point_coords: Tensor, point_labels: Tensor, prior: Tensor | None = None
    ) -> Tensor:
        """Logits (B, 2, D, H, W), background and object. point_coords (B, N, 3) in patch voxels (d, h, w), voxel
        centres on integers; point_labels (B, N), 1 foreground, 0 background; N = 0 asks for the automatic answer.

        `prior` (B, 1, D, H, W) is the mask so far, 1 object, -1 background, 0 unknown; None: nothing is known. The
        published decoder has no place for it.
        """
        if isinstance(self.mask_decoder, MaskDecoder):
            prompted = self.prompt_encoder(embedding.feature, point_coords, point_labels)
            logits: Tensor = self.mask_decoder(prompted, embedding.fusion)
            return logits
        image = embedding.image
        known = torch.zeros_like(image) if prior is None else rearrange(prior, "b 1 d h w -> b 1 h w d")
        maps = click_maps(F.avg_pool3d(image, STRIDE), point_coords, point_labels)
        on_tokens = F.avg_pool3d(maps, self.settings.token_stride // STRIDE)
        prompted = self.prompt_encoder(embedding.feature, point_coords, point_labels, on_tokens)
        margin = self.mask_decoder(prompted, embedding.fusion, image, maps, known)
        return torch.cat([-margin / 2, margin / 2], dim=1)

    def forward(self, patch: Tensor, point_coords: Tensor, point_labels: Tensor, prior: Tensor | None = None) -> Tensor:
        return self.decode(self.encode(patch), point_coords, point_labels, prior)

    def parameter_groups(self, has_norms: bool = False) -> dict[str, list[str]]:
        """Names of the tuned parameters by group; all others are SAM's own.

        `has_norms` adds SAM's layer norms to the adapter group, as the published recipe of full training does.
        """
        groups: dict[str, list[str]] = {group: [] for group in GROUPS}
        for name, _ in self.named_parameters():
            group = _group_of(name, has_norms)
            if group is not None:
                groups[group].append(name)
        return groups

    def freeze_sam(self, has_norms: bool = False) -> dict[str, list[str]]:
        """Let only the adapter, depth and decoder groups learn; returns their parameters' names."""
        groups = self.parameter_groups(has_norms)
        tuned = {name for names in groups.values() for name in names}
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name in tuned)
        return groups


def compressed(patch: Tensor) -> Tensor:
    """Normalised voxels with what lies far from the mean drawn in: a small bright object among noise stays bright, and
    no value is too large for a network."""
    return torch.where(patch.abs() > USUAL, patch.sign() * (USUAL + (patch.abs() - USUAL).clamp(min=0).log1p()), patch)


def _group_of(name: str, has_norms: bool) -> str | None:
    if not name.startswith("image_encoder."):
        return "decoder"
    if name.endswith(("depth_embed", "rel_pos_d")):
        return "depth"
    if any(part in name for part in (".adapter.", ".slice_embed.", ".neck_3d.")):
        return "adapter"
    if has_norms and any(part in name for part in (".norm1.", ".norm2.")):
        return "adapter"
    return None
