"""What one image says to whoever chooses the next case: what it looks like, and how many clicks it will take.

A score is a pure function of the image, the weights and the settings, so whoever computes it, here or on another
machine, once or twice, comes to the same. The encoder runs once on each patch of a cover of the image (one encoder
pass); all that is asked of the decoder is asked of what the encoder left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lib.geometry import PatchGrid
from lib.images.preprocess import chosen_intensity, sample_patch
from lib.images.volumes import Volume
from lib.interactive.patches import grids_over, is_in_volume, spacings
from lib.network.sam3d import Embedding
from lib.network.weights import Card
from lib.scoring.calibration import Calibration
from lib.scoring.disagreement import Found, best_place, disagreement
from lib.settings import NetworkSettings

Floats = NDArray[np.float32]


class ScoringNetwork(Protocol):
    """What a score needs of a network; a server's waits in both until no click is being answered."""

    settings: NetworkSettings

    def encode(self, patch: Tensor) -> Embedding: ...

    def decode(self, embedding: Embedding, point_coords: Tensor, point_labels: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class ScoreSettings:
    """What decides a score beside the image and the weights. `max_patches` bounds the cover; `is_named_intensity` is
    that of `chosen_intensity`."""

    max_patches: int = 8
    is_named_intensity: bool = False


@dataclass(frozen=True)
class ImageScore:
    """`features` (F,) are pooled from the encoder; `disagreement` is 0 where all answers are one and 1 where no two
    share a voxel, `expected_clicks` what that means; `n_encoded` and `n_decoded` are what it cost."""

    features: tuple[float, ...]
    disagreement: float
    expected_clicks: float
    n_encoded: int
    n_decoded: int


@torch.inference_mode()
def score_volume(
    network: ScoringNetwork, card: Card, volume: Volume, settings: ScoreSettings, calibration: Calibration
) -> ImageScore:
    """The score of a volume by weights with the card `card`; one embedding is held at a time beside the best one."""
    intensity, _ = chosen_intensity(volume, card.intensity, settings.is_named_intensity)
    pooled: list[Floats] = []
    best: Found | None = None
    grids = cover(volume, card, settings.max_patches)
    for grid in grids:
        patch = sample_patch(volume, grid, intensity, card.has_antialiasing)
        embedding = network.encode(torch.from_numpy(patch)[None, None].to(_device_of(network)))
        pooled.append(_pooled(embedding))
        found = best_place(network, embedding, is_in_volume(grid, volume))
        best = found if best is None or found.margin > best.margin else best
    assert best is not None, "a cover has at least one patch"
    spread, n_decoded = disagreement(network, best)
    return ImageScore(
        features=tuple(round(float(value), 5) for value in np.mean(pooled, axis=0)),
        disagreement=round(spread, 5),
        expected_clicks=round(calibration.expected_clicks(spread), 3),
        n_encoded=len(grids),
        n_decoded=len(grids) + n_decoded,
    )


def cover(volume: Volume, card: Card, max_patches: int) -> list[PatchGrid]:
    """The patches that cover the volume at the weights' spacing or, for those that know any, at the finest from there
    on that needs no more than `max_patches`; of more, as many, evenly spread."""
    size, coarser = card.network.patch_size, spacings(volume, card)[::-1]
    wanted = [card.spacing_mm, *(step for step in coarser if step > card.spacing_mm)]
    grids: list[PatchGrid] = []
    for spacing_mm in wanted:
        grids = list(grids_over(volume, size, min(spacing_mm, coarser[-1])))
        if len(grids) <= max_patches:
            return grids
    kept = np.linspace(0, len(grids) - 1, max_patches).round().astype(int)
    return [grids[number] for number in kept]


def _pooled(embedding: Embedding) -> Floats:
    """Mean and deviation of each channel of the deepest map over the patch, (2 * neck_dim,)."""
    channels = embedding.feature[0].float().flatten(1)
    return np.asarray(torch.cat([channels.mean(dim=1), channels.std(dim=1)]).cpu().numpy(), np.float32)


def _device_of(network: ScoringNetwork) -> torch.device:
    """Where the network computes."""
    return next(network.parameters()).device if isinstance(network, torch.nn.Module) else torch.device("cpu")
