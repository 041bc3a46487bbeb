"""A training run that may be killed at any moment: its state after each stretch, and a log without gaps or doubles.

A learner brings the steps and what else is to be remembered; the same learner on the same machine comes to the same
weights and writes the same log, however often it was interrupted.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch

from lib.errors import WeightsError
from lib.learning.distributed import Team
from lib.learning.training_loop import Epoch
from lib.network.sam3d import Sam3D
from lib.network.weights import write_atomically

logger = logging.getLogger(__name__)

STATE, LOG = "state.pt", "log.jsonl"


class Plan(Protocol):
    """A dataclass of everything that decides the outcome."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def stretch(self) -> int:
        """Steps from one state on disk to the next."""
        ...


class Optimiser(Protocol):
    """An optimiser's state, as PyTorch's have it."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


class Learner(Protocol):
    """What is learned, and how."""

    @property
    def plan(self) -> Plan: ...
    @property
    def network(self) -> Sam3D: ...
    @property
    def optimiser(self) -> Optimiser: ...
    def is_over(self, step: int) -> bool:
        """Whether there is nothing left to train after `step` steps."""
        ...

    def train(self, steps: range) -> Epoch:
        """These optimiser steps, or the first of them; the number of the last, and what they came to in the mean."""
        ...

    def measured(self, step: int) -> Mapping[str, float]:
        """Figures beside loss and Dice at the end of a stretch, for the log."""
        ...

    def remembered(self) -> Mapping[str, Any]:
        """Tensors and numbers of the state beside those of network and optimiser."""
        ...

    def remember(self, state: Mapping[str, Any]) -> None: ...


def learn(learner: Learner, folder: Path, team: Team) -> None:
    """Go on from the state in `folder`, or begin, until the learner says that it is over; the leader writes.

    Raises WeightsError where the folder holds a run of another plan, TrainingError where members of the team would not
    begin alike, as on machines that do not share the folder.
    """
    step = _resume(learner, folder, team)
    team.check_agreement(_beginning(learner, step))
    while not learner.is_over(step):
        step = _stretch(learner, step, folder, team)
        if team.is_leader:
            _save(learner, step, folder)


def _beginning(learner: Learner, step: int) -> str:
    """What a member of a team begins with, in a few words that differ where anything does."""
    plan = sha256(json.dumps(asdict(learner.plan)).encode()).hexdigest()
    weights = sha256()
    for tensor in learner.network.state_dict().values():
        weights.update(tensor.detach().cpu().contiguous().numpy().data)
    return f"step {step}, plan {plan[:8]}, weights {weights.hexdigest()[:8]}"


def _stretch(learner: Learner, start: int, folder: Path, team: Team) -> int:
    """The next steps; returns the step that they end at."""
    epoch = learner.train(range(start, start + learner.plan.stretch))
    end = epoch.number
    entry = {"step": end, "loss": epoch.loss, "dice": epoch.dice, **learner.measured(end)}
    if team.is_leader:
        said = ", ".join(f"{name} {value:.3f}" for name, value in entry.items() if name != "step")
        logger.info("step %d: %s", end, said)
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
