"""From disagreement to clicks: a curve that never falls, fitted on phantoms whose truth is known.

The curve is that of isotonic regression (pool adjacent violators, Ayer et al. 1955). Its table stands in
`calibration.json`, and `cli.py calibrate-scores` makes it again for other weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lib.errors import WeightsError

FORMAT = 1
TABLE = Path(__file__).with_name("calibration.json")


@dataclass(frozen=True)
class Calibration:
    """Corners of the curve, `disagreements` ascending and `clicks` not falling; level beyond its ends."""

    disagreements: tuple[float, ...]
    clicks: tuple[float, ...]

    def expected_clicks(self, disagreement: float) -> float:
        """Clicks until Dice 0.8, in the mean over images of such disagreement."""
        return float(np.interp(disagreement, self.disagreements, self.clicks))

    def as_json(self) -> dict[str, Any]:
        return {"format": FORMAT, "disagreements": list(self.disagreements), "clicks": list(self.clicks)}


def fit(disagreements: Sequence[float], clicks: Sequence[float]) -> Calibration:
    """The curve of least squared error through (disagreement, clicks) pairs, of which there is at least one."""
    order = np.lexsort((clicks, disagreements))
    blocks: list[tuple[float, float, int]] = []  # mean disagreement, mean clicks, pairs
    for index in order:
        block = (float(disagreements[index]), float(clicks[index]), 1)
        while blocks and blocks[-1][1] >= block[1]:
            before = blocks.pop()
            count = before[2] + block[2]
            mean = [(before[part] * before[2] + block[part] * block[2]) / count for part in (0, 1)]
            block = (mean[0], mean[1], count)
        blocks.append(block)
    return Calibration(tuple(round(x, 5) for x, _, _ in blocks), tuple(round(y, 3) for _, y, _ in blocks))


def load(path: Path = TABLE) -> Calibration:
    """The curve that comes with the app. Raises WeightsError when its file cannot be used."""
    try:
        return _from_json(json.loads(path.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{path.name} is no table of clicks ({error}): make it again with cli.py calibrate-scores"
        ) from error


def _from_json(content: Mapping[str, Any]) -> Calibration:
    if content["format"] != FORMAT:
        raise ValueError(f"format {content['format']}")
    curve = Calibration(
        tuple(float(value) for value in content["disagreements"]), tuple(float(value) for value in content["clicks"])
    )
    is_rising = all((np.diff(values) >= 0).all() for values in (curve.disagreements, curve.clicks))
    if not curve.clicks or len(curve.clicks) != len(curve.disagreements) or not is_rising:
        raise ValueError("the curve falls, or is not whole")
    return curve
