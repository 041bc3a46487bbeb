"""The predictor behind the infer tasks: loaded once, shared by all of them and by requests of several threads."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from lib.errors import Sam3DError
from lib.infers.failures import answer
from lib.infers.turns import Quiet, Turns
from lib.interactive.predictor import Predictor
from lib.network.devices import device_named
from lib.network.fast.choice import for_clicks
from lib.network.sam3d import Embedding, Sam3D
from lib.network.weights import Card
from lib.settings import Settings
from lib.weights.versions import BASE, Stamp, VersionStore, open_served

logger = logging.getLogger(__name__)

# Encoding a patch takes all cores and most of the memory; two at once would end no sooner than one after the other.
ENCODERS = 1
# Decoding takes a small part of both: a second one is answered while the first one's mask is pasted and written.
DECODERS = 2


@dataclass(frozen=True)
class _Loaded:
    """A predictor, which version it is, and whether that is still the one to serve."""

    predictor: Predictor
    network: Sam3D
    name: str
    notes: tuple[str, ...]
    store: VersionStore
    stamp: Stamp

    @property
    def is_current(self) -> bool:
        return self.store.stamp() == self.stamp


class SharedPredictor:
    """Loads at the first use, and again when another version is served. A failure is not remembered: once its cause is
    gone, the next click works.

    Any number of threads may hold the predictor at once: only in the network do they take turns, so that whoever finds
    all patches encoded does not wait for who does not.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._loaded: _Loaded | None = None
        self._problem = ""
        self._loading = threading.Lock()
        # Of the server, not of a predictor: the one before may be finishing its last requests.
        self._encoders, self._decoders = Turns(ENCODERS), Turns(DECODERS)
        self.quiet = Quiet()

    @property
    def status(self) -> str:
        """What /info/ says about the weights."""
        if self._problem:
            return f"not ready: {self._problem}"
        if self._loaded is None:
            return f"{self.settings.variant}, not loaded yet"
        follows = "" if self._loaded.is_current else ", another version follows at the next click"
        return "; ".join([f"weights {self._loaded.predictor.card.version}{follows}", *self._loaded.notes])

    @property
    def served_name(self) -> str:
        """The version that the next click gets, or `base`; what is on disk is looked at only when it changed."""
        if self._loaded is None:
            return BASE
        return self._loaded.name if self._loaded.is_current else self._loaded.store.served()[0]

    @property
    def parent(self) -> str:
        """The hash of the weights that versions are made of; empty before they were loaded."""
        return self._loaded.store.parent.sha256 if self._loaded else ""

    def warm_up(self) -> None:
        """Load now, and go through the network once in the background, so that the first click need not wait; a failure
        is for /info/ and the clicks to tell."""
        try:
            predictor = self._load().predictor
        except Sam3DError as error:
            logger.warning("the model is not ready: %s", error)
            return
        if predictor.is_trained:
            threading.Thread(target=predictor.warm_up, name="warm-up", daemon=True).start()

    @contextmanager
    def ready(self) -> Iterator[Predictor]:
        """The predictor of the version that is served now, to the end of this request whatever is published meanwhile;
        WeightsError if it cannot be had, HTTPException 409 if untrained."""
        loaded = self._load()
        if not loaded.predictor.is_trained:
            raise answer(409, UNTRAINED)
        yield loaded.predictor

    def in_background(self, stopped: threading.Event) -> BackgroundNetwork:
        """The served version's network for work that nobody waits for: before every patch and every prompt it lets
        whoever is being answered finish, and raises Interrupted once `stopped` is set. WeightsError if it cannot be
        had, HTTPException 409 if untrained."""
        loaded = self._load()
        if not loaded.predictor.is_trained:
            raise answer(409, UNTRAINED)
        return BackgroundNetwork(loaded.network, loaded.predictor.card, loaded.name, self.quiet, stopped)

    def _load(self) -> _Loaded:
        with self._loading:
            if self._loaded is None or not self._loaded.is_current:
                before = self._loaded
                try:
                    served = open_served(self.settings)
                    device = device_named(self.settings.device)
                    fast = for_clicks(served.network.to(device).eval(), self.settings.precision, device)
                    network = cast(Sam3D, _InTurn(fast, self._encoders, self._decoders))
                    # A predictor of its own: embeddings of other weights are dropped with the one before.
                    predictor = Predictor(network, served.card, self.settings, device)
                except Sam3DError as error:
                    self._problem = str(error)
                    raise
                self._loaded = _Loaded(predictor, network, served.name, served.notes, served.store, served.stamp)
                self._problem = "" if predictor.is_trained else UNTRAINED
                if before is not None or served.name != BASE:
                    logger.info("%s is served", served.card.version)
            return self._loaded


class _InTurn(nn.Module):
    """A network that lets only so many threads into its encoder and its decoder at once."""

    def __init__(self, network: Sam3D, encoders: Turns, decoders: Turns) -> None:
        super().__init__()
        self.network, self.settings = network, network.settings
        self._encoders, self._decoders = encoders, decoders

    def encode(self, patch: Tensor) -> Embedding:
        with self._encoders:
            return self.network.encode(patch)

    def decode(
        self, embedding: Embedding, point_coords: Tensor, point_labels: Tensor, prior: Tensor | None = None
    ) -> Tensor:
        with self._decoders:
            return self.network.decode(embedding, point_coords, point_labels, prior)


class BackgroundNetwork(nn.Module):
    """A network, its card and the name of its version; gives way to requests, a patch or a prompt at a time."""

    def __init__(self, network: Sam3D, card: Card, version: str, quiet: Quiet, stopped: threading.Event) -> None:
        super().__init__()
        self.network, self.settings = network, network.settings
        self.card, self.version = card, version
        self._quiet, self._stopped = quiet, stopped

    def encode(self, patch: Tensor) -> Embedding:
        self._quiet.wait(self._stopped)
        return self.network.encode(patch)

    def decode(
        self, embedding: Embedding, point_coords: Tensor, point_labels: Tensor, prior: Tensor | None = None
    ) -> Tensor:
        self._quiet.wait(self._stopped)
        return self.network.decode(embedding, point_coords, point_labels, prior)


UNTRAINED = (
    "these are SAM's own weights, whose adapters were never trained and cannot answer clicks: "
    "train them, or start the server with --conf checkpoint FILE or with --conf variant tiny"
)
