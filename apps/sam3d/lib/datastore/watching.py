"""Files that others put into a datastore's folders, or take away, noticed by listing the folders every second.

The stock datastore has watchdog tell it. That watches every folder below the datastore's, those that come and go for
a moment included, with one thread for the whole process: once that thread fails, or where the kernel reports nothing
(network file systems, some containers), no new file is ever seen again. A list of names needs no watch at all. The
states of the files are listed too, for another image may take the name of one that was there.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable

logger = logging.getLogger(__name__)

LOOK_S = 1.0
# A look at a large folder on a slow line may take this share of the time, and no more.
LOOK_SHARE = 0.1


class Watch:
    """Calls `changed` when `look` returns something else than before, and once at the start, in a thread of its own.

    What the two raise is logged once for as long as it goes on, and tried again at the next look.
    """

    def __init__(self, look: Callable[[], Hashable], changed: Callable[[], object], every_s: float = LOOK_S) -> None:
        self._look, self._changed, self._every_s = look, changed, every_s
        self._seen: Hashable = None
        self._stopped = threading.Event()
        self._is_failing = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="watch")

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more; returns when `changed` is not being called either."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        looking_s = 0.0
        while not self._stopped.wait(max(self._every_s, looking_s / LOOK_SHARE)):
            start = time.monotonic()
            try:
                # Before the state is brought up to date: what changes meanwhile is noticed by the next look.
                found = self._look()
                looking_s = time.monotonic() - start
                if found != self._seen:
                    self._changed()
                    self._seen = found
                self._is_failing = False
            except OSError as error:  # the folder may be on a server that is away, and back later
                if not self._is_failing:
                    logger.warning("new files of the datastore are not seen until this is over: %s", error)
                self._is_failing = True
            except Exception:
                if not self._is_failing:
                    logger.exception("new files of the datastore are not seen until this is over")
                self._is_failing = True
