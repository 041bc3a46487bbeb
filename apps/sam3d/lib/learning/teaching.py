"""What a network is shown of a set of labelled cases, and asked about it; here as users make clicks, one by one.

Every patch and click is decided by the seed and the patch's number: a run comes out the same however often it was
interrupted and however many processes shared it. The published way is `lib.published.teaching`.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from lib.learning.cases import MEASURED, CaseStore
from lib.learning.dataset_plan import DatasetPlan
from lib.learning.samples import Sample
from lib.learning.training import ClickPlan, backward_step, dice_of, training_step
from lib.network.sam3d import Sam3D
from lib.random_streams import RandomStream, generator


class Teaching(Protocol):
    """Where patches come from, and what is asked about them."""

    def sample(self, number: int) -> Sample:
        """The training patch of a number."""
        ...

    @property
    def n_validation(self) -> int: ...
    def validation_sample(self, number: int) -> Sample: ...
    def backward(
        self, network: Sam3D, patch: Tensor, target: Tensor, number: int, share: float
    ) -> tuple[float, Tensor]:
        """Loss and logits (1, 2, P, P, P) of one sample (1, 1, P, P, P), its gradients times `share` added."""
        ...

    def validate(self, network: Sam3D, patch: Tensor, target: Tensor, number: int) -> tuple[float, float]:
        """Loss and Dice of one validation sample."""
        ...


class InteractiveTeaching:
    """Our recipe: a first click in the target, then corrections of the largest error (lib.learning.training)."""

    def __init__(self, training: CaseStore, validation: CaseStore, n_validation: int, plan: DatasetPlan) -> None:
        self._training, self._validation, self._n_validation, self._plan = training, validation, n_validation, plan

    @property
    def n_validation(self) -> int:
        return self._n_validation

    def sample(self, number: int) -> Sample:
        (sample,) = self._training.samples(self._plan.seed, number, 1)
        return sample

    def validation_sample(self, number: int) -> Sample:
        rng = generator(RandomStream.VALIDATION, self._plan.seed, number)
        return self._validation.sample(rng, MEASURED)

    def backward(
        self, network: Sam3D, patch: Tensor, target: Tensor, number: int, share: float
    ) -> tuple[float, Tensor]:
        plan = self._plan
        rng = generator(RandomStream.CLICKS, plan.seed, number)
        return backward_step(network, patch, target, plan.clicks, rng, share, plan.has_bfloat16)

    @torch.no_grad()
    def validate(self, network: Sam3D, patch: Tensor, target: Tensor, number: int) -> tuple[float, float]:
        rng = generator(RandomStream.VALIDATION, self._plan.seed, number, 1)
        clicks = ClickPlan(self._plan.clicks.rounds, automatic_share=0.0, random_share=0.0)
        with torch.autocast(patch.device.type, torch.bfloat16, enabled=self._plan.has_bfloat16):
            loss, logits = training_step(network, patch, target, clicks, [rng])
        return float(loss), dice_of(logits, target)
