"""How the network learns: loss, clicks, one step. No loop and no server here; whoever trains brings those."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from monai.losses import DiceCELoss
from numpy.typing import NDArray
from torch import Tensor

from lib.clicks import next_click, random_click
from lib.network.sam3d import Embedding, Sam3D

# Half Dice of the object, half cross-entropy of both classes (arXiv 2306.13465, section 4.1 and its code's constants).
segmentation_loss = DiceCELoss(
    softmax=True,
    to_onehot_y=True,
    include_background=False,
    lambda_dice=0.5,
    lambda_ce=0.5,
    smooth_nr=1e-5,
    smooth_dr=1e-5,
)


@dataclass(frozen=True)
class ClickPlan:
    """How many clicks a training sample gets, and how often none at all (for the automatic mode)."""

    rounds: int = 3
    automatic_share: float = 0.1
    # How often a corrective click is drawn from anywhere in the largest error rather than from its middle.
    random_share: float = 0.5


@dataclass(frozen=True)
class Clicks:
    """Clicks of a batch, as the network takes them: coords (B, N, 3) in patch voxels (d, h, w), labels (B, N)."""

    coords: Tensor
    labels: Tensor

    @classmethod
    def none(cls, batch: int) -> Clicks:
        return cls(torch.zeros(batch, 0, 3), torch.zeros(batch, 0))

    def plus(self, clicks: list[tuple[tuple[int, int, int], bool]]) -> Clicks:
        """One more click for each sample of the batch."""
        coords = torch.tensor([[list(at)] for at, _ in clicks], dtype=self.coords.dtype)
        labels = torch.tensor([[float(is_foreground)] for _, is_foreground in clicks])
        return Clicks(torch.cat([self.coords, coords], dim=1), torch.cat([self.labels, labels], dim=1))


def training_step(
    network: Sam3D, patch: Tensor, target: Tensor, plan: ClickPlan, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Loss of a batch over rounds of simulated clicks, and the logits (B, 2, P, P, P) of the last round.

    patch (B, 1, P, P, P) and target (B, 1, P, P, P), 0 or 1. The patch is encoded once; each round adds the click
    that the largest error asks for, as a user would.
    """
    embedding = network.encode(patch)
    loss = patch.new_zeros(())
    for turn in click_rounds(network, embedding, target, plan, rng):
        loss = loss + turn.loss
    return loss / turn.rounds, turn.logits


def backward_step(
    network: Sam3D,
    patch: Tensor,
    target: Tensor,
    plan: ClickPlan,
    rng: np.random.Generator,
    share: float = 1.0,
    has_bfloat16: bool = False,
) -> tuple[float, Tensor]:
    """The same loss, its gradients times `share` already added to the parameters.

    Each round is differentiated before the next one starts, so memory holds the graph of one decoding however many
    rounds there are, and then that of the encoder.
    """

    def precision() -> torch.autocast:
        return torch.autocast(patch.device.type, torch.bfloat16, enabled=has_bfloat16)

    with precision():
        encoded = network.encode(patch)
    feature, fusion = (t.detach().requires_grad_(t.requires_grad) for t in (encoded.feature, encoded.fusion))
    turns = click_rounds(network, Embedding(feature, fusion, encoded.image), target, plan, rng)
    loss, logits = 0.0, patch.new_zeros(())
    while True:
        with precision():
            turn = next(turns, None)
        if turn is None:
            break
        (turn.loss * (share / turn.rounds)).backward()
        loss, logits = loss + float(turn.loss.detach()) / turn.rounds, turn.logits.detach()
        del turn
    pairs = [(t, leaf.grad) for t, leaf in ((encoded.feature, feature), (encoded.fusion, fusion)) if t.requires_grad]
    torch.autograd.backward([t for t, _ in pairs], [gradient for _, gradient in pairs])
    return loss, logits


@dataclass(frozen=True)
class Turn:
    """One round of a training step: its loss, its logits (B, 2, P, P, P), and how many rounds there are."""

    loss: Tensor
    logits: Tensor
    rounds: int


def click_rounds(
    network: Sam3D, embedding: Embedding, target: Tensor, plan: ClickPlan, rng: np.random.Generator
) -> Iterator[Turn]:
    """A first click and then corrections, or now and then no click at all."""
    is_automatic = rng.random() < plan.automatic_share
    clicks = Clicks.none(len(target)) if is_automatic else first_clicks(target, rng)
    rounds = 1 if is_automatic else plan.rounds
    for number in range(rounds):
        logits = decode(network, embedding, clicks)
        yield Turn(segmentation_loss(logits.float(), target), logits, rounds)
        if number + 1 < rounds:
            clicks = corrected(clicks, target, logits.detach(), rng, plan.random_share)


def decode(network: Sam3D, embedding: Embedding, clicks: Clicks) -> Tensor:
    """The network's answer to the clicks."""
    device = embedding.feature.device
    return network.decode(embedding, clicks.coords.to(device), clicks.labels.to(device))


def first_clicks(target: Tensor, rng: np.random.Generator) -> Clicks:
    """A foreground click somewhere inside each target (B, 1, P, P, P), deep inside more often than not; a sample
    without any target gets a background click in its middle."""
    clicks = []
    for region in _masks(target):
        centre = (region.shape[0] // 2, region.shape[1] // 2, region.shape[2] // 2)
        clicks.append((random_click(region, rng), True) if region.any() else (centre, False))
    return Clicks.none(len(target)).plus(clicks)


def corrected(
    clicks: Clicks, target: Tensor, logits: Tensor, rng: np.random.Generator, random_share: float = 0.0
) -> Clicks:
    """One more click for each sample: in its largest error, or the first click again where there is none."""
    more = []
    predicted = (logits[:, 1:] > logits[:, :1]).float()
    for index, (label, mask) in enumerate(zip(_masks(target), _masks(predicted), strict=True)):
        click = next_click(label, mask, (1.0, 1.0, 1.0), rng)
        if click is None:
            d, h, w = (int(x) for x in clicks.coords[index, 0])
            click = ((d, h, w), bool(clicks.labels[index, 0]))
        elif rng.random() < random_share:
            wrong = label & ~mask if click[1] else mask & ~label
            click = (random_click(wrong, rng), click[1])
        more.append(click)
    return clicks.plus(more)


def dice_of(logits: Tensor, target: Tensor) -> float:
    """Mean Dice over a batch; an empty target with an empty answer counts 1."""
    predicted = (logits[:, 1:] > logits[:, :1]).float()
    overlap = (predicted * target).flatten(1).sum(dim=1)
    total = predicted.flatten(1).sum(dim=1) + target.flatten(1).sum(dim=1)
    return float(torch.where(total > 0, 2 * overlap / total.clamp(min=1), 1.0).mean())


class MovingAverage:
    """An exponential moving average of a network's parameters: steadier than its last step."""

    def __init__(self, network: Sam3D, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: Sam3D) -> None:
        self.updates += 1
        # Early on the average must forget the random start faster.
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                self.state[name].lerp_(tensor, 1 - decay)


def _masks(batch: Tensor) -> Iterable[NDArray[np.bool_]]:
    return (mask > 0 for mask in batch[:, 0].cpu().numpy())
