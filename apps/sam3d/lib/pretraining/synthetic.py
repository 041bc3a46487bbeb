"""Training the demo network from nothing, on endless synthetic patches: seeded, resumable, on any machine.

The run is that of `lib.learning.resumable`; this module brings the stream of patches and the step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lib.errors import TrainingError
from lib.learning.distributed import Team
from lib.learning.resumable import learn
from lib.learning.schedules import half_cosine
from lib.learning.training import ClickPlan, MovingAverage, dice_of, training_step
from lib.learning.training_loop import Batch, descend
from lib.network.build import build_sam3d
from lib.network.sam3d import Sam3D
from lib.pretraining.phantom_views import phantom_view
from lib.random_streams import RandomStream, generator
from lib.settings import NetworkSettings
from lib.synthesis.patches import training_patch, training_rng

# Every so many patches, one is cut out of a whole phantom.
VIEW_EVERY = 2


@dataclass(frozen=True)
class PretrainingPlan:
    """Everything that decides the outcome: the same plan gives the same weights on the same machine."""

    steps: int = 3000
    batch_size: int = 4
    learning_rate: float = 2e-3
    warmup_steps: int = 100
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0
    average_decay: float = 0.998
    stretch: int = 50
    seed: int = 0
    has_bfloat16: bool = False
    # How far apart the samples of a patch may lie, finest first, in mm.
    zooms_mm: tuple[float, ...] = (1.0, 2.0, 4.0)
    clicks: ClickPlan = field(
        default_factory=lambda: ClickPlan(automatic_share=0.05, random_share=0.4, has_varied_rounds=True)
    )

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, then half a cosine down to a hundredth."""
        return self.learning_rate * half_cosine(step, self.steps, self.warmup_steps)


class SyntheticPatches(IterableDataset[dict[str, Tensor]]):
    """A team member's batches of patches and targets (B, 1, P, P, P), a step's each; every patch is made from the seed
    and its own number, so that a resumed run goes on exactly where it was, and any team makes the same ones."""

    def __init__(self, patch_size: int, plan: PretrainingPlan, team: Team, steps: range) -> None:
        self.patch_size, self.plan, self.team, self.steps = patch_size, plan, team, steps

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for step in self.steps:
            numbers = self.team.share(step * self.plan.batch_size, self.plan.batch_size)
            pairs = [self._pair(number) for number in numbers]
            yield {
                "image": torch.from_numpy(np.stack([patch for patch, _ in pairs]))[:, None],
                "label": torch.from_numpy(np.stack([target for _, target in pairs]).astype(np.float32))[:, None],
            }

    def _pair(self, number: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        if number % VIEW_EVERY:
            return training_patch(training_rng(self.plan.seed, number), self.patch_size)
        rng = generator(RandomStream.PHANTOM_VIEW, self.plan.seed, number)
        return phantom_view(rng, self.patch_size, self.plan.zooms_mm)


def pretrain(
    network_settings: NetworkSettings,
    plan: PretrainingPlan,
    folder: Path,
    device: str = "cpu",
    start: Mapping[str, Tensor] | None = None,
    team: Team | None = None,
) -> Sam3D:
    """Train for `plan.steps` steps, keeping the state in `folder` after every stretch; returns the averaged network.

    `start` holds the weights to begin with, in place of random ones. A folder that holds a state goes on from there.
    Members of a team share each step's patches and come to the same weights; the leader writes.
    Raises WeightsError when that state is of another plan, TrainingError for a team larger than a step.
    """
    team = team or Team()
    if plan.batch_size < team.size:
        raise TrainingError(f"a step has {plan.batch_size} patches, fewer than {team.size} processes: raise --batch")
    torch.manual_seed(plan.seed)
    network = build_sam3d(network_settings, seed=plan.seed).to(device).train()
    if start is not None:
        network.load_state_dict(start)
    learner = _Synthetic(plan, network, team)
    learn(learner, folder, team)
    averaged = build_sam3d(network_settings)
    averaged.load_state_dict(learner.average.state)
    return averaged


class _Synthetic:
    """A learner (lib.learning.resumable) from synthetic patches, and the average of its last steps."""

    def __init__(self, plan: PretrainingPlan, network: Sam3D, team: Team) -> None:
        self.plan, self.network, self.team = plan, network, team
        self.optimiser = torch.optim.AdamW(network.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay)
        self.average = MovingAverage(network, plan.average_decay)
        self.device = next(network.parameters()).device

    def loader(self, steps: range) -> DataLoader[Batch]:
        patches = SyntheticPatches(self.network.settings.patch_size, self.plan, self.team, steps)
        return DataLoader(patches, batch_size=None, num_workers=0 if self.device.type == "cpu" else 1)

    def update(self, step: int, patch: Tensor, target: Tensor) -> tuple[float, float]:
        """One optimiser step."""
        plan = self.plan
        self.optimiser.zero_grad(set_to_none=True)
        numbers = self.team.share(step * plan.batch_size, plan.batch_size)
        # Users draw from streams of their own: with the patch's they would repeat what made it.
        rngs = [generator(RandomStream.SYNTHETIC_CLICKS, plan.seed, number) for number in numbers]
        chances = generator(RandomStream.SYNTHETIC_CHANCES, plan.seed, step)
        share = len(patch) / plan.batch_size
        with torch.autocast(patch.device.type, torch.bfloat16, enabled=plan.has_bfloat16):
            loss, logits = training_step(self.network, patch, target, plan.clicks, rngs, chances)
        (loss * share).backward()
        self.team.sum_gradients(self.network.parameters())
        descend(self.optimiser, [self.network.parameters()], plan.max_gradient_norm, plan.learning_rate_at(step))
        self.average.update(self.network)
        values = [share * float(loss.detach()), share * dice_of(logits.detach(), target)]
        mean_loss, mean_dice = self.team.sum_values(values, patch.device)
        return mean_loss, mean_dice

    def measured(self, step: int) -> Mapping[str, float]:
        return {}

    def remembered(self) -> Mapping[str, Any]:
        return {"average": self.average.state, "updates": self.average.updates}

    def remember(self, state: Mapping[str, Any]) -> None:
        self.average.state, self.average.updates = dict(state["average"]), int(state["updates"])
