"""A user at practice: clicks one target of a patch, looks at each answer, and corrects its largest error.

What training and the gate click with. The user sees what a real one would: answers joined as the predictor joins them
(lib.interactive.local_update). Evaluation on whole volumes has its own loop, with the exact clicks of the
protocol (lib.interactive.clicks).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lib.boxes import Index
from lib.interactive.clicks import deep_click, largest_error, random_click
from lib.interactive.local_update import locally_updated

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


class SimulatedUser:
    """Clicks on a target (P, P, P) bool, axes (d, h, w). `random_share` is how often a click is drawn from anywhere in
    what it is meant for, deep inside more often than not, rather than from its middle."""

    def __init__(self, target: Mask, rng: np.random.Generator, random_share: float = 0.0) -> None:
        self._target, self._rng, self._random_share = target, rng, random_share
        self.coords: list[Index] = []
        self.labels: list[bool] = []
        self.margin: Floats | None = None
        d, h, w = (n // 2 for n in target.shape)
        # Where there is nothing to find, the user says so about the middle of the patch.
        self._add(self._place(target) if target.any() else (d, h, w), bool(target.any()))

    def look(self, margin: Floats) -> None:
        """See the network's answer (P, P, P), how much the object's logit exceeds the background's, to all clicks."""
        click = np.asarray(self.coords[-1], np.float64)
        before = self.margin
        self.margin = margin if before is None else locally_updated(before, margin, click, self.labels[-1])

    def correct(self) -> None:
        """One more click, in the largest error of what was seen; the first click again where there is none."""
        error = largest_error(self._target, self.mask, self._rng)
        if error is None:
            self._add(self.coords[0], self.labels[0])
            return
        region, is_missed = error
        self._add(self._place(region), is_missed)

    @property
    def mask(self) -> Mask:
        """The answer as it stands."""
        assert self.margin is not None, "look at an answer first"
        return self.margin > 0

    @property
    def dice(self) -> float:
        """Of the answer as it stands; an empty target with an empty answer counts 1."""
        total = int(self.mask.sum()) + int(self._target.sum())
        return 2 * int((self.mask & self._target).sum()) / total if total else 1.0

    def _place(self, region: Mask) -> Index:
        is_random = self._rng.random() < self._random_share
        return random_click(region, self._rng) if is_random else deep_click(region, self._rng)

    def _add(self, at: Index, is_foreground: bool) -> None:
        self.coords.append(at)
        self.labels.append(is_foreground)
