"""Which zoom to answer a click at: the finest that sees what most zooms see.

A click in the middle of a large mass looks, from near, like a click on nothing in particular, and from far away a small
lesion is a voxel or two. At the wrong zoom a network is wrong in a way of its own; where two zooms see the same object,
they are probably both right, and the nearer one sees its borders best (docs/decisions/0006).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float32]


# Sums of agreement that differ by less than this are equal.
NEARLY = 0.01
# Two zooms with this Dice or more see the same object, one of them with coarser borders.
ALIKE = 0.3


def chosen_zoom(margins: Sequence[Floats], spacings_mm: Sequence[float], does_hold: Callable[[int], bool]) -> int:
    """The position of the zoom to answer at.

    The zooms that the others agree with most are asked first: of these, the finest whose patch holds its object, else
    the coarsest. Then of any finer one that holds its object, and sees more or less the same, the finest.
    `does_hold(number)` tells whether the object of an answer ends in its patch; the rest is as for `agreements`.
    """
    table = agreements(margins, spacings_mm)
    agreed = most_agreed(table)
    best = next(filter(does_hold, agreed), agreed[-1])
    return next((number for number in range(best) if table[number, best] >= ALIKE and does_hold(number)), best)


def most_agreed(table: NDArray[np.float64]) -> list[int]:
    """The positions with the largest sum in a table of agreements (n, n); more than one where sums are equal, as of two
    zooms they always are."""
    sums = table.sum(axis=1)
    return [int(number) for number in np.flatnonzero(sums > sums.max() - NEARLY)]


def agreements(margins: Sequence[Floats], spacings_mm: Sequence[float]) -> NDArray[np.float64]:
    """The Dice (n, n) of each zoom's object with each other's, and 1 with its own; 0 where there is no object.

    margins: for each zoom, finest first, how much the object's logit exceeds the background's, (P, P, P); the patches
    share their middle sample and their axes. spacings_mm: how far apart each one's samples lie.
    """
    table = np.diag([float((margin > 0).any()) for margin in margins])
    for fine, coarse in combinations(range(len(margins)), 2):
        dice = agreement_of(margins[fine], margins[coarse], spacings_mm[coarse] / spacings_mm[fine])
        table[fine, coarse] = table[coarse, fine] = dice
    return table


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
