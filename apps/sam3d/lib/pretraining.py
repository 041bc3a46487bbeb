"""Training the demo network from nothing, on endless synthetic patches: seeded, resumable, on any machine.

The loop is that of `lib.training_loop`; this module brings the stream of patches and what to keep after each stretch.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lib.distributed import Team
from lib.errors import TrainingError, WeightsError
from lib.network.build import build_sam3d
from lib.network.sam3d import Sam3D
from lib.network.weights import write_atomically
from lib.phantom_views import phantom_view
from lib.settings import NetworkSettings
from lib.synthesis.patches import training_patch, training_rng
from lib.training import ClickPlan, MovingAverage, dice_of, training_step
from lib.training_loop import Epoch, Loop, descend, run_loop

logger = logging.getLogger(__name__)

# First elements of seeds, beside those of patches (1), phantoms (2, 3), the gate (4), cases (5) and rehearsal (8).
CLICK_STREAM, CHANCE_STREAM, VIEW_STREAM = 6, 7, 9
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
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * (0.01 + 0.99 * 0.5 * (1 + float(np.cos(np.pi * min(1.0, progress)))))


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
        rng = np.random.default_rng([VIEW_STREAM, self.plan.seed, number])
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
    optimiser = torch.optim.AdamW(network.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay)
    average = MovingAverage(network, plan.average_decay)
    run = _Run(plan, network, optimiser, average, folder, team)
    run.resume()
    while run.step < plan.steps:
        run.stretch()
        if team.is_leader:
            run.save()
    averaged = build_sam3d(network_settings)
    averaged.load_state_dict(average.state)
    return averaged


class _Run:
    """The state of one pre-training run and how it moves on."""

    def __init__(
        self,
        plan: PretrainingPlan,
        network: Sam3D,
        optimiser: torch.optim.AdamW,
        average: MovingAverage,
        folder: Path,
        team: Team,
    ) -> None:
        self.team = team
        self.plan, self.network, self.optimiser, self.average = plan, network, optimiser, average
        self.path = folder / "state.pt"
        self.log_path = folder / "log.jsonl"
        self.device = next(network.parameters()).device
        self.step = 0

    def stretch(self) -> None:
        """The next `plan.stretch` steps, as one epoch of MONAI's trainer."""
        plan, steps = self.plan, min(self.plan.stretch, self.plan.steps - self.step)
        size = self.network.settings.patch_size
        patches = SyntheticPatches(size, plan, self.team, range(self.step, self.step + steps))
        loader = DataLoader(patches, batch_size=None, num_workers=0 if self.device.type == "cpu" else 1)
        run_loop(self.network, self.optimiser, loader, self._update, Loop(1, steps, self._report))

    def _report(self, epoch: Epoch) -> None:
        if not self.team.is_leader:
            return
        entry = {"step": self.step, "loss": epoch.loss, "dice": epoch.dice}
        logger.info(
            "step %d of %d: loss %.3f, last-click dice %.3f", self.step, self.plan.steps, epoch.loss, epoch.dice
        )
        with self.log_path.open("a") as log:
            log.write(json.dumps(entry) + "\n")

    def _update(self, patch: Tensor, target: Tensor) -> tuple[float, float]:
        """One optimiser step."""
        plan = self.plan
        self.optimiser.zero_grad(set_to_none=True)
        numbers = self.team.share(self.step * plan.batch_size, plan.batch_size)
        # Users draw from streams of their own: with the patch's they would repeat what made it.
        rngs = [np.random.default_rng([CLICK_STREAM, plan.seed, number]) for number in numbers]
        chances = np.random.default_rng([CHANCE_STREAM, plan.seed, self.step])
        share = len(patch) / plan.batch_size
        with torch.autocast(patch.device.type, torch.bfloat16, enabled=plan.has_bfloat16):
            loss, logits = training_step(self.network, patch, target, plan.clicks, rngs, chances)
        (loss * share).backward()
        self.team.sum_gradients(self.network.parameters())
        descend(self.optimiser, [self.network.parameters()], plan.max_gradient_norm, plan.learning_rate_at(self.step))
        self.average.update(self.network)
        self.step += 1
        values = [share * float(loss.detach()), share * dice_of(logits.detach(), target)]
        mean_loss, mean_dice = self.team.sum_values(values, patch.device)
        return mean_loss, mean_dice

    def save(self) -> None:
        state = {
            "plan": json.dumps(asdict(self.plan)),
            "step": self.step,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.average.state,
            "updates": self.average.updates,
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomically(self.path, buffer.getvalue())

    def resume(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            return
        state = torch.load(self.path, weights_only=True)
        if state["plan"] != json.dumps(asdict(self.plan)):
            raise WeightsError(
                f"{self.path.parent.name} holds a run of another plan: name a new folder, or the same plan"
            )
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.average.state, self.average.updates = state["average"], state["updates"]
        self.step = state["step"]
        logger.info("going on from step %d", self.step)
