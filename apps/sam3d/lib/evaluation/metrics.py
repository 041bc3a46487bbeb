"""Scores of a mask and of a row of clicks; the mask's are MONAI's own, counted only where there is something to see."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from monai.metrics.meandice import compute_dice
from monai.metrics.surface_dice import compute_surface_dice
from numpy.typing import ArrayLike, NDArray

from lib.boxes import bounding_box


def dice(label: NDArray[np.bool_], mask: NDArray[np.bool_]) -> float:
    """Overlap of two boolean arrays (I, J, K), 0 to 1; two empty ones agree and score 1."""
    box = bounding_box(label | mask)
    if box is None:
        return 1.0
    return float(compute_dice(_as_tensor(mask[box]), _as_tensor(label[box]), ignore_empty=False))


def surface_dice(label: NDArray[np.bool_], mask: NDArray[np.bool_], spacing: ArrayLike, tolerance_mm: float) -> float:
    """Share of both surfaces that lies within `tolerance_mm` of the other one (NSD), by area; two empty ones score 1.

    `label` and `mask` are (I, J, K), `spacing` (3,) in mm per voxel. The volume's border counts as a surface.
    """
    box = bounding_box(label | mask)
    if box is None:
        return 1.0
    if not (label.any() and mask.any()):
        return 0.0
    with warnings.catch_warnings():
        # MONAI 1.6 warns of an argument that it passes to itself.
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy", category=FutureWarning)
        score = compute_surface_dice(
            _as_tensor(mask[box]),
            _as_tensor(label[box]),
            class_thresholds=[tolerance_mm],
            include_background=True,
            spacing=np.asarray(spacing, dtype=np.float64).tolist(),
            use_subvoxels=True,
        )
    return float(score)


def auc_over_clicks(scores: Sequence[float], clicks: int = 5) -> float:
    """Area under the scores after click 1 to `clicks`, by trapezoids; at most clicks - 1, so 4 as published.

    Raises ValueError for fewer scores than clicks: a user who is done early repeats the last score.
    """
    if len(scores) < clicks:
        raise ValueError(f"{len(scores)} scores for {clicks} clicks; repeat the last one for a user who was done early")
    counted = scores[:clicks]
    return float(sum((before + after) / 2 for before, after in pairwise(counted)))


def clicks_to(scores: Sequence[float], threshold: float = 0.8, worst: int = 10) -> int:
    """Number of clicks (NoC) until a score reaches `threshold`; `worst` where none of the first `worst` does."""
    reached = (number for number, score in enumerate(scores[:worst], start=1) if score >= threshold)
    return next(reached, worst)


def _as_tensor(region: NDArray[np.bool_]) -> torch.Tensor:
    """(I, J, K) as (1, 1, I, J, K)."""
    return torch.from_numpy(np.ascontiguousarray(region, dtype=bool))[None, None]
