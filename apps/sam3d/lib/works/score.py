"""The score of an image, as an order and as what comes back."""

from __future__ import annotations

from dataclasses import asdict

from lib.cluster.carrying import Task
from lib.cluster.orders import ImageReference, Order, Outcome
from lib.scoring.calibration import load
from lib.scoring.image_score import ImageScore, ScoreSettings, score_volume

NAME = "score"


def score_order(key: str, image: ImageReference, settings: ScoreSettings, precision: str, limit_mib: int) -> Order:
    """The order of the score with this key."""
    return Order(NAME, key, image, {"score": asdict(settings), "precision": precision, "limit_mib": limit_mib})


def score(task: Task) -> Outcome:
    """Open an image and score it; the fields of an `ImageScore`."""
    network, card = task.network()
    settings = ScoreSettings(**task.order.settings["score"])
    return asdict(score_volume(network, card, task.volume(), settings, load()))


def score_from(outcome: Outcome) -> ImageScore:
    """The score that came back."""
    return ImageScore(**{**outcome, "features": tuple(outcome["features"])})
