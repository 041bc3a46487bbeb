"""Whether labels belong to their images: asked of a version that has not learned from them.

Were the label files mixed up, no way of giving them to the images would be more right than another, and the submitted
one no better than chance. So a version clicks on every label in every image, at the same place, and the Dice of the
submitted pairs is held against that of all other pairings: a permutation test (Mantel 1967; Good, Permutation,
Parametric and Bootstrap Tests of Hypotheses, 2005), which needs no assumption but that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import factorial

import numpy as np
from numpy.typing import NDArray
from scipy.stats import permutation_test

from lib.learning.cases import MEASURED, CaseStore
from lib.network.sam3d import Sam3D
from lib.random_streams import RandomStream, generator
from lib.retraining.gate import Patch, measure

# Of the ways to give labels to images, at most so many may be as good as the submitted one; of the two or six ways of
# two or three labels, no other.
MOST_BY_CHANCE = 0.05
MOST_CASES = 8
# A second click tells right from wrong images best: the first is often not enough on either, and with many even a
# wrong image gets its mask.
N_CLICKS = 2
# As many as a run of the usual length learns from, at less than half of its cost.
MOST_PATCHES = 200
RESAMPLED = 2000


@dataclass(frozen=True)
class Matching:
    """How many of the pairings of labels and images suit a network as well as the submitted one or better: a share,
    from 1/n! for labels of n images that clearly belong to them, to 1."""

    share: float
    n_cases: int

    @property
    def do_labels_belong(self) -> bool:
        """A label all alone has no other to be mixed up with."""
        return self.n_cases < 2 or self.share <= max(MOST_BY_CHANCE, 1.01 / factorial(self.n_cases))

    def __str__(self) -> str:
        if self.n_cases < 2:
            return "a label all alone cannot have been mixed up with another"
        return (
            f"of all ways to give the labels to the images, {self.share:.1%} suit the served version as well as the "
            "submitted one"
        )


def match(network: Sam3D, store: CaseStore, cases: Sequence[str], has_background_clicks: bool) -> Matching:
    """Hold the labels of the cases, of eight at most, against each other's images."""
    usable = [case for case in cases if store.open(case) is not None]
    rng = generator(RandomStream.EXCHANGED_PATCH, len(usable))
    looked_at = [usable[number] for number in np.sort(rng.permutation(len(usable))[:MOST_CASES])]
    n = len(looked_at)
    table = np.zeros((n, n))
    # A label all alone is not looked at: it has one way only.
    for _ in range(MOST_PATCHES // n**2 if n > 1 else 0):
        for row, samples in enumerate(store.exchanged(looked_at, rng, MEASURED)):
            patches = [Patch(each.patch, each.target, each.label, each.case) for each in samples]
            scores = measure(network, patches, has_background_clicks, N_CLICKS)
            table[row] += [found.dices[-1] for found in scores.patches]
    return Matching(chance_of(table), n)


def chance_of(table: NDArray[np.float64]) -> float:
    """The p-value of the pairing of row i with column i of a table (n, n) against all others, by their sums."""
    n = len(table)
    if n < 2:
        return 1.0
    found = permutation_test(
        (np.arange(n),),
        lambda order: table[np.arange(n), order].sum(),
        permutation_type="pairings",
        alternative="greater",
        n_resamples=RESAMPLED,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)
