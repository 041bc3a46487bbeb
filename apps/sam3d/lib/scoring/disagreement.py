"""How far the decoder's answers to nearly the same question lie apart, on features that are computed once.

The question is the network's own: where it sees an object without any click, it is asked about that place and about
places beside it, and about all of them seen in a mirror. Where it knows, the masks agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lib.network.sam3d import Embedding

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

# The axes d, h and w of a patch, as dimensions of an embedding's maps (B, C, h, w, d).
MIRRORS = {0: 4, 1: 2, 2: 3}
# How far beside the first place the others lie, as a share of the radius of a ball as large as what was found there;
# and in patch voxels where that is nothing.
JITTER_SHARE, LEAST_JITTER = 0.4, 1.0
DIRECTIONS = np.array([(1, 1, 0), (-1, 0, 1), (0, -1, -1), (1, -1, 1)], np.float64) / np.sqrt(2)


class Decoder(Protocol):
    """The part of a network that answers prompts."""

    def decode(self, embedding: Embedding, point_coords: Tensor, point_labels: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Found:
    """Where in a patch the network sees an object without being asked: patch index (3,), its margin there, and what is
    needed to ask again. `inside` (P, P, P) is where the image is."""

    embedding: Embedding
    inside: Mask
    place: NDArray[np.float64]
    margin: float


def best_place(decoder: Decoder, embedding: Embedding, inside: Mask) -> Found:
    """The place of the largest margin in the image, in an answer to no click at all."""
    margin = np.where(inside, _margin(decoder, embedding, None), -np.inf)
    place = np.unravel_index(int(margin.argmax()), margin.shape)
    return Found(embedding, inside, np.array(place, np.float64), float(margin.max()))


def disagreement(decoder: Decoder, found: Found) -> tuple[float, int]:
    """One less the mean Dice over pairs of masks, 0 to 1; and how often the decoder ran."""
    first = _mask(decoder, found, found.place)
    reach = max(LEAST_JITTER, JITTER_SHARE * float(np.cbrt(0.75 / np.pi * first.sum())))
    limit = np.array(first.shape) - 1.0
    places = [np.clip(found.place + reach * way, 0, limit) for way in DIRECTIONS]
    masks = [first, *(_mask(decoder, found, place) for place in places)]
    masks += [_mask(decoder, found, found.place, mirror) for mirror in MIRRORS]
    return 1 - float(np.mean([_dice(one, other) for one, other in combinations(masks, 2)])), len(masks)


def _mask(decoder: Decoder, found: Found, place: NDArray[np.float64], mirror: int | None = None) -> Mask:
    """The answer (P, P, P) to a click, seen in a mirror across a patch axis where one is named."""
    if mirror is None:
        return np.asarray((_margin(decoder, found.embedding, place) > 0) & found.inside)
    turned = place.copy()
    turned[mirror] = found.inside.shape[mirror] - 1 - place[mirror]
    margin = np.flip(_margin(decoder, mirrored(found.embedding, mirror), turned), mirror)
    return np.asarray((margin > 0) & found.inside)


def mirrored(embedding: Embedding, axis: int) -> Embedding:
    """What is left of a patch, as of the patch in a mirror across its axis (0 to 2 for d, h, w)."""
    dim = MIRRORS[axis]
    return Embedding(embedding.feature.flip(dim), embedding.fusion.flip(dim), embedding.image.flip(dim))


def _margin(decoder: Decoder, embedding: Embedding, place: NDArray[np.float64] | None) -> Floats:
    """How much the object's logit exceeds the background's, (P, P, P), after a click or none."""
    device = embedding.feature.device
    points = np.zeros((1, 0, 3)) if place is None else place[None, None]
    coords = torch.from_numpy(points.astype(np.float32)).to(device)
    logits = decoder.decode(embedding, coords, torch.ones(coords.shape[:2], device=device))[0].float()
    return np.asarray((logits[1] - logits[0]).cpu().numpy(), np.float32)


def _dice(one: Mask, other: Mask) -> float:
    """1 for two empty masks."""
    total = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / total if total else 1.0
