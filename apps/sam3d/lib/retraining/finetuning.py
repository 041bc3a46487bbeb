"""Fine-tuning on annotated cases: only the adapter, depth and decoder groups learn, a few hundred steps.

One step is one optimiser step on `batch_size` samples, taken through the network one at a time: memory holds one
patch whatever the batch, every sample has its own clicks and its own random numbers, and so the same steps come out
however many processes share them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from lib.errors import TrainingError
from lib.learning.chains import practise_number
from lib.learning.distributed import Team
from lib.learning.pools import Mixture
from lib.learning.recipes import PUBLISHED_LEARNING_RATE
from lib.learning.samples import Stream
from lib.learning.schedules import linear
from lib.learning.training import ClickPlan, backward_step, dice_of
from lib.learning.training_loop import Epoch, Loop, descend, run_loop
from lib.network.precision import has_bfloat16
from lib.network.sam3d import Sam3D
from lib.settings import TrainingSettings

LEARNING_RATES = {"tiny": 5e-4}


@dataclass(frozen=True)
class FinetuningPlan:
    """Everything that decides the outcome beside the cases and the weights."""

    epochs: int = 20
    steps_per_epoch: int = 25
    batch_size: int = 2
    learning_rate: float = 4e-4
    warmup_steps: int = 10
    max_gradient_norm: float = 1.0
    seed: int = 0
    has_bfloat16: bool = False
    is_checkpointed: bool = False
    # Whether what is made up is learned in turn with what is annotated (lib.retraining.rehearsal).
    has_rehearsal: bool = False
    clicks: ClickPlan = field(default_factory=ClickPlan)

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, then linear decay to a hundredth."""
        return self.learning_rate * linear(step, self.steps, self.warmup_steps)

    def smaller(self) -> tuple[FinetuningPlan, str] | None:
        """A plan that needs less memory and how, or None. What memory grows with is what backward keeps of one patch:
        neither the batch nor the rounds of clicks (learning.training.backward_step), so halving those is no help."""
        if not self.is_checkpointed:
            return replace(self, is_checkpointed=True), "keeping only the inputs of the blocks and computing them twice"
        if not self.has_bfloat16:
            return replace(self, has_bfloat16=True), "with numbers of half the size"
        return None


def plan_for(settings: TrainingSettings, variant: str, device: torch.device) -> FinetuningPlan:
    """The plan that the settings ask for, fitted to the variant and the device."""
    return FinetuningPlan(
        epochs=settings.max_epochs,
        steps_per_epoch=settings.steps_per_epoch,
        batch_size=settings.train_batch_size,
        learning_rate=settings.learning_rate or LEARNING_RATES.get(variant, PUBLISHED_LEARNING_RATE),
        seed=settings.train_seed,
        has_bfloat16=has_bfloat16(device),
        is_checkpointed=variant != "tiny",
        clicks=ClickPlan(rounds=settings.click_rounds),
    )


# Forward and backward of the sample of a number, its gradients times a share added to the parameters; loss and Dice.
LearnSample = Callable[[int, float], tuple[float, float]]


def learn_patches(network: Sam3D, stream: Stream, plan: FinetuningPlan) -> LearnSample:
    """Learn single patches with rounds of clicks, as networks of one spacing answer them."""
    device = next(network.parameters()).device

    def learn(number: int, share: float) -> tuple[float, float]:
        [sample] = stream(number, 1)
        patch, target = (torch.from_numpy(each)[None, None].to(device) for each in (sample.patch, sample.target))
        rng = np.random.default_rng([plan.seed, number])
        loss, logits = backward_step(network, patch, target, plan.clicks, rng, share, plan.has_bfloat16)
        return loss, dice_of(logits, target)

    return learn


def learn_chains(network: Sam3D, mixture: Mixture, plan: FinetuningPlan) -> LearnSample:
    """Learn chains of patches, as networks that read the mask so far answer clicks."""

    def learn(number: int, share: float) -> tuple[float, float]:
        done = practise_number(network, mixture, plan.seed, number, share, plan.has_bfloat16)
        return float(np.mean(done.losses)), done.dices[-1]

    return learn


def finetune(
    network: Sam3D,
    learn: LearnSample,
    plan: FinetuningPlan,
    on_epoch: Callable[[Epoch], None],
    handlers: tuple[Any, ...] = (),
    team: Team | None = None,
) -> None:
    """Train the tuned parameters of `network` in place; all others stay what they are, bit for bit.

    Raises TrainingError when the loss is no longer a finite number.
    """
    run = _Run(network, learn, plan, team or Team())
    network.image_encoder.is_checkpointed = plan.is_checkpointed
    loop = Loop(plan.epochs, plan.steps_per_epoch, on_epoch, handlers)
    try:
        run_loop(network, run.optimiser, range(plan.steps), run.update, loop)
    finally:
        network.image_encoder.is_checkpointed = False
        network.requires_grad_(False)


class _Run:
    """The optimiser of one run and how it moves on."""

    def __init__(self, network: Sam3D, learn: LearnSample, plan: FinetuningPlan, team: Team) -> None:
        if plan.batch_size < team.size:
            raise TrainingError(
                f"train_batch_size is {plan.batch_size}, fewer than the {team.size} processes that share it: raise it, "
                "or set multi_gpu false"
            )
        self.learn, self.plan, self.team = learn, plan, team
        tuned = {name for names in network.freeze_sam().values() for name in names}
        # In the network's own order, so that every process sums the same ones.
        self.parameters = [(name, p) for name, p in network.named_parameters() if name in tuned]
        self.optimiser = torch.optim.AdamW([p for _, p in self.parameters], lr=plan.learning_rate, weight_decay=0.0)
        self.device = next(network.parameters()).device

    def update(self, step: int) -> tuple[float, float]:
        """One optimiser step on this process's part of the batch; mean loss and Dice of the whole batch."""
        plan = self.plan
        self.optimiser.zero_grad(set_to_none=True)
        numbers = self.team.share(step * plan.batch_size, plan.batch_size)
        found = [self.learn(number, 1 / plan.batch_size) for number in numbers]
        self.team.sum_gradients(p for _, p in self.parameters)
        sums = self.team.sum_values([sum(values) for values in zip(*found, strict=True)], self.device)
        loss, dice = (value / plan.batch_size for value in sums)
        if not math.isfinite(loss):
            raise TrainingError(f"the loss is no longer a number at step {step + 1}: lower learning_rate")
        descend(self.optimiser, self._parts(), plan.max_gradient_norm, plan.learning_rate_at(step))
        return loss, dice

    def _parts(self) -> list[list[torch.nn.Parameter]]:
        """Encoder, prompt encoder and decoder: gradients are clipped in each by itself, as published."""
        parts: dict[str, list[torch.nn.Parameter]] = {}
        for name, parameter in self.parameters:
            parts.setdefault(name.split(".")[0], []).append(parameter)
        return list(parts.values())
