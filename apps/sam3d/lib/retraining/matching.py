"""Whether labels belong to their images: asked of a version that has not learned from them.

Were the label files mixed up, no way of giving them to the images would be more right than another, and the submitted
one no better than chance. So a version clicks on every label in every image, at the same place, and the Dice of the
submitted pairs is held against that of all other pairings: a permutation test (Mantel 1967; Good, Permutation,
Parametric and Bootstrap Tests of Hypotheses, 2005), which needs no assumption but that.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import permutation_test

from lib.learning.cases import MEASURED, CaseStore
from lib.network.sam3d import Sam3D
from lib.random_streams import RandomStream, generator
from lib.retraining.gate import Patch, measure

# Of the ways to give labels to images, at most so many may be as good as the submitted one. Three labels have six ways,
# too few to tell.
MOST_BY_CHANCE = 0.05
FEWEST_CASES, MOST_CASES = 4, 8
# A second click tells right from wrong images best: the first is often not enough on either, and with many even a
# wrong image gets its mask.
N_CLICKS = 2
# As many as a run of the usual length learns from, at less than half of its cost.
MOST_PATCHES = 200
RESAMPLED = 2000


def chance_of_mixed_labels(
    network: Sam3D, store: CaseStore, cases: Sequence[str], has_background_clicks: bool
) -> float | None:
    """The share of pairings of labels and images that suit the network as well as the submitted one or better, from
    1/n! (n cases) for labels that clearly belong to 1; None for fewer than four cases. Looks at eight of them at most.
    """
    usable = [case for case in cases if store.open(case) is not None]
    if len(usable) < FEWEST_CASES:
        return None
    rng = generator(RandomStream.EXCHANGED_PATCH, len(usable))
    looked_at = [usable[number] for number in np.sort(rng.permutation(len(usable))[:MOST_CASES])]
    n = len(looked_at)
    table = np.zeros((n, n))
    for _ in range(MOST_PATCHES // n**2):
        for row, samples in enumerate(store.exchanged(looked_at, rng, MEASURED)):
            patches = [Patch(each.patch, each.target, each.label, each.case) for each in samples]
            scores = measure(network, patches, has_background_clicks, N_CLICKS)
            table[row] += [found.dices[-1] for found in scores.patches]
    return chance_of(table)


def chance_of(table: NDArray[np.float64]) -> float:
    """The p-value of the pairing of row i with column i of a table (n, n) against all others, by their sums."""
    n = len(table)
    found = permutation_test(
        (np.arange(n),),
        lambda order: table[np.arange(n), order].sum(),
        permutation_type="pairings",
        alternative="greater",
        n_resamples=RESAMPLED,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)
