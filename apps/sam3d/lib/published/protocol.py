"""The published test: 1, 3 or 10 random voxels of the target at once, one patch around them, one answer, no correction.

Unlike the interactive protocol it says nothing about clicks that a user would make; it is how the method's own numbers
were measured. Points are drawn by a seed here, where the published ones were not.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lib.datasets.known import KnownDataset
from lib.datasets.labelled_cases import Case, opened
from lib.evaluation.figures import Snapshot
from lib.evaluation.metrics import dice, surface_dice
from lib.evaluation.protocol import Target
from lib.images.preprocess import intensity_of, normalise
from lib.images.volumes import Volume
from lib.interactive.predictor import Predictor
from lib.learning.training import margin_of
from lib.network.sam3d import Sam3D
from lib.published.points import drawn
from lib.published.results import points_named
from lib.published.volumes import Reading, overlap, resampled
from lib.random_streams import RandomStream, generator
from lib.settings import Intensity, Settings
from lib.weights.checkpoints import open_network

Mask = NDArray[np.bool_]

COUNTS = (1, 3, 10)
# 0 points: the automatic answer, which is no part of the published test.
AUTOMATIC = (0,)
TOLERANCE_MM = 5.0


@dataclass(frozen=True)
class Score:
    """What one answer came to."""

    dice: float
    nsd: float
    seconds: float


@dataclass(frozen=True)
class PointResult:
    """One case: its scores by the number of points, and a picture of the answers to the fewest and the most."""

    target: Target
    scores: Mapping[int, Score]
    snapshot: Snapshot

    def __str__(self) -> str:
        parts = [f"{points_named(count)} {score.dice:.3f}/{score.nsd:.3f}" for count, score in self.scores.items()]
        return f"{self.target.case}: Dice/NSD {', '.join(parts)}"


@dataclass(frozen=True)
class PointTest:
    """What to draw, and how answers are scored."""

    counts: Sequence[int] = COUNTS
    tolerance_mm: float = TOLERANCE_MM
    seed: int = 0


@dataclass(frozen=True)
class Subject:
    """A network, and the predictor around it, which gives the automatic answers."""

    network: Sam3D
    predictor: Predictor

    @classmethod
    def of(cls, settings: Settings) -> Subject:
        """What the settings name. Raises WeightsError where that cannot be used."""
        network, card = open_network(settings)
        return cls(network, Predictor(network, card, settings))


def evaluate_points(
    subject: Subject, cases: Iterable[Case], dataset: KnownDataset, test: PointTest
) -> Iterator[PointResult | str]:
    """Results of the cases as they come, and a sentence for each that was left out."""
    for found in opened(cases):
        if isinstance(found, str):
            yield found
            continue
        case, volume, label_map = found
        label = np.asarray(label_map == dataset.target)
        if not label.any():
            yield f"{case.name} was left out: its label has no voxel of value {dataset.target}"
            continue
        yield _result(subject, case.name, volume, label, dataset, test)


def _result(
    subject: Subject, name: str, volume: Volume, label: Mask, dataset: KnownDataset, test: PointTest
) -> PointResult:
    scores: dict[int, Score] = {}
    masks: list[Mask] = []
    for count in test.counts:
        # By name, so that a case gets the same points whatever else is subject.
        rng = generator(RandomStream.TEST_POINTS, test.seed, crc32(name.encode(errors="surrogatepass")), count)
        start = time.perf_counter()
        mask = _answer(subject, volume, label, dataset, count, rng)
        seconds = time.perf_counter() - start
        masks.append(mask)
        scores[count] = Score(dice(label, mask), surface_dice(label, mask, volume.spacing, test.tolerance_mm), seconds)
    voxels = int(label.sum())
    target = Target(name, str(dataset.target), voxels, voxels * float(np.prod(volume.spacing)) / 1000)
    names = [points_named(count) for count in dict.fromkeys((test.counts[0], test.counts[-1]))]
    shown = Snapshot.of(volume, label, masks, _middle(label), names)
    return PointResult(target, scores, shown)


def _answer(
    subject: Subject, volume: Volume, label: Mask, dataset: KnownDataset, count: int, rng: np.random.Generator
) -> Mask:
    if count == 0:
        return np.asarray(subject.predictor.segment_automatically(volume).label_map == 1)
    card = subject.predictor.card
    reading = Reading.of(volume, dataset.axes)
    image = resampled(reading.turned(volume.array), reading.spacing(volume), card.spacing_mm)
    turned = reading.turned(label)
    points = drawn(on_grid_of(turned, image), count, rng)
    if not len(points):
        return np.zeros_like(label)  # a target thinner than the grid has no voxel to draw
    probability = patch_probability(subject.network, image.numpy(), points, intensity_of(volume, card.intensity))
    whole = F.interpolate(probability[None, None], size=turned.shape, mode="trilinear", align_corners=False)[0, 0]
    return reading.back((whole > 0.5).numpy())


def on_grid_of(label: Mask, image: Tensor) -> Mask:
    """A label (D, H, W) at the nearest voxels of an image's grid, as PyTorch takes them."""
    values = torch.from_numpy(np.ascontiguousarray(label, dtype=np.uint8))[None, None]
    return np.asarray(F.interpolate(values, size=image.shape, mode="nearest")[0, 0].numpy() > 0)


def patch_start(points: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Where the patch of `size`^3 begins on each axis, (3,): its middle is that between the outermost points (N, 3)."""
    middle: NDArray[np.int64] = (points.max(axis=0) + points.min(axis=0)) // 2
    return middle - size // 2


@torch.inference_mode()
def patch_probability(
    network: Sam3D, image: NDArray[np.float32], points: NDArray[np.int64], intensity: Intensity
) -> Tensor:
    """The target's probability (D, H, W) of an image that is not normalised, 0 outside of the patch around the points.

    Points (N, 3) may lie outside of the patch. Its part beyond the image is 0, the mean, to the network.
    """
    size = network.settings.patch_size
    device = next(network.parameters()).device
    start = patch_start(points, size)
    inside, place = overlap(start, size, image.shape)
    patch = np.zeros((size,) * 3, np.float32)
    patch[inside] = normalise(image[place], intensity)
    coords = torch.from_numpy((points - start).astype(np.float32))[None].to(device)
    logits = network(torch.from_numpy(patch)[None, None].to(device), coords, torch.ones(1, len(points), device=device))
    found = margin_of(logits.float())[0, 0].sigmoid().cpu()
    probability = torch.zeros(image.shape)
    probability[place] = found[inside]
    return probability


def _middle(label: Mask) -> tuple[int, int, int]:
    """The target's voxel nearest to its centre."""
    voxels = np.argwhere(label)
    i, j, k = voxels[np.abs(voxels - voxels.mean(axis=0)).sum(axis=1).argmin()]
    return int(i), int(j), int(k)
