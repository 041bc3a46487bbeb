"""Which server stores in a folder of studies: one at a time; another one that is started on it only reads.

Each server knows what is listed from its own memory and writes that list, so that two of them would forget each
other's labels. The one that holds the lock on `.serving` owns the folder, and so do the processes that it starts, which
know its token. The system lets go of the lock of a process that is killed.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TextIO
from uuid import uuid4

logger = logging.getLogger(__name__)

LOCK_NAME = ".serving"
ATTEMPTS, ATTEMPT_WAIT_S = 3, 0.02
TOKEN_VARIABLE = "SAM3D_SERVING_TOKEN"
# Read once: what this process itself puts there is for those that it starts.
INHERITED_TOKEN = os.environ.get(TOKEN_VARIABLE, "")


class Ownership:
    """Of one folder, by this process or the server that started it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_NAME
        self._token = uuid4().hex
        self._held: TextIO | None = None

    @property
    def is_held(self) -> bool:
        """Whether this process itself owns the folder."""
        return self._held is not None

    def claim(self) -> bool:
        """Own the folder for as long as this process lives, if nobody else does; whether it is owned now."""
        if self._held is not None:
            return True
        try:
            file = self._path.open("a+", encoding="utf-8")
        except OSError as error:  # nobody can store where no file can be opened
            logger.warning("no server owns the studies: %s", error)
            return False
        if not any(_lock(file) for _ in _attempts()):
            file.close()
            return False
        about = {"token": self._token, "pid": os.getpid(), "host": socket.gethostname(), "since": _now()}
        try:
            file.truncate(0)
            file.write(json.dumps(about) + "\n")
            file.flush()
        except OSError as error:  # a full disk: the lock holds all the same
            logger.warning("who serves the studies is not written down: %s", error)
        self._held = file
        os.environ[TOKEN_VARIABLE] = self._token
        return True

    def release(self) -> None:
        """Let another server own the folder."""
        if self._held is not None:
            self._held.close()
            self._held = None

    def other(self) -> str:
        """Who owns the folder instead, as one sentence; empty if nobody does, or this process stores for it."""
        if self._held is not None:
            return ""
        try:
            with self._path.open("r", encoding="utf-8") as file:
                if _lock(file):
                    return ""
                about = _read(file)
        except OSError:
            return ""
        if INHERITED_TOKEN and about.get("token") == INHERITED_TOKEN:
            return ""
        who = f"process {about['pid']} on {about['host']} since {about['since']}" if about else "an unknown process"
        return (
            f"another server stores in this folder of studies ({who}), and this one only reads: use that one, or end it"
        )


def _attempts() -> Iterator[None]:
    """A few, for whoever only looks who owns the folder holds the lock for a moment, too."""
    for _ in range(ATTEMPTS):
        yield
        time.sleep(ATTEMPT_WAIT_S)


def _lock(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # a file system without locks
        logger.warning("two servers on these studies would not notice each other: %s", error)
    return True


def _read(file: TextIO) -> dict[str, Any]:
    """What the owner wrote down; empty before that is whole."""
    try:
        about = json.loads(file.read())
    except ValueError:
        return {}
    return about if isinstance(about, dict) and {"pid", "host", "since"} <= about.keys() else {}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
