"""Series that may still be arriving: how many instances an archive has of one, and which of them were fetched."""

from __future__ import annotations

import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from requests import RequestException

# For so long an archive that did not answer is not asked again, for each asking costs the waiting.
AWAY_S = 10.0


class Counts:
    """How many instances the archive has of a series, by `ask`, at each opening of an image. Thread-safe."""

    def __init__(self, ask: Callable[[str], int]) -> None:
        self._ask = ask
        self._away_until = 0.0

    def of(self, image: str) -> int:
        """The count; 0 while the archive does not answer, or if it has no such series any more."""
        if time.monotonic() < self._away_until:
            return 0
        try:
            return self._ask(image)
        except RequestException:
            self._away_until = time.monotonic() + AWAY_S
            return 0


def fetched_instances(folder: Path) -> list[str]:
    """The UIDs of the instances in a series' folder, which its files are named after."""
    return sorted(path.stem for path in folder.glob("*.dcm"))


def content_of(folder: Path) -> str:
    """What names the instances that a series consists of here; empty where none was fetched."""
    instances = fetched_instances(folder) if folder.is_dir() else []
    return sha256("\n".join(instances).encode()).hexdigest()[:32] if instances else ""
