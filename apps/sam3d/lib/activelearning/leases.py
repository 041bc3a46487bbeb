"""Which cases somebody is at work on: what Next Sample gave to one client is kept from the others for a while.

Who asks again without having stored a label has skipped a case: it comes back when no other is left. In the server's
memory only: after a restart everybody asks anew.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lib.infers.failures import answer

# How long a datastore may go on listing a case as unlabelled whose label was just saved.
SAVED_S = 60.0


@dataclass(frozen=True)
class _Lease:
    client: str
    until: float


class Leases:
    """Leases of `length_s` seconds, by image; for several threads at once. `clock` gives seconds."""

    def __init__(self, length_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._length_s, self._clock = length_s, clock
        self._lock = threading.Lock()
        self._leases: dict[str, _Lease] = {}
        self._saved: dict[str, float] = {}
        # In the order in which they were skipped.
        self._skipped: dict[str, None] = {}

    def give(self, unlabelled: Sequence[str], client: str, choose: Callable[[Sequence[str]], str]) -> str | None:
        """What `choose` takes of the images that nobody has and nobody skipped; then the one skipped first. A client
        that had all that are left goes through them again. None if all are labelled, HTTPException 409 if others have
        what is left."""
        with self._lock:
            now = self._clock()
            self._forget(now)
            left = [image for image in unlabelled if image not in self._saved]
            free = [image for image in left if image not in self._leases]
            own = [image for image in left if image in self._leases and self._leases[image].client == client]
            self._skip(own)
            fresh = [image for image in free if image not in self._skipped]
            if fresh:
                image = choose(fresh)
            elif free:
                image = next(image for image in self._skipped if image in set(free))
            elif own:
                image = min(own, key=lambda each: self._leases[each].until)
            elif left:
                wait_s = math.ceil(min(self._leases[each].until for each in left) - now)
                raise answer(
                    409,
                    f"others are annotating the last {len(left)} cases: try again in {wait_s} s, or choose one",
                )
            else:
                return None
            self._leases[image] = _Lease(client, now + self._length_s)
            return image

    def renew(self, image: str, client: str) -> None:
        """Somebody clicked on the image: it is theirs from now on, unless another has it, whose lease grows longer."""
        with self._lock:
            now = self._clock()
            self._forget(now)
            holder = self._leases[image].client if image in self._leases else client
            self._leases[image] = _Lease(holder, now + self._length_s)
            if holder == client:
                self._skipped.pop(image, None)  # back at it

    def drop(self, image: str) -> None:
        """What was given cannot be worked on: nobody has it, and nobody skipped it."""
        with self._lock:
            self._leases.pop(image, None)
            self._skipped.pop(image, None)

    def end(self, image: str) -> None:
        """A label of the image was saved: it is nobody's, and for a moment not offered either."""
        with self._lock:
            self._leases.pop(image, None)
            self._skipped.pop(image, None)
            self._saved[image] = self._clock() + SAVED_S

    def reopen(self, image: str) -> None:
        """A label of the image was sent back: it is offered at once."""
        with self._lock:
            self._saved.pop(image, None)

    def holders(self) -> dict[str, str]:
        """The client that each leased case belongs to."""
        with self._lock:
            self._forget(self._clock())
            return {image: lease.client for image, lease in self._leases.items()}

    def skipped(self) -> list[str]:
        """The cases that somebody was given and left without a label, the first one first."""
        with self._lock:
            return list(self._skipped)

    def _skip(self, own: Sequence[str]) -> None:
        for image in sorted(own, key=lambda each: self._leases[each].until):
            self._skipped.setdefault(image)

    def _forget(self, now: float) -> None:
        self._leases = {image: lease for image, lease in self._leases.items() if lease.until > now}
        self._saved = {image: until for image, until in self._saved.items() if until > now}
