"""Holds one training step against a recorded one of the published network: its loss and the gradients it leaves.

The recording (`train.npz`) names its seeds; parameters, patch, target and points are filled from them. Norms are those
before clipping. What is tuned is the published recipe's choice, SAM's layer norms included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lib.learning.training import segmentation_loss
from lib.network.sam3d import Sam3D
from lib.network.weights import published_name
from lib.parity.inference import Filler, case_meta

# Relative, but for the loss; the reference against itself with other threads reaches 4e-6, 9e-5 and 3.3e-4.
LOSS_TOLERANCE, GROUP_TOLERANCE, NORM_TOLERANCE, ENTRY_TOLERANCE = 1e-5, 1e-4, 1e-3, 3e-3
# Zero in exact arithmetic, since softmax ignores a constant: what is recorded is rounding.
ROUNDING_ONLY, ROUNDING = "k_proj.bias", 1e-6
GROUPS = ("depth_embed", "slice_embed", "norm1", "rel_pos_d", "norm2", "neck_3d")
N_ENTRIES = 64


class TrainingFiller(Filler, Protocol):
    """The deterministic source of what a training step needs beside an inference."""

    def make_seg(self, seed: int) -> NDArray[np.uint8]: ...
    def make_train_points(self, seed: int) -> NDArray[np.int64]: ...
    def sample_indices(self, name: str, shape: tuple[int, ...], k: int = ...) -> NDArray[np.int64]: ...


@dataclass(frozen=True)
class TrainingParity:
    """One recorded step: deviations as shares of their tolerances; 1 is the limit."""

    compared: int
    loss: float
    loss_share: float
    group_share: float
    norm_share: float
    entry_share: float
    worst: str

    @property
    def is_passed(self) -> bool:
        return max(self.loss_share, self.group_share, self.norm_share, self.entry_share) <= 1

    def __str__(self) -> str:
        return (
            f"training step: {'pass' if self.is_passed else 'FAIL'}, loss {self.loss:.7f}, {self.compared} parameters; "
            f"of their tolerances the loss takes {self.loss_share:.2f}, groups {self.group_share:.2f}, norms "
            f"{self.norm_share:.2f} and entries {self.entry_share:.2f} at most ({self.worst})"
        )


def training_gradients(
    network: Sam3D, filler: TrainingFiller, seed: int, points: NDArray[np.int64]
) -> tuple[float, dict[str, Tensor]]:
    """Loss of one published training step, and gradients by the published names; blocks are checkpointed."""
    patch = torch.from_numpy(filler.make_input(seed))[None, None]
    target = torch.from_numpy(filler.make_seg(seed).astype(np.float32))[None, None]
    network.freeze_sam(has_norms=True)
    network.zero_grad(set_to_none=True)
    network.image_encoder.is_checkpointed = True
    try:
        coords = torch.from_numpy(np.asarray(points, np.float32))[None]
        loss = segmentation_loss(network(patch, coords, torch.ones(1, len(points))), target)
        loss.backward()
    finally:
        network.image_encoder.is_checkpointed = False
    gradients = {published_name(name): p.grad for name, p in network.named_parameters() if p.grad is not None}
    return float(loss.detach()), gradients


def group_of(name: str) -> str:
    """The recording's group of a parameter, by its published name."""
    component = name.split(".")[0]
    if component != "encoder":
        return component
    return next((group for group in GROUPS if group in name), "adapters")


def norms_by_group(gradients: Mapping[str, Tensor]) -> dict[str, float]:
    """The L2 norm of each group's gradients."""
    squares: dict[str, float] = {}
    for name, gradient in gradients.items():
        squares[group_of(name)] = squares.get(group_of(name), 0.0) + float(gradient.double().square().sum())
    return {group: square**0.5 for group, square in squares.items()}


def check_training(network: Sam3D, filler: TrainingFiller, path: Path) -> TrainingParity:
    """Run the recorded step on a network that is already filled with the recording's parameters.

    ViT-B needs about 10 GB of memory and some minutes on a CPU.
    """
    with np.load(path, allow_pickle=False) as golden:
        stored = {name: golden[name] for name in golden.files}
    loss, gradients = training_gradients(network, filler, int(case_meta(stored)["input_seed"]), stored["points_dhw"])
    recorded = [name.split("/")[1] for name in stored if name.startswith("grad/") and name.endswith("/norm")]
    groups = norms_by_group({name: gradients[name] for name in recorded})
    group_shares = {
        name: abs(norm / float(stored[f"group/{name}"]) - 1) / GROUP_TOLERANCE for name, norm in groups.items()
    }
    shares = {name: _shares(name, gradients[name], stored, filler) for name in recorded}
    return TrainingParity(
        compared=len(recorded),
        loss=loss,
        loss_share=abs(loss - float(stored["loss"])) / LOSS_TOLERANCE,
        group_share=_largest(group_shares.values()),
        norm_share=_largest(norm for norm, _ in shares.values()),
        entry_share=_largest(entry for _, entry in shares.values()),
        worst=max(shares, key=lambda name: max(shares[name])),
    )


def _shares(
    name: str, gradient: Tensor, stored: Mapping[str, NDArray[Any]], filler: TrainingFiller
) -> tuple[float, float]:
    """Deviations of a parameter's norm and of its recorded entries, as shares of their tolerances."""
    norm, expected = float(gradient.double().norm()), float(stored[f"grad/{name}/norm"])
    if name.endswith(ROUNDING_ONLY):
        return max(norm, expected) / ROUNDING, 0.0
    key = f"grad/{name}"
    values = stored[f"{key}/values"]
    # A filler of small cases may record fewer.
    indices = filler.sample_indices(key, tuple(gradient.shape), N_ENTRIES)[: len(values)]
    entries = gradient.reshape(-1).numpy()[indices]
    largest = float(np.abs(values).max()) or 1.0
    deviation = _largest(np.abs(entries - values).tolist())
    return abs(norm / expected - 1) / NORM_TOLERANCE, deviation / largest / ENTRY_TOLERANCE


def _largest(values: Any) -> float:
    """The largest of some numbers; infinite where one is not a number, for no comparison would notice that."""
    return float(np.nan_to_num(np.array(list(values)), nan=np.inf).max(initial=0.0))
