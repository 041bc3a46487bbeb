"""Training the network that comes with the app, on phantoms, plain objects and real cases: seeded, resumable, endless.

The run is that of `lib.learning.resumable`, what is practised that of `lib.learning.chains`; this module brings the
subjects and the step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, process_time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lib.errors import TrainingError
from lib.learning.chains import Practice, practise_number
from lib.learning.distributed import Team
from lib.learning.made_volumes import make_pools
from lib.learning.optimisers import MuonWithAdamW
from lib.learning.pools import Mixture
from lib.learning.resumable import learn
from lib.learning.schedules import half_cosine
from lib.learning.training import MovingAverage
from lib.learning.training_loop import Epoch, descend
from lib.network.build import build_sam3d
from lib.network.sam3d import Sam3D
from lib.pretraining.pools import CaseGroup, RealCases
from lib.settings import NetworkSettings

# How often a sample is of each kind, where there are real cases and where there are none.
REAL_SHARE, PHANTOM_SHARE = 0.42, 0.28
PHANTOM_SHARE_ALONE = 0.55


@dataclass(frozen=True)
class ChainPlan:
    """Everything that decides the outcome: the same plan and cases give the same weights on the same machine."""

    steps: int = 3000
    batch_size: int = 3
    learning_rate: float = 2e-3
    warmup_steps: int = 60
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0
    average_decay: float = 0.998
    stretch: int = 25
    seed: int = 0
    has_bfloat16: bool = False
    # How long to train by the clock, in place of `steps`: how many there are is then up to the machine.
    minutes: float | None = None
    # Whether the image encoder stays as it is: a fifth less work a step.
    is_encoder_frozen: bool = False
    # Names of the groups of real cases.
    groups: tuple[str, ...] = ()

    def learning_rate_at(self, step: int, seconds: float) -> float:
        """Linear warm-up, then half a cosine down to a hundredth, by steps or by the seconds so far."""
        if self.minutes is None:
            return self.learning_rate * half_cosine(step, self.steps, self.warmup_steps)
        warmup = min(1.0, (step + 1) / max(1, self.warmup_steps))
        return self.learning_rate * warmup * half_cosine(seconds, 60 * self.minutes)

    def is_over(self, step: int, seconds: float) -> bool:
        """Whether all steps are taken, or the time is up."""
        return step >= self.steps if self.minutes is None else seconds >= 60 * self.minutes


def pretrain(
    network_settings: NetworkSettings,
    plan: ChainPlan,
    folder: Path,
    device: str = "cpu",
    start: Mapping[str, Tensor] | None = None,
    team: Team | None = None,
    groups: list[CaseGroup] | None = None,
) -> Sam3D:
    """Train for `plan.steps` steps, keeping the state in `folder` after every stretch; returns the averaged network.

    `start` holds the weights to begin with, in place of random ones. A folder that holds a state goes on from there.
    Members of a team share each step's samples and come to the same weights; the leader writes.
    Raises WeightsError when that state is of another plan, TrainingError for a team larger than a step or for a network
    that does not read the mask so far.
    """
    team = team or Team()
    if not network_settings.has_prior:
        raise TrainingError("this network does not read the mask so far: train it on a data set (--dataset)")
    if plan.batch_size < team.size:
        raise TrainingError(f"a step has {plan.batch_size} samples, fewer than {team.size} processes: raise --batch")
    torch.manual_seed(plan.seed)
    network = build_sam3d(network_settings, seed=plan.seed).to(device).train()
    if start is not None:
        network.load_state_dict(start)
    learner = ChainLearner(plan, network, team, groups or [])
    learn(learner, folder, team)
    averaged = build_sam3d(network_settings)
    averaged.load_state_dict(learner.average.state)
    return averaged


class ChainLearner:
    """A learner (lib.learning.resumable) from practised chains, and the average of its last steps."""

    def __init__(self, plan: ChainPlan, network: Sam3D, team: Team, groups: list[CaseGroup]) -> None:
        self.plan, self.network, self.team = plan, network, team
        network.image_encoder.requires_grad_(not plan.is_encoder_frozen)
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.optimiser = MuonWithAdamW(self.parameters, plan.learning_rate, plan.weight_decay)
        self.average = MovingAverage(network, plan.average_decay)
        self.device = next(network.parameters()).device
        self.processor_seconds = 0.0
        # By the leader's clock, and of all runs that this one goes on from.
        self.seconds = 0.0
        phantoms, plain = make_pools(plan.seed)
        self._mixture = Mixture([phantoms, plain], [PHANTOM_SHARE_ALONE, 1 - PHANTOM_SHARE_ALONE])
        if groups:
            shares = [PHANTOM_SHARE, 1 - PHANTOM_SHARE - REAL_SHARE, REAL_SHARE]
            self._mixture = Mixture([phantoms, plain, RealCases(groups)], shares)

    def is_over(self, step: int) -> bool:
        return self.plan.is_over(step, self.seconds)

    def train(self, steps: range) -> Epoch:
        """These steps, or as many as there is time for; their mean loss, and mean Dice of each sample's last answer."""
        processor, losses, dices = process_time(), [], []
        done, at = steps.start, monotonic()
        while done < steps.stop and not self.is_over(done):
            loss, dice = self._update(done)
            losses.append(loss)
            dices.append(dice)
            done, before, at = done + 1, at, monotonic()
            [elapsed] = self.team.sum_values([at - before if self.team.is_leader else 0.0], self.device)
            self.seconds += elapsed
        self.processor_seconds += process_time() - processor
        return Epoch(done, float(np.mean(losses)), float(np.mean(dices)))

    def _update(self, step: int) -> tuple[float, float]:
        plan = self.plan
        self.optimiser.zero_grad()
        done = [self._practise(n) for n in self.team.share(step * plan.batch_size, plan.batch_size)]
        self.team.sum_gradients(self.parameters)
        rate = plan.learning_rate_at(step, self.seconds)
        descend(self.optimiser, [self.parameters], plan.max_gradient_norm, rate)
        self.average.update(self.network)
        sums = [sum(float(np.mean(one.losses)) for one in done), sum(one.dices[-1] for one in done)]
        loss, dice = (value / plan.batch_size for value in self.team.sum_values(sums, self.device))
        if not np.isfinite(loss):
            raise TrainingError(f"the loss is no longer a number at step {step + 1}: lower --learning-rate")
        return loss, dice

    def _practise(self, number: int) -> Practice:
        plan = self.plan
        return practise_number(self.network, self._mixture, plan.seed, number, 1 / plan.batch_size, plan.has_bfloat16)

    def measured(self, step: int) -> Mapping[str, float]:
        return {"processor_seconds": round(self.processor_seconds, 1)}

    def remembered(self) -> Mapping[str, Any]:
        return {
            "average": self.average.state,
            "updates": self.average.updates,
            "seconds": self.seconds,
            "processor_seconds": self.processor_seconds,
        }

    def remember(self, state: Mapping[str, Any]) -> None:
        self.average.state = {name: tensor.to(self.device) for name, tensor in state["average"].items()}
        self.average.updates = int(state["updates"])
        self.seconds, self.processor_seconds = float(state["seconds"]), float(state["processor_seconds"])
