"""Everything that decides the outcome of training on a set, beside the cases and the weights to begin with."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from lib.learning.recipes import PUBLISHED, TUNE_PUBLISHED
from lib.learning.schedules import half_cosine, linear
from lib.learning.training import ClickPlan


@dataclass(frozen=True)
class DatasetPlan:
    """Everything that decides the outcome beside the cases and the weights to begin with."""

    recipe: str
    steps: int
    steps_per_epoch: int
    batch_size: int = 1
    learning_rate: float = 4e-4
    warmup_steps: int = 0
    weight_decay: float = 0.0
    max_gradient_norm: float = 1.0
    # 0: the weights as they are count, not an average of the last ones.
    average_decay: float = 0.0
    tune: str = TUNE_PUBLISHED
    seed: int = 0
    has_bfloat16: bool = False
    is_checkpointed: bool = False
    clicks: ClickPlan = field(default_factory=ClickPlan)
    # What else a resumed run must not change: the cases of each part, and how their voxels are normalised.
    data: str = ""

    @property
    def stretch(self) -> int:
        return self.steps_per_epoch

    def learning_rate_at(self, step: int) -> float:
        """Published: falls to a hundredth in a line, once an epoch. Ours: linear warm-up, then half a cosine."""
        if self.recipe == PUBLISHED:
            epochs = max(1, math.ceil(self.steps / self.steps_per_epoch))
            return self.learning_rate * linear(step // self.steps_per_epoch, epochs)
        return self.learning_rate * half_cosine(step, self.steps, self.warmup_steps)
