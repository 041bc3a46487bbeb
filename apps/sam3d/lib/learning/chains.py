"""Practising what is served: a coarse patch, a finer one that starts from its answer, corrections of what is wrong.

Each answer is differentiated by itself; what the next one starts from is taken as given (docs/decisions/0022).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from lib.geometry import PatchGrid
from lib.interactive.clicks import deep_click, largest_error, random_click
from lib.interactive.priors import LEAST_DEPTH, WIDTH_DEPTHS, Layer, as_prior, composed, rim_weights
from lib.learning.pools import Mixture
from lib.learning.subjects import Look, Subject
from lib.learning.training import margin_of, segmentation_loss
from lib.network.sam3d import Sam3D
from lib.random_streams import RandomStream, generator

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

# A patch shows its object at best when the object fills this share of it.
FILLED = 0.75
# How often nothing, a spoilt truth, or something foreign is what a chain begins with.
NOTHING_SHARE, SPOILT_SHARE = 0.7, 0.22
# How often the finer patch starts from what the coarser said.
OWN_SHARE = 0.85
CORRECTIONS = (0.3, 0.4, 0.3)
# How often no click is made at all, for the automatic mode.
UNASKED_SHARE = 0.05


@dataclass
class Practice:
    """What one sample came to: the loss of each answer, and the Dice of the coarse, the fine and the last one."""

    losses: list[float] = field(default_factory=list)
    dices: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Pupil:
    """A network at practice on one subject."""

    network: Sam3D
    subject: Subject
    look: Look
    rng: np.random.Generator
    backward: Callable[[Tensor], None]
    has_bfloat16: bool

    def answer(
        self, grid: PatchGrid, clicks: list[tuple[NDArray[np.float64], bool]], prior: Floats
    ) -> tuple[Floats, Floats, float]:
        """Answer the clicks in one patch and learn from it; returns margin and target (P, P, P), and the loss."""
        target = self.subject.target(grid)
        device = next(self.network.parameters()).device
        image = self.look.turn(self.look.patch(self.subject, grid, self.rng)).to(device)
        inside = [(grid.indices(at[None])[0], is_object) for at, is_object in clicks if grid.contains(at[None]).all()]
        points = self.look.turn_points(np.array([at for at, _ in inside]).reshape(-1, 3), grid.size)
        coords = torch.from_numpy(points.astype(np.float32))[None]
        labels = torch.tensor([[float(is_object) for _, is_object in inside]])
        with torch.autocast(device.type, torch.bfloat16, enabled=self.has_bfloat16):
            logits = self.network(image, coords.to(device), labels.to(device), self.look.turn(prior).to(device))
        loss = segmentation_loss(logits.float(), self.look.turn(target).to(device))
        self.backward(loss)
        margin = margin_of(logits.detach().float())[0, 0].cpu().numpy()
        return self.look.turn_back(margin), target, float(loss.detach())


def practise_number(
    network: Sam3D, mixture: Mixture, seed: int, number: int, share: float, has_bfloat16: bool
) -> Practice:
    """Practise on the subject that the seed and the sample's number draw; gradients times `share` are added up."""
    rng = generator(RandomStream.PRACTICE, seed, number)
    subject, look = mixture.draw(number, rng), Look.draw(rng)
    return practise(Pupil(network, subject, look, rng, lambda loss: (share * loss).backward(), has_bfloat16))


def practise(pupil: Pupil) -> Practice:
    """One first click down the chain by a step, then up to two corrections."""
    subject, rng, size = pupil.subject, pupil.rng, pupil.network.settings.patch_size
    click = np.asarray(subject.first_click(rng), np.float64)
    clicks = [(click, True)]
    coarse_mm = _coarse_spacing(subject, rng, size)
    coarse, fine = (PatchGrid.around(subject.volume.affine, click, size, mm) for mm in (coarse_mm, coarse_mm / 2))
    done = Practice()
    if subject.is_sought and rng.random() < UNASKED_SHARE:
        margin, target, loss = pupil.answer(fine, [], np.zeros((size,) * 3, np.float32))
        _note(done, margin, target, loss)
        return done

    margin, target, loss = pupil.answer(coarse, clicks, _first_prior(subject, coarse, rng))
    _note(done, margin, target, loss)
    layers = [Layer(coarse, margin, np.ones_like(margin))]
    finer = composed(layers, fine)
    prior = as_prior(finer) if rng.random() < OWN_SHARE else _first_prior(subject, fine, rng)
    margin, target, loss = pupil.answer(fine, clicks, prior)
    _note(done, margin, target, loss)
    layers.append(Layer(fine, margin, rim_weights(size)))

    arena, seen, truth = fine, composed(layers, fine), target > 0.5
    if rng.random() < 0.3:
        arena, seen, truth = coarse, composed(layers, coarse), subject.target(coarse) > 0.5
    for _ in range(int(rng.choice(len(CORRECTIONS), p=CORRECTIONS))):
        found = _correction(truth, seen > 0, rng)
        if found is None:
            break
        at, is_missed, depth = found
        native = (arena.to_volume @ np.array([*at, 1.0]))[:3]
        clicks.append((native, is_missed))
        wanted = WIDTH_DEPTHS * max(depth, LEAST_DEPTH) * arena.spacing_mm / size * float(2 ** rng.uniform(-0.3, 0.5))
        spacing_mm = float(np.clip(wanted, 0.5 * fine.spacing_mm, coarse.spacing_mm))
        near = PatchGrid.around(subject.volume.affine, native, size, spacing_mm)
        margin, target, loss = pupil.answer(near, clicks, as_prior(composed(layers, near)))
        _note(done, margin, target, loss)
        layers.append(Layer(near, margin, rim_weights(size)))
        seen = composed(layers, arena)
    return done


