"""The predictor behind the infer tasks: loaded once, shared by all of them, used by one request at a time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from lib.errors import Sam3DError
from lib.infers.failures import answer
from lib.predictor import Predictor, load_predictor
from lib.settings import Settings

logger = logging.getLogger(__name__)


class SharedPredictor:
    """Loads at the first use. A failure is not remembered: once its cause is gone, the next click works."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._predictor: Predictor | None = None
        self._problem = ""
        # One click at a time: two would need twice the memory and finish no sooner.
        self._lock = threading.Lock()

    @property
    def status(self) -> str:
        """What /info/ says about the weights."""
        if self._problem:
            return f"not ready: {self._problem}"
        return (
            f"weights {self._predictor.card.version}" if self._predictor else f"{self.settings.variant}, not loaded yet"
        )

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
        if self._predictor is None:
            try:
                self._predictor = load_predictor(self.settings)
            except Sam3DError as error:
                self._problem = str(error)
                raise
            self._problem = "" if self._predictor.is_trained else UNTRAINED
        return self._predictor


UNTRAINED = (
    "these are SAM's own weights, whose adapters were never trained and cannot answer clicks: "
    "train them, or start the server with --conf checkpoint FILE or with --conf variant tiny"
)
