"""Weights on their way to other machines: bytes with a name that is made of them, and networks made of such bytes."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha256

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from lib.errors import WeightsError
from lib.network.build import build_sam3d
from lib.network.devices import device_named
from lib.network.fast.choice import for_clicks
from lib.network.sam3d import Sam3D
from lib.network.weights import Card
from lib.settings import Settings
from lib.weights.checkpoints import open_network
from lib.weights.versions import open_served

# One being served, and the one before, of which orders may still be on their way.
KEPT_NETWORKS = 2


@dataclass(frozen=True)
class Weights:
    """A network and its card as bytes; `digest` is their sha256."""

    digest: str
    data: bytes
    card: Card

    @classmethod
    def of(cls, network: Sam3D, card: Card) -> Weights:
        """The weights of a network as it was built, before `for_clicks` made another form of it."""
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
        head = json.dumps(card.as_json()).encode()
        data = len(head).to_bytes(8, "little") + head + save_safetensors(state)
        return cls(sha256(data).hexdigest(), data, card)

    @classmethod
    def named(cls, settings: Settings) -> Weights:
        """Those that the settings name, without any version that was trained on."""
        return cls.of(*open_network(settings))

    @classmethod
    def served(cls, settings: Settings) -> Weights:
        """Those that a server with these settings answers clicks with; what the settings overrule is in the card."""
        served = open_served(settings)
        return cls.of(served.network, served.card)


class Networks:
    """The networks of a process, each built once, by digest, precision and device; the last ones are kept."""

    def __init__(self) -> None:
        self._networks: OrderedDict[tuple[str, str, str], tuple[Sam3D, Card]] = OrderedDict()
        self.n_built = 0

    def get(self, digest: str, data: bytes, precision: str, device: str) -> tuple[Sam3D, Card]:
        """The network of these bytes, ready for a device. WeightsError if they are not those that the digest names."""
        key = digest, precision, device
        if key not in self._networks:
            self._networks[key] = _build(digest, data, precision, device_named(device))
            self.n_built += 1
            while len(self._networks) > KEPT_NETWORKS:
                self._networks.popitem(last=False)
        self._networks.move_to_end(key)
        return self._networks[key]


def _build(digest: str, data: bytes, precision: str, device: torch.device) -> tuple[Sam3D, Card]:
    if sha256(data).hexdigest() != digest:
        raise WeightsError(f"weights {digest[:12]} arrived damaged: send them again")
    end = 8 + int.from_bytes(data[:8], "little")
    card = Card.from_json(json.loads(data[8:end]), f"weights {digest[:12]}")
    try:
        state = load_safetensors(data[end:])
    except SafetensorError as error:
        raise WeightsError(f"weights {digest[:12]} are not readable: {error}") from error
    network = build_sam3d(card.network)
    network.load_state_dict(state)
    return for_clicks(network.to(device).eval(), precision, device), card
