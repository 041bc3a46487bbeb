"""What a training run says while it runs, in a small file that the server's process reads; and one run at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from lib.network.weights import write_atomically
from lib.retraining.held import HeldFile

RUNNING, DONE, FAILED, STOPPED = "running", "done", "failed", "stopped"
# What a run says while it writes down a version: only then is there something to change.
KEEPING = "writing down the new version"
FILE, LOCK = "training.json", ".training.lock"


@dataclass(frozen=True)
class Progress:
    """How far the last run is, or how it ended."""

    state: str = DONE
    sentence: str = "nothing was trained yet"
    epoch: int = 0
    epochs: int = 1
    loss: float | None = None
    dice: float | None = None
    seconds: float = 0.0
    # Mean Dice over clicks 1 to 5 of the versions measured so far, by name, and the weights that they are versions of.
    scores: Mapping[str, float] = field(default_factory=dict)
    parent: str = ""

    def score_of(self, name: str, parent: str) -> float:
        """What a version of the weights `parent` reached when it was last measured; 0 where it never was."""
        return float(self.scores.get(name, 0.0)) if parent == self.parent else 0.0


class ProgressFile:
    """The progress of the run whose files are in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = HeldFile(folder / LOCK, "a training run is going on: wait for its end, or stop it first")

    def write(self, progress: Progress) -> None:
        """Replace what stands there; numbers that are not finite are left out, for JSON has none."""
        values = {name: value for name, value in asdict(progress).items() if _is_finite(value)}
        write_atomically(self.folder / FILE, (json.dumps(values, indent=1) + "\n").encode())

    def read(self) -> Progress:
        """What stands there; a run that was killed says `stopped`, and a file that cannot be read nothing at all."""
        try:
            values = json.loads((self.folder / FILE).read_bytes())
            known = {f.name: values[f.name] for f in fields(Progress) if f.name in values}
            progress = Progress(**known)
        except (OSError, ValueError, TypeError):
            return Progress()
        if progress.state == RUNNING and not self.is_running():
            return replace(progress, state=STOPPED, sentence=_how_it_stopped(progress))
        return progress

    def is_running(self) -> bool:
        """Whether a process, on whichever machine that shares the folder, holds the lock of a run."""
        try:
            return self._lock.is_held()
        except OSError:
            return False

    def locked(self) -> AbstractContextManager[None]:
        """Be the only run; TrainingError if there is one. A process that is killed lets go of the lock."""
        return self._lock.holding("")


def _how_it_stopped(progress: Progress) -> str:
    """How far a run had come that was killed."""
    if progress.sentence == KEEPING:
        return f"stopped while {KEEPING}: the version before is served or, whole, the new one"
    if progress.epoch == progress.epochs:
        return f"stopped after epoch {progress.epoch}, while {progress.sentence}; nothing was changed"
    return f"stopped in epoch {progress.epoch + 1} of {progress.epochs}; nothing was changed"


def bar(epoch: int, epochs: int, width: int = 20) -> str:
    """`[#####---------------]`, for logs."""
    done = width * epoch // max(1, epochs)
    return f"[{'#' * done}{'-' * (width - done)}]"


def _is_finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)
