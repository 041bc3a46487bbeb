"""How many parameters the method trains and adds: the published counts, ours, and why they differ."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lib.network.sam3d import Sam3D
from lib.settings import VARIANTS

VARIANT = "vit_b"  # the published size
# Of the published prompt encoder: an attention that no answer depends on, and that this network leaves away.
NEVER_USED = 263_424
# SAM ViT-B: its image encoder, and all of it.
SAM_ENCODER, SAM_WHOLE = 89_670_912, 93_735_472
_ADDED = (".adapter.", "rel_pos_d", "depth_embed", ".slice_embed.")


@dataclass(frozen=True)
class ParameterCounts:
    """Numbers of parameters: `trained` in all, of them in the encoder, and of those the ones that SAM has not (adapters
    and what belongs to depth, without necks); `own` are trained ones that the published network lacks."""

    total: int
    trained: int
    encoder: int
    added: int
    own: int

    @classmethod
    def of(cls, network: Sam3D) -> ParameterCounts:
        """As the published recipe trains it, SAM's layer norms included; leaves the network frozen that way."""
        network.freeze_sam(has_norms=True)
        sizes = {name: p.numel() for name, p in network.named_parameters()}
        trained = {name: sizes[name] for name, p in network.named_parameters() if p.requires_grad}
        encoder = {name: size for name, size in trained.items() if name.startswith("image_encoder.")}
        return cls(
            total=sum(sizes.values()),
            trained=sum(trained.values()),
            encoder=sum(encoder.values()),
            added=sum(size for name, size in encoder.items() if any(part in name for part in _ADDED)),
            own=network.prompt_encoder.background_embedding.numel(),
        )

    @property
    def as_published(self) -> int:
        """What the published network of the same size trains."""
        return self.trained - self.own + NEVER_USED


def counts_of_variant(variant: str) -> ParameterCounts:
    """Without making a tensor."""
    with torch.device("meta"):
        return ParameterCounts.of(Sam3D(VARIANTS[variant]))


def explained() -> str:
    """The published counts and ours, in four lines."""
    counts = counts_of_variant(VARIANT)
    return "\n".join(
        [
            f"{VARIANT}: {counts.trained:,} tuned parameters; published {counts.as_published / 1e6:.2f} M, "
            f"{counts.as_published:,}: ours leaves away {NEVER_USED:,} that are never used and has {counts.own} for "
            "background clicks",
            f"added to SAM, without necks, prompt encoder and decoder: {counts.added:,} of {SAM_WHOLE:,}, "
            f"+{100 * counts.added / SAM_WHOLE:.2f} % (published +7.79 %)",
            f"tuned in the encoder: {counts.encoder:,} of {SAM_ENCODER:,} that SAM's has, "
            f"{100 * counts.encoder / SAM_ENCODER:.2f} % (published 16.96 %)",
            f"of all {counts.total:,} parameters {100 * counts.trained / counts.total:.1f} % are tuned",
        ]
    )
