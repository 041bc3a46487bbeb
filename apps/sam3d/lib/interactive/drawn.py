"""What a user has drawn of a label: the mask so far, which clicks carry on from, and strokes, which are prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lib.boxes import CONNECTED_26, Box

# Strokes beyond this many (the largest ones count) are kept as they are painted, and ask nothing.
MOST_STROKES = 8


@dataclass(frozen=True, eq=False)
class Drawn:
    """Of one label, over `box`: `mask` (I, J, K) bool, the mask so far, and `strokes` (I, J, K) int8, 1 where the user
    painted the object and -1 where it was erased since. `key` names the content."""

    box: Box
    mask: NDArray[np.bool_]
    strokes: NDArray[np.int8]

    @property
    def key(self) -> str:
        digest = hashlib.sha1(repr((self.box, self.mask.shape)).encode(), usedforsecurity=False)
        digest.update(np.packbits(self.mask).tobytes())
        digest.update(self.strokes.tobytes())
        return digest.hexdigest()

    def separate_strokes(self) -> Iterator[tuple[NDArray[np.int64], bool]]:
        """Connected strokes, the largest first: voxels (N, 3) of the volume, and whether they are of the object."""
        found = []
        corner = np.array([edge.start for edge in self.box])
        for value in (1, -1):
            numbered, count = ndimage.label(self.strokes == value, structure=CONNECTED_26)
            found += [(np.argwhere(numbered == n) + corner, value == 1) for n in range(1, count + 1)]
        yield from sorted(found, key=lambda stroke: -len(stroke[0]))


def middle_voxel(voxels: NDArray[np.int64], spacing: NDArray[np.float64]) -> NDArray[np.int64]:
    """Of a stroke's voxels (N, 3), the one (3,) that is nearest to its middle."""
    at = voxels * spacing
    middle: NDArray[np.int64] = voxels[np.square(at - at.mean(axis=0)).sum(axis=1).argmin()]
    return middle
