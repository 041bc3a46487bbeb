"""How fast work goes, and when it will be done."""

from __future__ import annotations

import time
from collections import deque

# Of so many results, the last ones: what a card or a network did an hour ago says little.
WINDOW = 200


class Pace:
    """Of work that began when this was made."""

    def __init__(self) -> None:
        self._ends: deque[float] = deque([time.perf_counter()], maxlen=WINDOW)

    def note(self) -> None:
        """One more is done."""
        self._ends.append(time.perf_counter())

    @property
    def per_hour(self) -> float:
        """As many as are done in an hour; 0 before the first."""
        seconds = self._ends[-1] - self._ends[0]
        return 3600 * (len(self._ends) - 1) / seconds if seconds > 0 else 0.0


def in_words(seconds: float) -> str:
    """A time to go, as nobody needs it more exactly."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
