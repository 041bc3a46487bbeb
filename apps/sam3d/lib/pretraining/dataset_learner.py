"""A network that learns from a set of labelled cases: steps, validation, and which of its states was the best."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from lib.errors import TrainingError
from lib.learning.dataset_plan import DatasetPlan
from lib.learning.distributed import Team
from lib.learning.recipes import TUNE_ALL, TUNE_PUBLISHED
from lib.learning.teaching import Teaching
from lib.learning.training import MovingAverage, dice_of
from lib.learning.training_loop import Epoch, Loop, descend, run_loop
from lib.network.build import build_sam3d
from lib.network.sam3d import Sam3D


class DatasetLearner:
    """A learner of `lib.learning.resumable`. One step is one optimiser step on a batch, taken through the network
    one patch at a time, so that memory holds one patch whatever the batch. A stretch is an epoch and ends with a
    validation."""

    def __init__(self, plan: DatasetPlan, network: Sam3D, teaching: Teaching, team: Team, n_workers: int = 0) -> None:
        if plan.batch_size < team.size:
            raise TrainingError(
                f"a step has {plan.batch_size} patches, fewer than {team.size} processes: raise --batch"
            )
        self.plan, self.network, self.teaching, self.team = plan, network, teaching, team
        self.n_workers = n_workers
        # In the network's own order, so that every process sums the same ones.
        self.parameters = tuned_parameters(network, plan.tune)
        # One optimiser for all: with equal constants three, as published, take the same steps.
        self.optimiser = torch.optim.AdamW(
            self.parameters.values(), lr=plan.learning_rate, weight_decay=plan.weight_decay
        )
        self.average = MovingAverage(network, plan.average_decay) if plan.average_decay else None
        self.best: dict[str, Tensor] = {}
        self.best_loss = math.inf
        network.image_encoder.is_checkpointed = plan.is_checkpointed

    def is_over(self, step: int) -> bool:
        return step >= self.plan.steps

    def train(self, steps: range) -> Epoch:
        """These steps, up to the plan's last one, as one epoch of MONAI's trainer."""
        steps = range(steps.start, min(steps.stop, self.plan.steps))
        taken = iter(steps)
        device = next(self.network.parameters()).device
        epochs: list[Epoch] = []

        def update(batch: dict[str, Tensor]) -> tuple[float, float]:
            return self.update(next(taken), batch["image"].to(device), batch["label"].to(device))

        batches = _Batches(self.teaching, self.plan.batch_size, steps, self.team)
        loader: DataLoader[dict[str, Tensor]] = DataLoader(batches, batch_size=None, num_workers=self.n_workers)
        run_loop(self.network, self.optimiser, loader, update, Loop(1, len(steps), epochs.append))
        return replace(epochs[0], number=steps.stop)

    def update(self, step: int, patch: Tensor, target: Tensor) -> tuple[float, float]:
        """One optimiser step on this process's part of the batch; mean loss and Dice of the whole batch."""
        plan = self.plan
        self.optimiser.zero_grad(set_to_none=True)
        numbers = self.team.share(step * plan.batch_size, plan.batch_size)
        sums = [0.0, 0.0]
        for number, one, its_target in zip(numbers, patch, target, strict=True):
            loss, logits = self.teaching.backward(
                self.network, one[None], its_target[None], number, 1 / plan.batch_size
            )
            sums = [sums[0] + loss, sums[1] + dice_of(logits, its_target[None])]
        self.team.sum_gradients(self.parameters.values())
        mean_loss, mean_dice = (total / plan.batch_size for total in self.team.sum_values(sums, patch.device))
        if not math.isfinite(mean_loss):
            raise TrainingError(f"the loss is no longer a number at step {step + 1}: lower --learning-rate")
        descend(self.optimiser, self._parts(), plan.max_gradient_norm, plan.learning_rate_at(step))
        if self.average is not None:
            self.average.update(self.network)
        return mean_loss, mean_dice

    def measured(self, step: int) -> Mapping[str, float]:
        """Loss and Dice on the validation cases, shared by the team; the weights are kept where they are the best."""
        network, device = self._judged(), next(self.network.parameters()).device
        count = self.teaching.n_validation
        sums = [0.0, 0.0]
        for number in self.team.share(0, count):
            sample = self.teaching.validation_sample(number)
            patch, target = (torch.from_numpy(each)[None, None].to(device) for each in (sample.patch, sample.target))
            found = self.teaching.validate(network, patch, target, number)
            sums = [total + value for total, value in zip(sums, found, strict=True)]
        loss, dice = (total / count for total in self.team.sum_values(sums, device))
        if loss < self.best_loss:
            self.best_loss = loss
            state = network.state_dict()
            self.best = {name: state[name].detach().cpu().clone() for name in self.parameters}
        return {"validation_loss": loss, "validation_dice": dice}

    def remembered(self) -> Mapping[str, Any]:
        own = {"best": self.best, "best_loss": self.best_loss}
        return own if self.average is None else {**own, "average": self.average.state, "updates": self.average.updates}

    def remember(self, state: Mapping[str, Any]) -> None:
        self.best, self.best_loss = dict(state["best"]), float(state["best_loss"])
        if self.average is not None:
            device = next(self.network.parameters()).device
            self.average.state = {name: tensor.to(device) for name, tensor in state["average"].items()}
            self.average.updates = int(state["updates"])

    def best_network(self) -> Sam3D:
        """The network at its lowest validation loss, on the CPU."""
        network = build_sam3d(self.network.settings)
        network.load_state_dict({**self.network.state_dict(), **self.best})
        return network

    def _judged(self) -> Sam3D:
        """The network whose answers count: the average where there is one."""
        if self.average is None:
            return self.network
        averaged = build_sam3d(self.network.settings).to(next(self.network.parameters()).device)
        averaged.load_state_dict(self.average.state)
        return averaged

    def _parts(self) -> list[list[torch.nn.Parameter]]:
        """Encoder, prompt encoder and decoder: gradients are clipped in each by itself, as published."""
        parts: dict[str, list[torch.nn.Parameter]] = {}
        for name, parameter in self.parameters.items():
            parts.setdefault(name.split(".")[0], []).append(parameter)
        return list(parts.values())


def tuned_parameters(network: Sam3D, tune: str) -> dict[str, torch.nn.Parameter]:
    """The parameters that learn, by name; the others are frozen."""
    if tune == TUNE_ALL:
        network.requires_grad_(True)
    else:
        network.freeze_sam(has_norms=tune == TUNE_PUBLISHED)
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}


class _Batches(IterableDataset[dict[str, Tensor]]):
    """This process's part of each step's patches, `image` and `label` (B, 1, P, P, P); workers take turns."""

    def __init__(self, teaching: Teaching, batch_size: int, steps: range, team: Team) -> None:
        self.teaching, self.batch_size, self.steps, self.team = teaching, batch_size, steps, team

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        worker = get_worker_info()
        # The loader asks its workers in turn, so the steps come out in their order.
        mine = self.steps if worker is None else self.steps[worker.id :: worker.num_workers]
        for step in mine:
            numbers = self.team.share(step * self.batch_size, self.batch_size)
            samples = [self.teaching.sample(number) for number in numbers]
            yield {
                "image": torch.from_numpy(np.stack([sample.patch for sample in samples]))[:, None],
                "label": torch.from_numpy(np.stack([sample.target for sample in samples]))[:, None],
            }
