"""What is learned from: patches with their targets, by number."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Sample(Protocol):
    """What a patch needs to be learned from: patch and target (P, P, P) float32, target 0 or 1."""

    @property
    def patch(self) -> NDArray[np.float32]: ...
    @property
    def target(self) -> NDArray[np.float32]: ...


# Training samples by their numbers: start and count in, as many samples out, the same ones each time.
Stream = Callable[[int, int], Iterable[Sample]]