def _note(done: Practice, margin: Floats, target: Floats, loss: float) -> None:
    mask, truth = margin > 0, target > 0.5
    total = int(mask.sum()) + int(truth.sum())
    done.losses.append(loss)
    done.dices.append(2 * int((mask & truth).sum()) / total if total else 1.0)


def _coarse_spacing(subject: Subject, rng: np.random.Generator, size: int) -> float:
    """Mostly near the spacing at which the object fills a patch, now and then far above it."""
    fitting = subject.extent_mm / (FILLED * size)
    octaves = rng.uniform(-1.2, 1.7) if rng.random() < 0.75 else rng.uniform(1.5, 4.5)
    extent = float((np.array(subject.volume.shape) * subject.volume.spacing).max())
    lowest = float(subject.volume.spacing.min())
    return float(np.clip(fitting * 2**octaves, lowest, max(extent / size, 1.2 * lowest)))


def _first_prior(subject: Subject, grid: PatchGrid, rng: np.random.Generator) -> Floats:
    """What is there before anything was asked: mostly nothing."""
    choice = rng.random()
    if choice < NOTHING_SHARE:
        return np.zeros((grid.size,) * 3, np.float32)
    if choice < NOTHING_SHARE + SPOILT_SHARE:
        return spoilt(subject.target(grid) > 0.5, rng)
    away = rng.integers(-grid.size // 2, grid.size // 2 + 1, size=3)
    return spoilt(subject.target(grid.shifted(away)) > 0.5, rng)


def spoilt(truth: Mask, rng: np.random.Generator) -> Floats:
    """A truth (P, P, P) as a hasty hand or another model has it: larger, smaller, moved, cut or smeared; as a prior."""
    ragged = truth.astype(np.float32) + np.float32(rng.uniform(0, 0.5)) * ndimage.zoom(
        rng.standard_normal((8, 8, 8)).astype(np.float32), truth.shape[0] / 8, order=1
    )
    mask = ndimage.gaussian_filter(ragged, float(rng.uniform(0.5, 3.0))) > rng.uniform(0.2, 0.8)
    if rng.random() < 0.4:
        mask = np.roll(mask, tuple(int(n) for n in rng.integers(-4, 5, size=3)), axis=(0, 1, 2))
    if rng.random() < 0.3:
        axis, cut = int(rng.integers(3)), int(rng.integers(truth.shape[0] // 4, 3 * truth.shape[0] // 4))
        gone = [slice(None)] * 3
        gone[axis] = slice(cut, None) if rng.random() < 0.5 else slice(None, cut)
        mask[tuple(gone)] = False
    sure = float(rng.uniform(0.5, 1.0))
    return np.asarray(np.where(mask, sure, -sure), np.float32)


def _correction(truth: Mask, mask: Mask, rng: np.random.Generator) -> tuple[tuple[int, int, int], bool, float] | None:
    """Where the largest error is clicked, whether it was missed, and how deep it is in samples."""
    error = largest_error(truth, mask, rng)
    if error is None:
        return None
    region, is_missed = error
    at = random_click(region, rng) if rng.random() < 0.5 else deep_click(region, rng)
    right = np.argwhere(mask == is_missed)
    if not len(right):
        return at, is_missed, truth.shape[0] / WIDTH_DEPTHS
    return at, is_missed, float(np.sqrt(np.square(right - np.array(at)).sum(axis=1).min()))
