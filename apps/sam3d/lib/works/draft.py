"""A first mask of an image without any click, as an order and as what comes back.

The mask comes back by value: packed, it is small, and workers then need no folder that they may write to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

import numpy as np

from lib.cluster.carrying import Task
from lib.cluster.orders import ImageReference, Order, Outcome
from lib.images.nifti_writing import nifti_bytes
from lib.network.weights import Card
from lib.settings import Settings

NAME = "draft"
ENDING = ".nii.gz"


@dataclass(frozen=True)
class Draft:
    """The order's key, a mask as a packed NIfTI file, how many voxels it has, and what was done (`Report.as_json`)."""

    key: str
    file: bytes
    n_voxels: int
    report: Mapping[str, Any]


def draft_key(content: str, card: Card, settings: Settings) -> str:
    """The same for the same content of an image, weights and settings, and so for the same mask."""
    weights = [card.sha256, card.parent_sha256, card.spacing_mm, asdict(card.intensity)]
    return sha256(
        json.dumps([NAME, content, weights, settings.labels[0], settings.intensity is not None]).encode(
            errors="surrogatepass"
        )
    ).hexdigest()


def draft_order(key: str, image: ImageReference, settings: Settings, limit_mib: int) -> Order:
    """The order of the draft with this key."""
    asked = {"label": settings.labels[0], "is_named_intensity": settings.intensity is not None}
    return Order(NAME, key, image, {**asked, "precision": settings.precision, "limit_mib": limit_mib})


def draft(task: Task) -> Outcome:
    """Open an image and segment it without a click; the fields of a `Draft`."""
    asked, (_, card) = task.order.settings, task.network()
    settings = Settings(
        labels=(asked["label"],),
        intensity=card.intensity if asked["is_named_intensity"] else None,
        precision=asked["precision"],
        embedding_cache_mib=0,
    )
    volume = task.volume()
    found = task.predictor(settings).segment_automatically(volume)
    return {
        "key": task.order.key,
        "file": nifti_bytes(found.label_map, volume.affine, is_packed=True),
        "n_voxels": int(np.count_nonzero(found.label_map)),
        "report": found.report.as_json(),
    }
