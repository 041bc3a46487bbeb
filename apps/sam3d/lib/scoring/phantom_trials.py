"""Pairs of disagreement and clicks, from phantoms whose truth is known: what a calibration is fitted to and judged by.

The disagreement is that of prompts in the target, for that is what a prompt of the network's own is meant to be; how
often it is, and what is left of the relation where it is not, is measured beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from lib.evaluation.metrics import clicks_to
from lib.evaluation.protocol import evaluate_target, segmenter_of
from lib.images.preprocess import chosen_intensity, sample_patch
from lib.images.volumes import make_volume
from lib.interactive.clicks import first_click
from lib.interactive.patches import is_in_volume
from lib.interactive.predictor import Predictor
from lib.network.sam3d import Sam3D
from lib.network.weights import Card
from lib.scoring.calibration import Calibration, fit
from lib.scoring.disagreement import Found, disagreement
from lib.scoring.image_score import ScoreSettings, cover, score_volume
from lib.settings import Settings
from lib.synthesis.phantoms import make_phantom

# Phantoms of no other use have seeds below this.
SEED = 50_000
SHAPE, SPACING_MM = (64, 64, 48), (1.8, 1.8, 2.2)
SCENES = (("ct", "viscera"), ("ct", "parenchyma"), ("ct", "lung"), ("mr", "limb"), ("mr", "brain"), ("mr", "viscera"))
FEWEST_VOXELS = 40
# More clicks are not made; who needs more counts as one above.
MOST_CLICKS = 8
GOOD_DICE = 0.8


@dataclass(frozen=True)
class Trial:
    """One phantom: disagreement of prompts in its target and of the network's own, and the clicks that it took."""

    in_target: float
    automatic: float
    clicks: int


def trials(network: Sam3D, card: Card, settings: Settings, count: int) -> Iterator[Trial]:
    """`count` phantoms' worth of trials, always of the same ones."""
    predictor, found, number = Predictor(network, card, settings), 0, 0
    flat = Calibration((0.0,), (0.0,))
    scoring = ScoreSettings(is_named_intensity=settings.intensity is not None)
    while found < count:
        family, scene = SCENES[number % len(SCENES)]
        phantom = make_phantom(SEED + number, SHAPE, SPACING_MM, family=family, scene=scene)
        number += 1
        targets = phantom.lesions()
        if not targets or targets[0].sum() < FEWEST_VOXELS:
            continue
        found += 1
        volume, target = make_volume(phantom.array, phantom.affine), targets[0]
        rounds, _ = evaluate_target(segmenter_of(predictor, volume), target, volume.spacing, MOST_CLICKS)
        clicks = clicks_to([turn.dice for turn in rounds], GOOD_DICE, worst=MOST_CLICKS + 1)
        click = np.array(first_click(target, volume.spacing), np.float64)
        grids = cover(volume, card, scoring.max_patches)
        grid = next((each for each in grids if each.contains(click[None]).all()), grids[0])
        intensity, _ = chosen_intensity(volume, card.intensity, scoring.is_named_intensity)
        with torch.inference_mode():
            patch = sample_patch(volume, grid, intensity, card.has_antialiasing)
            embedding = network.encode(torch.from_numpy(patch)[None, None].to(predictor.device))
            place = np.clip(grid.indices(click[None])[0], 0, grid.size - 1)
            spread, _ = disagreement(network, Found(embedding, is_in_volume(grid, volume), place, 0.0))
        own = score_volume(network, card, volume, scoring, flat)
        yield Trial(round(spread, 5), own.disagreement, clicks)


def judged(found: Sequence[Trial]) -> dict[str, Any]:
    """How good a calibration by such trials is, fitted on one half and measured on the other, both ways."""
    halves = [list(found[::2]), list(found[1::2])]
    errors, level_errors = [], []
    for fitted, tested in (halves, halves[::-1]):
        curve, level = fit(*_pairs(fitted)), float(np.mean([trial.clicks for trial in fitted]))
        errors += [abs(curve.expected_clicks(trial.in_target) - trial.clicks) for trial in tested]
        level_errors += [abs(level - trial.clicks) for trial in tested]
    clicks = [trial.clicks for trial in found]
    return {
        "phantoms": len(found),
        "mean_clicks": round(float(np.mean(clicks)), 2),
        "rank_correlation_in_target": round(float(spearmanr([t.in_target for t in found], clicks).statistic), 3),
        "rank_correlation_automatic": round(float(spearmanr([t.automatic for t in found], clicks).statistic), 3),
        "error_in_clicks": round(float(np.mean(errors)), 2),
        "error_of_the_mean": round(float(np.mean(level_errors)), 2),
    }


def calibrated(found: Sequence[Trial]) -> Calibration:
    """The curve through all trials."""
    return fit(*_pairs(found))


def _pairs(found: Sequence[Trial]) -> tuple[list[float], list[float]]:
    return [trial.in_target for trial in found], [float(trial.clicks) for trial in found]
