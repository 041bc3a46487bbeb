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
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lib.errors import WeightsError
from lib.network.build import build_sam3d
from lib.network.sam3d import Sam3D
from lib.network.weights import write_atomically
from lib.settings import NetworkSettings
from lib.synthesis.patches import training_patch, training_rng
from lib.training import ClickPlan, MovingAverage, dice_of, training_step
from lib.training_loop import Epoch, Loop, descend, run_loop

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PretrainingPlan:
    """Everything that decides the outcome: the same plan gives the same weights on the same machine."""

    steps: int = 3000
    batch_size: int = 1
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0
    average_decay: float = 0.998
    stretch: int = 50
    seed: int = 0
    has_bfloat16: bool = True
    clicks: ClickPlan = field(default_factory=ClickPlan)

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, then half a cosine down to a hundredth."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * (0.01 + 0.99 * 0.5 * (1 + float(np.cos(np.pi * min(1.0, progress)))))


class SyntheticPatches(IterableDataset[dict[str, Tensor]]):
    """Patches and targets (1, P, P, P), each made from the seed and its own number, so that a resumed run goes on
    exactly where it was."""

    def __init__(self, patch_size: int, seed: int, start: int, count: int) -> None:
        self.patch_size, self.seed, self.numbers = patch_size, seed, range(start, start + count)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for number in self.numbers:
            patch, target = training_patch(training_rng(self.seed, number), self.patch_size)
            yield {
                "image": torch.from_numpy(np.asarray(patch, np.float32))[None],
                "label": torch.from_numpy(np.asarray(target, np.float32))[None],
            }


def pretrain(
    network_settings: NetworkSettings,
    plan: PretrainingPlan,
    folder: Path,
    device: str = "cpu",
    start: Mapping[str, Tensor] | None = None,
) -> Sam3D:
    """Train for `plan.steps` steps, keeping the state in `folder` after every stretch; returns the averaged network.

    `start` holds the weights to begin with, in place of random ones. A folder that holds a state goes on from there.
    Raises WeightsError when that state is of another plan.
    """
    torch.manual_seed(plan.seed)
    network = build_sam3d(network_settings, seed=plan.seed).to(device).train()
    if start is not None:
        network.load_state_dict(start)
    optimiser = torch.optim.AdamW(network.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay)
    average = MovingAverage(network, plan.average_decay)
    run = _Run(plan, network, optimiser, average, folder)
    run.resume()
    while run.step < plan.steps:
        run.stretch()
        run.save()
    averaged = build_sam3d(network_settings)
    averaged.load_state_dict(average.state)
    return averaged


class _Run:
    """The state of one pre-training run and how it moves on."""

    def __init__(
        self, plan: PretrainingPlan, network: Sam3D, optimiser: torch.optim.AdamW, average: MovingAverage, folder: Path
    ) -> None:
        self.plan, self.network, self.optimiser, self.average = plan, network, optimiser, average
        self.path = folder / "state.pt"
        self.log_path = folder / "log.jsonl"
        self.step = 0

    def stretch(self) -> None:
        """The next `plan.stretch` steps, as one epoch of MONAI's trainer."""
        plan, steps = self.plan, min(self.plan.stretch, self.plan.steps - self.step)
        start = self.step * plan.batch_size
        patches = SyntheticPatches(self.network.settings.patch_size, plan.seed, start, steps * plan.batch_size)
        loader = DataLoader(patches, batch_size=plan.batch_size, num_workers=1)
        run_loop(self.network, self.optimiser, loader, self._update, Loop(1, steps, self._report))

    def _report(self, epoch: Epoch) -> None:
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
        rng = np.random.default_rng([plan.seed, self.step])
        with torch.autocast(patch.device.type, torch.bfloat16, enabled=plan.has_bfloat16):
            loss, logits = training_step(self.network, patch, target, plan.clicks, rng)
        loss.backward()
        descend(self.optimiser, [self.network.parameters()], plan.max_gradient_norm, plan.learning_rate_at(self.step))
        self.average.update(self.network)
        self.step += 1
        return float(loss.detach()), dice_of(logits.detach(), target)

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
