"""What was done for one request, for the reply and the log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from lib.geometry import PatchGrid


@dataclass
class Report:
    """Times, counts and notes of one request; handed down and added to."""

    latencies_ms: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    n_clicks: int = 0
    # In the order in which they were asked; those of answers that were kept are not.
    patches: list[PatchGrid] = field(default_factory=list)
    n_encoded: int = 0
    n_decoded: int = 0
    n_corrected_clicks: int = 0
    weights_version: str = ""

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Add the time of the enclosed lines to a step."""
        start = time.perf_counter()
        try:
            yield
        finally:
            elapsed = 1000 * (time.perf_counter() - start)
            self.latencies_ms[step] = round(self.latencies_ms.get(step, 0.0) + elapsed, 3)

    @property
    def n_patches(self) -> int:
        return len(self.patches)

    def as_json(self) -> dict[str, Any]:
        counted = {name: value for name, value in vars(self).items() if name != "patches"}
        return {**counted, "n_patches": self.n_patches}
