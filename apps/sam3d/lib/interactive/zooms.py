"""Which zoom to answer a click at: the one whose answer the others agree with most.

A click in the middle of a large mass looks, from near, like a click on nothing in particular, and from far away a small
lesion is a voxel or two. At the wrong zoom a network is wrong in a way of its own; where two zooms see the same object,
they are probably both right (docs/decisions/0006).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float32]


# Sums of agreement that differ by less than this are equal.
NEARLY = 0.01


def most_agreed(margins: Sequence[Floats], spacings_mm: Sequence[float]) -> list[int]:
    """The positions of the answers whose Dice with all answers, itself included, is largest in sum; more than one where
    they are equal, as of two zooms they always are.

    margins: for each zoom, finest first, how much the object's logit exceeds the background's, (P, P, P); the patches
    share their middle sample and their axes. spacings_mm: how far apart each one's samples lie.
    """
    agreement = np.array([float((margin > 0).any()) for margin in margins])
    for fine, coarse in combinations(range(len(margins)), 2):
        dice = agreement_of(margins[fine], margins[coarse], spacings_mm[coarse] / spacings_mm[fine])
        agreement[[fine, coarse]] += dice
    return [int(number) for number in np.flatnonzero(agreement > agreement.max() - NEARLY)]


def agreement_of(fine: Floats, coarse: Floats, ratio: float) -> float:
    """Dice of two objects by their volumes; the coarse samples lie `ratio` times as far apart as the fine ones.

    What of the coarse object lies beyond the fine patch counts as not agreed on. 0 where both are empty.
    """
    middle = np.array([n // 2 for n in fine.shape])
    seen = ndimage.affine_transform(
        coarse, np.full(3, 1 / ratio), offset=middle - middle / ratio, output_shape=fine.shape, order=1, mode="nearest"
    )
    both = float(((fine > 0) & (seen > 0)).sum())
    total = float((fine > 0).sum()) + float((coarse > 0).sum()) * ratio**3
    return 2 * both / total if total else 0.0
