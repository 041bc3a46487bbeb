"""Fine-tuning without forgetting: annotated patches in turn with synthetic ones.

A few hundred steps on a handful of cases make a network better at these and worse at all else. Going over what it knew
while it learns something new (rehearsal, Robins 1995) keeps both; the gate measures both (docs/decisions/0014).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lib.learning.samples import Sample, Stream
from lib.random_streams import RandomStream, generator
from lib.synthesis.patches import training_patch

# Every so many samples, one is synthetic.
EVERY = 2


@dataclass(frozen=True, eq=False)
class Rehearsed:
    """A synthetic patch and its target (P, P, P) float32, the target 0 or 1."""

    patch: NDArray[np.float32]
    target: NDArray[np.float32]


def rehearsing(stream: Stream, seed: int, size: int) -> Stream:
    """The stream with every `EVERY`th sample replaced by a synthetic patch of `size`^3 voxels, decided by the seed and
    the sample's number."""

    def samples(start: int, count: int) -> Iterator[Sample]:
        for number in range(start, start + count):
            if number % EVERY == EVERY - 1:
                patch, target = training_patch(generator(RandomStream.REHEARSAL_PATCH, seed, number), size)
                yield Rehearsed(np.asarray(patch, np.float32), np.asarray(target, np.float32))
            else:
                yield from stream(number, 1)

    return samples
