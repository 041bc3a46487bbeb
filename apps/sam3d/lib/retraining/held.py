"""A file that says something for as long as the process lives that wrote it: the system lets go of its lock when that
ends, however it ends, on NFS of version 4 also for other machines."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lib.errors import TrainingError
from lib.locks import WAY_OUT

# Whoever asks whether the file is held holds it for a moment.
ATTEMPTS, PAUSE_S = 10, 0.1


class HeldFile:
    """A text with a lock, in a folder that several machines may share; `busy` says that another process holds it."""

    def __init__(self, path: Path, busy: str) -> None:
        self._path, self._busy = path, busy

    @contextmanager
    def holding(self, text: str) -> Iterator[None]:
        """Hold the file, and let it say `text`, which stays when the hold ends; TrainingError if another process holds
        it, or where there are no locks."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a+", encoding="utf-8") as file:
            for attempt in range(ATTEMPTS):
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if attempt + 1 == ATTEMPTS:
                        raise TrainingError(self._busy) from None
                    time.sleep(PAUSE_S)
                except OSError as error:
                    raise TrainingError(
                        f"{self._path.parent.name} takes no locks ({error.strerror}): {WAY_OUT}"
                    ) from error
            file.truncate(0)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # else another machine reads it when this one has time to send it
            yield

    def is_held(self) -> bool:
        """Whether a process, on whichever machine, holds the file now."""
        try:
            with self._path.open("r", encoding="utf-8") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False
        return False

    def text(self) -> str:
        """What the last one who held the file wrote; empty where nobody did."""
        try:
            return self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""
