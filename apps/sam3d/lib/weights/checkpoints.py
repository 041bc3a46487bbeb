"""Which weights the app starts from: what the settings name, else the demo model that comes with it."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from lib.errors import WeightsError
from lib.network.build import build_sam3d
from lib.network.deltas import frozen_sha256
from lib.network.sam3d import Sam3D
from lib.network.weights import (
    Card,
    load_published_checkpoint,
    load_sam_checkpoint,
    load_weights,
)
from lib.settings import APP, PRESETS, Settings

logger = logging.getLogger(__name__)

PRETRAINED = APP / "pretrained"


def open_network(settings: Settings) -> tuple[Sam3D, Card]:
    """The network and its card; what the settings say about voxel values and spacing overrules the card. Weights that
    come without a hash get one.

    Raises WeightsError when no weights fit, or the file named cannot be used.
    """
    network, card = _named_weights(settings)
    if not card.sha256:
        card = replace(card, sha256=frozen_sha256(network))
    return network, overruled(card, settings)


def overruled(card: Card, settings: Settings) -> Card:
    """The card with what the settings say about voxel values and spacing."""
    return replace(
        card, intensity=settings.intensity or card.intensity, spacing_mm=settings.spacing_mm or card.spacing_mm
    )


def _named_weights(settings: Settings) -> tuple[Sam3D, Card]:
    if settings.checkpoint is not None:
        return _checkpoint(settings, settings.checkpoint)
    if settings.sam_checkpoint is not None:
        network = build_sam3d(settings.network)
        report = load_sam_checkpoint(network, settings.sam_checkpoint)
        logger.info("%s: %s", settings.sam_checkpoint.name, report)
        return network, _fresh_card(settings, version=f"untrained, from {settings.sam_checkpoint.name}")
    demo = PRETRAINED / f"{settings.variant}.safetensors"
    if not demo.exists():
        raise WeightsError(
            f"there are no weights for variant {settings.variant} here: name some with --conf checkpoint or "
            "--conf sam_checkpoint, or use --conf variant tiny, the demo model"
        )
    return load_weights(demo)


def _checkpoint(settings: Settings, path: Path) -> tuple[Sam3D, Card]:
    if not path.is_file():
        raise WeightsError(f"there is no file {path.name} where --conf checkpoint looks for it: check the path")
    if path.suffix == ".safetensors":
        return load_weights(path)
    network = build_sam3d(settings.network)
    report = load_published_checkpoint(network, path)
    logger.info("%s: %s", path.name, report)
    return network, replace(_fresh_card(settings, version=f"published, {path.name}"), is_trained=True)


def _fresh_card(settings: Settings, version: str) -> Card:
    """Papers for weights that come without: the published geometry, and the preset that the settings name."""
    return Card(
        variant=settings.variant,
        network=settings.network,
        intensity=settings.intensity or PRESETS["ct"],
        spacing_mm=settings.spacing_mm or 1.0,
        has_antialiasing=False,
        version=version,
    )
