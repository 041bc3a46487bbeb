"""How the network learns: loss, clicks, one step. No loop and no server here; whoever trains brings those."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.losses import DiceCELoss
from numpy.typing import NDArray
from torch import Tensor

from lib.interactive.priors import as_prior
from lib.learning.simulated_user import SimulatedUser
from lib.network.sam3d import Embedding, Sam3D

# Half Dice of the object, half cross-entropy (arXiv 2306.13465, section 4.1 and its code's constants). Of two classes,
# softmax is a sigmoid of the difference, at half the work.
_dice_and_cross_entropy = DiceCELoss(sigmoid=True, lambda_dice=0.5, lambda_ce=0.5, smooth_nr=1e-5, smooth_dr=1e-5)


def segmentation_loss(logits: Tensor, target: Tensor) -> Tensor:
    """The published loss of logits (B, 2, P, P, P), background and object, against a target (B, 1, P, P, P)."""
    loss: Tensor = _dice_and_cross_entropy(margin_of(logits), target)
    return loss


def margin_of(logits: Tensor) -> Tensor:
    """How much the object's logit exceeds the background's: (B, 2, P, P, P) to (B, 1, P, P, P)."""
    return logits[:, 1:] - logits[:, :1]


@dataclass(frozen=True)
class ClickPlan:
    """How many clicks a training sample gets, and how often none at all (for the automatic mode)."""

    rounds: int = 3
    automatic_share: float = 0.1
    # How often a click is drawn from anywhere in its region rather than from the middle.
    random_share: float = 0.5
    # Whether the number of rounds is drawn for each step, from 1 to 2 * rounds - 1.
    has_varied_rounds: bool = False

    def draw_rounds(self, rng: np.random.Generator) -> int:
        """How many rounds a step has; 0 stands for an automatic one."""
        if rng.random() < self.automatic_share:
            return 0
        return int(rng.integers(1, 2 * self.rounds)) if self.has_varied_rounds else self.rounds


@dataclass(frozen=True)
class Clicks:
    """Clicks of a batch, as the network takes them: coords (B, N, 3) in patch voxels (d, h, w), labels (B, N)."""

    coords: Tensor
    labels: Tensor

    @classmethod
    def none(cls, batch: int) -> Clicks:
        return cls(torch.zeros(batch, 0, 3), torch.zeros(batch, 0))

    @classmethod
    def of(cls, users: Sequence[SimulatedUser]) -> Clicks:
        """All that the users of a batch have clicked; each as often as the others."""
        coords = torch.tensor([user.coords for user in users], dtype=torch.float32)
        return cls(coords, torch.tensor([user.labels for user in users], dtype=torch.float32))


def training_step(
    network: Sam3D,
    patch: Tensor,
    target: Tensor,
    plan: ClickPlan,
    rngs: Sequence[np.random.Generator],
    chances: np.random.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Loss of a batch over rounds of simulated clicks, and the logits (B, 2, P, P, P) of the last round.

    patch (B, 1, P, P, P) and target (B, 1, P, P, P), 0 or 1. The patch is encoded once; each round adds the click
    that the largest error asks for, as a user would. `rngs` has one generator for each sample's user; `chances`, by
    default the first of them, decides for the whole batch how many rounds there are.
    """
    embedding = network.encode(patch)
    loss = patch.new_zeros(())
    for turn in click_rounds(network, embedding, target, plan, rngs, chances):
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
    """The same loss of one sample, its gradients times `share` already added to the parameters.

    Each round is differentiated before the next one starts, so memory holds the graph of one decoding however many
    rounds there are, and then that of the encoder.
    """

    def precision() -> torch.autocast:
        return torch.autocast(patch.device.type, torch.bfloat16, enabled=has_bfloat16)

    with precision():
        encoded = network.encode(patch)
    feature, fusion = (t.detach().requires_grad_(t.requires_grad) for t in (encoded.feature, encoded.fusion))
    turns = click_rounds(network, Embedding(feature, fusion, encoded.image), target, plan, [rng])
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
    network: Sam3D,
    embedding: Embedding,
    target: Tensor,
    plan: ClickPlan,
    rngs: Sequence[np.random.Generator],
    chances: np.random.Generator | None = None,
) -> Iterator[Turn]:
    """A first click and then corrections, or now and then no click at all."""
    rounds = plan.draw_rounds(rngs[0] if chances is None else chances)
    if rounds == 0:
        logits = decode(network, embedding, Clicks.none(len(target)))
        yield Turn(segmentation_loss(logits.float(), target), logits, 1)
        return
    masks = target[:, 0].cpu().numpy() > 0
    users = [SimulatedUser(mask, rng, plan.random_share) for mask, rng in zip(masks, rngs, strict=True)]
    for number in range(rounds):
        logits = decode(network, embedding, Clicks.of(users), prior_of(network, users))
        yield Turn(segmentation_loss(logits.float(), target), logits, rounds)
        if number + 1 < rounds:
            for user, margin in zip(users, margins(logits), strict=True):
                user.look(margin)
                user.correct()


def prior_of(network: Sam3D, users: Sequence[SimulatedUser]) -> Tensor | None:
    """The mask so far (B, 1, P, P, P) that the users look at, for a network that reads it; None before the first."""
    seen = [user.margin for user in users]
    if not network.settings.has_prior or any(margin is None for margin in seen):
        return None
    return torch.from_numpy(np.stack([as_prior(margin) for margin in seen if margin is not None]))[:, None]


def decode(network: Sam3D, embedding: Embedding, clicks: Clicks, prior: Tensor | None = None) -> Tensor:
    """The network's answer to the clicks, and to the mask so far where there is one."""
    device = embedding.feature.device
    coords, labels = clicks.coords.to(device), clicks.labels.to(device)
    return network.decode(embedding, coords, labels, *(() if prior is None else (prior.to(device),)))


def margins(logits: Tensor) -> NDArray[np.float32]:
    """Margins (B, P, P, P) of a batch's logits, for users to look at."""
    found: NDArray[np.float32] = margin_of(logits.detach().float())[:, 0].cpu().numpy()
    return found


def dice_of(logits: Tensor, target: Tensor) -> float:
    """Mean Dice over a batch; an empty target with an empty answer counts 1."""
    predicted = (margin_of(logits) > 0).float()
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
