"""Labels that an archive has not got yet: each is a small file until it arrived, so that nothing is forgotten.

A thread sends them; what fails is tried again later and at the next start, and never given up.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from filelock import FileLock, Timeout

from lib.network.weights import write_atomically

logger = logging.getLogger(__name__)

OUTBOX_FOLDER = "outbox"
FIRST_WAIT_S, LONGEST_WAIT_S = 2.0, 300.0


@dataclass(frozen=True)
class Parcel:
    """A version that is to be sent, and why that failed last."""

    image: str
    tag: str
    number: int
    error: str = ""


class ArchiveError(Exception):
    """What the archive, or the way to it, did; one sentence."""


class Outbox:
    """The parcels in a folder, and the thread that delivers them. `deliver` raises ArchiveError where it cannot."""

    def __init__(self, folder: Path, deliver: Callable[[Parcel], None]) -> None:
        self._folder, self._deliver = folder, deliver
        self._changed = threading.Condition()
        self._attempts: dict[Path, int] = {}
        self._due: dict[Path, float] = {}
        self._is_stopped = False
        folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Begin to send, what was left from the last time included."""
        threading.Thread(target=self._run, daemon=True, name="outbox").start()

    def stop(self) -> None:
        """Send nothing more; what waits stays where it is."""
        self._is_stopped = True
        self.wake()

    def add(self, image: str, tag: str, number: int) -> Parcel:
        """Note that a version is to be sent. Before the version exists: a parcel without one is dropped."""
        parcel = Parcel(image, tag, number)
        self._write(parcel)
        return parcel

    def wake(self) -> None:
        """Send now what is new."""
        with self._changed:
            self._changed.notify_all()

    def waiting(self) -> list[Parcel]:
        """What has not arrived."""
        return [parcel for path in self._paths() if (parcel := _read(path)) is not None]

    def wait_for(self, parcel: Parcel, limit_s: float) -> Parcel | None:
        """None once a parcel arrived; the parcel, with what went wrong, if that did not happen within the limit."""
        path, limit = self._path(parcel), time.monotonic() + limit_s
        with self._changed:
            while (known := _read(path)) is not None and not known.error and time.monotonic() < limit:
                self._changed.wait(min(0.2, limit_s))
        return _read(path)

    def _run(self) -> None:
        while not self._is_stopped:
            try:
                for path in self._paths():
                    if time.monotonic() >= self._due.get(path, 0.0):
                        self._try(path)
            except OSError:  # a full disk, most likely, which may have room again
                logger.exception("the labels that wait for the archive cannot be looked after")
            with self._changed:
                self._changed.wait(1.0)

    def _try(self, path: Path) -> None:
        parcel = _read(path)
        if parcel is None:
            return
        try:
            # One process at a time: the one that trains has this folder open, too.
            with FileLock(self._folder / ".sending", timeout=0):
                self._deliver(parcel)
                path.unlink(missing_ok=True)
                self._attempts.pop(path, None)
        except Timeout:
            return
        except ArchiveError as error:
            self._failed(path, parcel, str(error))
        except Exception as error:  # whatever it is, the label must not be lost nor the thread end
            logger.exception("a label could not be sent")
            self._failed(path, parcel, f"{type(error).__name__}: {error}")
        with self._changed:
            self._changed.notify_all()

    def _failed(self, path: Path, parcel: Parcel, error: str) -> None:
        attempts = self._attempts.get(path, 0)
        self._attempts[path] = attempts + 1
        wait_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0**attempts)
        self._due[path] = time.monotonic() + wait_s
        logger.warning("label %d of %s waits %.0f s: %s", parcel.number, parcel.image, wait_s, error)
        self._write(Parcel(parcel.image, parcel.tag, parcel.number, error))

    def _paths(self) -> list[Path]:
        """The parcels' files, new ones before those that failed."""
        return sorted(self._folder.glob("*.json"), key=lambda path: self._attempts.get(path, 0))

    def _path(self, parcel: Parcel) -> Path:
        name = sha256(f"{parcel.image}\n{parcel.tag}\n{parcel.number}".encode()).hexdigest()[:32]
        return self._folder / f"{name}.json"

    def _write(self, parcel: Parcel) -> None:
        write_atomically(self._path(parcel), json.dumps(vars(parcel)).encode())


def _read(path: Path) -> Parcel | None:
    """The parcel of a file; None if it has been sent. One that somebody damaged is put aside, and logged."""
    try:
        return Parcel(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        logger.exception("%s is damaged: the label that it names is not sent to the archive", path.name)
        path.rename(path.with_suffix(".damaged"))
        return None
