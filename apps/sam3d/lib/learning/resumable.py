"""A training run that may be killed at any moment: its state after each stretch, and a log without gaps or doubles.

The loop is that of `lib.learning.training_loop`. A learner brings the batches, the step and what else is to be
remembered; the same learner on the same machine comes to the same weights and writes the same log, however often it was
interrupted.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lib.errors import WeightsError
from lib.learning.distributed import Team
from lib.learning.training_loop import Batch, Epoch, Loop, run_loop
from lib.network.sam3d import Sam3D
from lib.network.weights import write_atomically

logger = logging.getLogger(__name__)

STATE, LOG = "state.pt", "log.jsonl"


class Plan(Protocol):
    """A dataclass of everything that decides the outcome."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def steps(self) -> int: ...
    @property
    def stretch(self) -> int:
        """Steps from one state on disk to the next."""
        ...


class Learner(Protocol):
    """What is learned, and how."""

    @property
    def plan(self) -> Plan: ...
    @property
    def network(self) -> Sam3D: ...
    @property
    def optimiser(self) -> torch.optim.Optimizer: ...
    def loader(self, steps: range) -> DataLoader[Batch]: ...
    def update(self, step: int, patch: Tensor, target: Tensor) -> tuple[float, float]:
        """One optimiser step on (B, 1, P, P, P); its loss and Dice."""
        ...

    def measured(self, step: int) -> Mapping[str, float]:
        """Figures beside loss and Dice at the end of a stretch, for the log."""
        ...

    def remembered(self) -> Mapping[str, Any]:
        """Tensors and numbers of the state beside those of network and optimiser."""
        ...

    def remember(self, state: Mapping[str, Any]) -> None: ...


def learn(learner: Learner, folder: Path, team: Team) -> None:
    """Go on from the state in `folder`, or begin, until all steps are done; the leader of the team writes.

    Raises WeightsError where the folder holds a run of another plan.
    """
    step = _resume(learner, folder, team)
    while step < learner.plan.steps:
        step = _stretch(learner, step, folder, team)
        if team.is_leader:
            _save(learner, step, folder)


def _stretch(learner: Learner, start: int, folder: Path, team: Team) -> int:
    """The next steps, as one epoch of MONAI's trainer; returns the step that they end at."""
    end = min(start + learner.plan.stretch, learner.plan.steps)
    taken = iter(range(start, end))
    epochs: list[Epoch] = []

    def update(patch: Tensor, target: Tensor) -> tuple[float, float]:
        return learner.update(next(taken), patch, target)

    loader = learner.loader(range(start, end))
    run_loop(learner.network, learner.optimiser, loader, update, Loop(1, end - start, epochs.append))
    entry = {"step": end, "loss": epochs[0].loss, "dice": epochs[0].dice, **learner.measured(end)}
    if team.is_leader:
        said = ", ".join(f"{name} {value:.3f}" for name, value in entry.items() if name != "step")
        logger.info("step %d of %d: %s", end, learner.plan.steps, said)
        with (folder / LOG).open("a") as log:
            log.write(json.dumps(entry) + "\n")
    return end


def _save(learner: Learner, step: int, folder: Path) -> None:
    state = {
        "plan": json.dumps(asdict(learner.plan)),
        "step": step,
        "network": learner.network.state_dict(),
        "optimiser": learner.optimiser.state_dict(),
        **learner.remembered(),
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(folder / STATE, buffer.getvalue())


def _resume(learner: Learner, folder: Path, team: Team) -> int:
    """The step to go on from."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / STATE
    step = 0
    if path.exists():
        state = torch.load(path, weights_only=True, map_location="cpu")
        if state["plan"] != json.dumps(asdict(learner.plan)):
            raise WeightsError(f"{folder.name} holds a run of another plan: name a new folder, or the same plan")
        learner.network.load_state_dict(state["network"])
        learner.optimiser.load_state_dict(state["optimiser"])
        learner.remember(state)
        step = int(state["step"])
        logger.info("going on from step %d", step)
    if team.is_leader:
        _cut_log(folder / LOG, step)
    return step


def _cut_log(path: Path, step: int) -> None:
    """Drop what was logged of a stretch whose state was never written: it is about to be logged again."""
    if path.exists():
        lines = path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if line.endswith(b"\n") and json.loads(line)["step"] <= step]
        write_atomically(path, b"".join(kept))
