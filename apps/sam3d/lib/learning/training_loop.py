"""The one loop behind pre-training and fine-tuning: MONAI's trainer around an update function, and what it said."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer

from lib.network.sam3d import Sam3D

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Epoch:
    """What an epoch came to: its number from 1, and means over its steps."""

    number: int
    loss: float
    dice: float


@dataclass(frozen=True)
class Loop:
    """How long to train, and who is told about it."""

    epochs: int
    steps_per_epoch: int
    on_epoch: Callable[[Epoch], None]
    handlers: Sequence[Any] = field(default_factory=tuple)


def run_loop(
    network: Sam3D,
    optimiser: torch.optim.Optimizer,
    batches: Iterable[Batch],
    update: Callable[[Batch], tuple[float, float]],
    loop: Loop,
) -> None:
    """Take one optimiser step on each of the batches by `update`, which returns the step's loss and Dice."""
    device = next(network.parameters()).device
    losses: list[float] = []
    dices: list[float] = []

    def one_step(engine: Any, batch: Batch) -> dict[str, float]:
        loss, dice = update(batch)
        losses.append(loss)
        dices.append(dice)
        return {"loss": loss, "dice": dice}

    trainer = SupervisedTrainer(
        device=device,
        max_epochs=loop.epochs,
        train_data_loader=batches,
        network=network,
        optimizer=optimiser,
        loss_function=torch.nn.Identity(),
        epoch_length=loop.steps_per_epoch,
        iteration_update=one_step,
        train_handlers=list(loop.handlers) or None,
    )

    trainer.logger.setLevel(logging.WARNING)  # whoever calls says in a line what an epoch came to

    @trainer.on(Events.EPOCH_COMPLETED)
    def report(engine: Any) -> None:
        loop.on_epoch(Epoch(engine.state.epoch, float(np.mean(losses)), float(np.mean(dices))))
        losses.clear()
        dices.clear()

    trainer.run()


class Optimiser(Protocol):
    """What takes steps: one of PyTorch's optimisers, or several behind one."""

    @property
    def param_groups(self) -> list[dict[str, Any]]: ...
    def step(self) -> Any: ...


def descend(
    optimiser: Optimiser,
    clipped: Iterable[Sequence[torch.nn.Parameter] | Iterable[torch.nn.Parameter]],
    max_norm: float,
    learning_rate: float,
) -> None:
    """One step down gradients that are there, those of each group of `clipped` no longer together than `max_norm`."""
    for group in optimiser.param_groups:
        group["lr"] = learning_rate
    for parameters in clipped:
        torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    optimiser.step()
