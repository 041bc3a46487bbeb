"""A correction changes the mask near its click, and nowhere else.

A network that decodes all clicks anew may answer one more of them with another mask altogether: a foreground click in
odd tissue leaks through it, a background click takes half of a lesion back. Yet whoever corrects a mask means the
error that was clicked. Its size is known: the error reaches at least as far from the click as the nearest voxel that
the mask has right side up. So the new answer counts within some such distances of the click, and the old one elsewhere
(docs/decisions/0013).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lib.boxes import Box

Floats = NDArray[np.float32]

# The new answer counts fully within so many error depths of the click, plus a few voxels, and not at all at
# FADE times that.
DEPTHS, EXTRA_VOXELS = 2.0, 2.0
FADE = 1.5


def locally_updated(before: Floats, after: Floats, click: NDArray[np.float64], is_foreground: bool) -> Floats:
    """The margins (P, P, P) before and after one more click as one: `after` near the click, `before` farther away.

    Margins are how much the object's logit exceeds the background's; `click` (3,) is in patch voxels (d, h, w) and
    lies in the patch. Before any object is there, `after` counts everywhere.
    """
    is_object = before > 0
    if not is_object.any():
        return after
    squares = _squares_to(click, before.shape)
    d, h, w = (int(place) for place in np.clip(np.rint(click), 0, np.array(before.shape) - 1))
    is_right = bool(is_object[d, h, w]) == is_foreground
    # The square root of the smallest, not the smallest root: most of the patch is only looked at.
    nearest = squares.min(where=is_object == is_foreground, initial=squares.max())
    radius = DEPTHS * (0.0 if is_right else float(np.sqrt(nearest))) + EXTRA_VOXELS
    near = _box_around(click, FADE * radius, before.shape)
    share = np.clip((FADE - np.sqrt(squares[near]) / radius) / (FADE - 1), 0, 1)
    found = before.astype(np.float32, copy=True)
    found[near] += share * (after[near] - before[near])
    return found


def _squares_to(point: NDArray[np.float64], shape: tuple[int, ...]) -> Floats:
    """The square of how far each voxel (P, P, P) lies from the point (3,), in voxels."""
    along = [
        np.square(np.arange(n, dtype=np.float32) - np.float32(place)) for n, place in zip(shape, point, strict=True)
    ]
    squares: Floats = along[0][:, None, None] + along[1][None, :, None] + along[2][None, None, :]
    return squares


def _box_around(point: NDArray[np.float64], reach: float, shape: tuple[int, ...]) -> Box:
    """The voxels no farther than `reach` from a point (3,) along any axis."""
    d, h, w = (
        slice(max(0, int(np.floor(place - reach))), min(n, int(np.ceil(place + reach)) + 1))
        for place, n in zip(point, shape, strict=True)
    )
    return d, h, w
