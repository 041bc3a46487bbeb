"""Pools of subjects to practise on, and how often each of them is drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lib.learning.subjects import Subject


class Pool(Protocol):
    """Endless subjects: the same for the same number."""

    def draw(self, number: int, rng: np.random.Generator) -> Subject | None: ...


@dataclass(frozen=True)
class Mixture:
    """Several pools, each drawn from as often as its share of 1 says."""

    pools: Sequence[Pool]
    shares: Sequence[float]

    def draw(self, number: int, rng: np.random.Generator) -> Subject:
        """A subject of one of the pools; where chance finds none, another draw is made."""
        while True:
            subject = self.pools[int(rng.choice(len(self.pools), p=self.shares))].draw(number, rng)
            if subject is not None:
                return subject
