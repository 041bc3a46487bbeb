"""The predictor behind the infer tasks: loaded once, shared by all of them, used by one request at a time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lib.errors import Sam3DError
from lib.infers.failures import answer
from lib.predictor import Predictor
from lib.settings import Settings
from lib.versions import BASE, Stamp, VersionStore, open_served

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Loaded:
    """A predictor, which version it is, and whether that is still the one to serve."""

    predictor: Predictor
    name: str
    notes: tuple[str, ...]
    store: VersionStore
    stamp: Stamp

    @property
    def is_current(self) -> bool:
        return self.store.stamp() == self.stamp


class SharedPredictor:
    """Loads at the first use, and again when another version is served. A failure is not remembered: once its cause is
    gone, the next click works."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._loaded: _Loaded | None = None
        self._problem = ""
        # One click at a time: two would need twice the memory and finish no sooner.
        self._lock = threading.Lock()

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

    def warm_up(self) -> None:
        """Load now, so that the first click need not wait; a failure is for /info/ and the clicks to tell."""
        try:
            with self._lock:
                self._load()
        except Sam3DError as error:
            logger.warning("the model is not ready: %s", error)

    @contextmanager
    def ready(self) -> Iterator[Predictor]:
        """The predictor, for this request alone; WeightsError if it cannot be had, HTTPException 409 if untrained."""
        with self._lock:
            predictor = self._load()
            if not predictor.is_trained:
                raise answer(409, UNTRAINED)
            yield predictor

    def _load(self) -> Predictor:
        if self._loaded is None or not self._loaded.is_current:
            before = self._loaded
            try:
                served = open_served(self.settings)
                # A predictor of its own: embeddings of other weights are dropped with the one before.
                predictor = Predictor(served.network, served.card, self.settings)
            except Sam3DError as error:
                self._problem = str(error)
                raise
            self._loaded = _Loaded(predictor, served.name, served.notes, served.store, served.stamp)
            self._problem = "" if predictor.is_trained else UNTRAINED
            if before is not None or served.name != BASE:
                logger.info("%s is served", served.card.version)
        return self._loaded.predictor


UNTRAINED = (
    "these are SAM's own weights, whose adapters were never trained and cannot answer clicks: "
    "train them, or start the server with --conf checkpoint FILE or with --conf variant tiny"
)
