"""Every purpose that draws random numbers has a stream of its own, so that no two ever draw the same ones."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class RandomStream(IntEnum):
    """First elements of seeds. Weights and tables were made with these numbers: add to them, but change none."""

    TRAINING_PATCH = 1
    PHANTOM = 2
    HELD_OUT_PHANTOM = 3
    REFERENCE_PATCH = 4
    CASE_PATCH = 5
    SYNTHETIC_CLICKS = 6
    SYNTHETIC_CHANCES = 7
    PHANTOM_VIEW = 9
    TEST_POINTS = 10
    CASE_ORDER = 11
    CROP = 12
    CLICKS = 13
    VALIDATION = 14
    EXCHANGED_PATCH = 15
    PRACTICE_VOLUME = 16
    PRACTICE = 17


def generator(stream: RandomStream, *numbers: int) -> np.random.Generator:
    """A generator of the stream, another one for every seed and number."""
    return np.random.default_rng([stream, *numbers])
