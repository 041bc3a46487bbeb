"""Images that did not open when somebody was to be given them: passed over until their file is another.

Each is opened before it is given away. That is no loss, for whoever gets it clicks on it next, and finds it in memory.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from fastapi import HTTPException
from monailabel.interfaces.datastore import Datastore

from lib.activelearning.background import CHANGED_S, FIRST_OF_ITS_OWN, image_reference
from lib.infers.failures import as_answers
from lib.infers.images import find_image


class _Refused(NamedTuple):
    reference: str
    sentence: str
    at: float


class Unopened:
    """What is known not to open; for several threads. `open_image` opens a path as for a click."""

    def __init__(self, open_image: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._open_image, self._clock = open_image, clock
        self._lock = threading.Lock()
        self._refused: dict[str, _Refused] = {}

    def open(self, image: str, datastore: Datastore) -> str:
        """The path of an image that opens; HTTPException if it does not, which is remembered where that is the image's
        own fault."""
        try:
            with as_answers():
                path = find_image(image, datastore, ())
                self._open_image(path)
        except HTTPException as refusal:
            if refusal.status_code < FIRST_OF_ITS_OWN:
                refused = _Refused(image_reference(image, datastore), str(refusal.detail), self._clock())
                with self._lock:
                    self._refused[image] = refused
            raise
        return path

    def known(self, datastore: Datastore) -> dict[str, str]:
        """Why each image does not open that is as it was when that was found out, by id; an archive's series may have
        grown after a while."""
        listed = set(datastore.list_images()) if self._refused else set[str]()
        with self._lock:
            kept = {image: each for image, each in self._refused.items() if image in listed}
        now = self._clock()
        known = {
            image: each
            for image, each in kept.items()
            if image_reference(image, datastore) == each.reference
            and (each.reference.startswith("[") or now - each.at < CHANGED_S)
        }
        with self._lock:
            for image in kept.keys() - known.keys():
                self._refused.pop(image, None)
        return {image: each.sentence for image, each in sorted(known.items())}
