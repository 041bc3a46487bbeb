"""Fine-tuned versions as deltas: only the tuned tensors, with a card that names the weights they belong on.

A delta holds values, not differences, so it goes on its parent in one step whatever was on it before.
"""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from lib.errors import WeightsError
from lib.network.sam3d import Sam3D
from lib.network.weights import Card, card_path, read_card, write_atomically


def tuned_names(network: Sam3D) -> list[str]:
    """Names of the parameters that fine-tuning moves and a delta holds, sorted."""
    return sorted(name for names in network.parameter_groups().values() for name in names)


def tuned_state(network: Sam3D) -> dict[str, Tensor]:
    """Copies of the tuned parameters on the CPU."""
    parameters = dict(network.named_parameters())
    return {name: parameters[name].detach().cpu().clone() for name in tuned_names(network)}


def put_state(network: Sam3D, state: dict[str, Tensor]) -> None:
    """Give tuned parameters their values; all others stay what they are."""
    parameters = dict(network.named_parameters())
    with torch.no_grad():
        for name, tensor in state.items():
            parameters[name].copy_(tensor)


def frozen_sha256(network: Sam3D) -> str:
    """A name for weights that come without one: the hash of everything that no delta replaces."""
    tuned, digest = set(tuned_names(network)), sha256()
    for name, tensor in sorted(network.state_dict().items()):
        if name not in tuned:
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def as_stored(state: dict[str, Tensor], is_half: bool) -> dict[str, Tensor]:
    """The values as a delta holds them; WeightsError where one is not finite, or is not so in half precision."""
    stored = {name: tensor.half() if is_half else tensor.float() for name, tensor in state.items()}
    if broken := sorted(name for name, tensor in stored.items() if not tensor.isfinite().all()):
        raise WeightsError(f"{broken[0]} and {len(broken) - 1} more hold values that cannot be stored: train again")
    return stored


def save_delta(network: Sam3D, card: Card, path: Path, is_half: bool = False) -> Card:
    """Write the tuned tensors to `path` (.safetensors), then their card, each whole or not at all; returns the card
    with its hash. The card names the parent."""
    assert card.parent_sha256, "a delta belongs to a parent"
    state = as_stored(tuned_state(network), is_half)
    data = save_safetensors({name: tensor.contiguous() for name, tensor in state.items()})
    card = replace(card, sha256=sha256(data).hexdigest())
    write_atomically(path, data)
    write_atomically(card_path(path), (json.dumps(card.as_json(), indent=1, ensure_ascii=False) + "\n").encode())
    return card


def load_delta(network: Sam3D, parent: Card, path: Path) -> Card:
    """Put a delta on a network that holds its parent's weights; returns the delta's card.

    Raises WeightsError, and changes nothing, when the delta is damaged, was made for another parent, or does not hold
    exactly the tuned tensors.
    """
    card, data = read_delta(parent, path)
    try:
        state = load_safetensors(data)
    except SafetensorError as error:
        raise WeightsError(f"{path.name} is not a readable safetensors file: {error}") from error
    parameters, names = dict(network.named_parameters()), tuned_names(network)
    if odd := sorted(set(names) ^ set(state)):
        raise WeightsError(
            f"{path.name} does not hold the tuned tensors of this network: {odd[0]} is in one of them only"
        )
    if odd := [name for name in names if state[name].shape != parameters[name].shape]:
        raise WeightsError(f"{path.name} has another shape of {odd[0]} than this network: {tuple(state[odd[0]].shape)}")
    if odd := [name for name in names if not state[name].isfinite().all()]:
        raise WeightsError(f"{path.name} holds values that are not finite, in {odd[0]}")
    put_state(network, state)
    return card


def read_delta(parent: Card, path: Path) -> tuple[Card, bytes]:
    """The card and the bytes of a delta that is whole and belongs to the parent; WeightsError otherwise."""
    card = read_card(path)
    if card.parent_sha256 != parent.sha256:
        raise WeightsError(
            f"{path.name} was trained on weights {str(card.parent_sha256)[:12]}, not on {parent.version} "
            f"({parent.sha256[:12]}): start the server with the checkpoint that it was trained on"
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path.name} cannot be read: {error.strerror or error}") from error
    digest = sha256(data).hexdigest()
    if digest != card.sha256:
        raise WeightsError(f"{path.name} has sha256 {digest[:12]}, its card says {card.sha256[:12]}: it is damaged")
    return card, data
