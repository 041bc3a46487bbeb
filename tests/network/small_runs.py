"""A network small enough to train in a second, weights of it on disk, and cases with a bright ball to find."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import torch

from lib.learning.cases import Case
from lib.learning.distributed import Team
from lib.learning.training_loop import Epoch
from lib.network.build import build_sam3d
from lib.network.deltas import tuned_state
from lib.network.sam3d import Sam3D
from lib.network.weights import Card, save_weights
from lib.retraining.finetuning import FinetuningPlan, finetune, learn_patches
from lib.settings import PRESETS, Settings
from network import small_networks

SMALL = replace(small_networks.SMALL, patch_size=16, window_size=2, sam_window_size=2, sam_grid_size=4)
SHAPE = (24, 24, 20)


@dataclass(frozen=True)
class BallSample:
    patch: np.ndarray
    target: np.ndarray


def ball_stream(seed: int, start: int, count: int) -> Iterator[BallSample]:
    """Patches (16, 16, 16) of noise with a bright ball, each decided by the seed and its number."""
    for number in range(start, start + count):
        rng = np.random.default_rng([seed, number])
        centre, radius = rng.uniform(5, 10, 3), rng.uniform(2, 5)
        where = np.stack(np.meshgrid(*[np.arange(16)] * 3, indexing="ij"), axis=-1)
        target = np.linalg.norm(where - centre, axis=-1) < radius
        patch = rng.normal(0, 0.2, target.shape) + 1.5 * target
        yield BallSample(patch.astype(np.float32), target.astype(np.float32))


def train_on_balls(
    network: Sam3D,
    plan: FinetuningPlan,
    on_epoch: Callable[[Epoch], None],
    seed: int = 0,
    team: Team | None = None,
) -> None:
    """Fine-tune on the patches of `ball_stream`."""
    finetune(network, learn_patches(network, partial(ball_stream, seed), plan), plan, on_epoch, team=team)


def save_after_training(team: Team, plan: FinetuningPlan, path: Path) -> None:
    """One member of a team trains; the first of them writes down what came out."""
    network, losses = small_network(), []
    train_on_balls(network, plan, lambda epoch: losses.append(epoch.loss), team=team)
    if team.is_leader:
        torch.save({"losses": losses, "state": tuned_state(network)}, path)


def small_network(seed: int = 0) -> Sam3D:
    return build_sam3d(SMALL, seed=seed)


def small_card(**changes: object) -> Card:
    values = {"variant": "tiny", "network": SMALL, "intensity": PRESETS["ct"], "spacing_mm": 1.5, "is_trained": True}
    return Card(**{**values, "has_background_clicks": True, "version": "small", **changes})


def small_settings(folder: Path, seed: int = 0, **conf: str) -> Settings:
    """Settings of an app whose base weights, versions and records all lie in `folder`."""
    checkpoint = folder / f"small{seed}.safetensors"
    if not checkpoint.exists():
        save_weights(small_network(seed), small_card(), checkpoint)
    usual = {"checkpoint": str(checkpoint), "model_folder": str(folder / "model"), "labels": "lesion", "device": "cpu"}
    run = {"max_epochs": "2", "steps_per_epoch": "2", "click_rounds": "2"}
    return Settings.from_conf({**usual, **run, **conf})


def ball(centre: tuple[float, float, float], radius: float = 4.0) -> np.ndarray:
    where = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), axis=-1)
    return np.linalg.norm(where - centre, axis=-1) < radius


def write_case(folder: Path, name: str, truth: np.ndarray, label: np.ndarray | None = None, seed: int = 0) -> Case:
    """A CT with `truth` 120 HU brighter than its surroundings, and a label file that says `label`."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    array = rng.normal(20.0, 10.0, SHAPE) + 120.0 * truth
    array[0] = -1000.0
    affine = np.diag([1.5, 1.5, 1.5, 1.0])
    image, mask = folder / f"{name}.nii.gz", folder / f"{name}_label.nii.gz"
    nibabel.save(nibabel.Nifti1Image(array.astype(np.int16), affine), image)
    written = truth if label is None else label
    nibabel.save(nibabel.Nifti1Image(written.astype(np.uint8), affine), mask)
    return Case(name, image, mask)


def ball_cases(folder: Path, count: int) -> list[Case]:
    rng = np.random.default_rng(5)
    return [write_case(folder, f"case_{n}", ball(tuple(rng.uniform(7, 13, 3))), seed=n) for n in range(count)]
