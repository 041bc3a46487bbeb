"""Who has which case open, so that two at one case are told of each other; in the server's memory only.

A lease says whose a case is; this says who looks at it, whoever that is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

# A page says every few seconds that it is open; of other clients only clicks are heard.
OPEN_S, CLICKED_S = 45.0, 300.0
# Names outlive a visit, for a lease does, too.
MOST_NAMES = 10_000


class _Seen(NamedTuple):
    until: float
    since: float


class Presence:
    """For several threads at once. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._names: dict[str, str] = {}
        self._seen: dict[str, dict[str, _Seen]] = {}

    def note(self, image: str, client: str, name: str, for_s: float) -> None:
        """A client, whom people know by a name, has an image open, and is taken to have it for so many seconds."""
        with self._lock:
            now = self._clock()
            self._forget(now)
            self._names[client] = name
            here = self._seen.setdefault(image, {})
            here[client] = _Seen(now + for_s, here[client].since if client in here else now)

    def leave(self, image: str, client: str) -> None:
        """A client closed an image."""
        with self._lock:
            self._seen.get(image, {}).pop(client, None)

    def others(self, image: str, client: str) -> list[str]:
        """The names of those who have an image open beside a client, who came first the first."""
        with self._lock:
            self._forget(self._clock())
            here = sorted(self._seen.get(image, {}).items(), key=lambda each: each[1].since)
            return list(dict.fromkeys(self._names[other] for other, _ in here if other != client))

    def name_of(self, client: str) -> str:
        """What people call a client: as it said, else what it is known by here."""
        with self._lock:
            return self._names.get(client) or client.partition(" ")[2]

    def _forget(self, now: float) -> None:
        kept = {
            image: {client: seen for client, seen in here.items() if seen.until > now}
            for image, here in self._seen.items()
        }
        self._seen = {image: here for image, here in kept.items() if here}
        here_still = {client for here in self._seen.values() for client in here}
        while len(self._names) > MOST_NAMES and (gone := next((n for n in self._names if n not in here_still), None)):
            del self._names[gone]
