"""A cluster's processes on this machine's loopback, started as a user starts them, and ended by their ids."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

APP = Path(__file__).parents[2] / "apps" / "sam3d"
START_LIMIT_S = 300.0


class Node:
    """`cli.py COMMAND ...`, whose log says `COMMAND at ADDRESS` when it is ready."""

    def __init__(self, log: Path, command: str, *options: str) -> None:
        self.log, self.command = log, command
        arguments = [sys.executable, str(APP / "cli.py"), command, *options]
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                arguments,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=log.parent,
            )
        try:
            self.address = self._ready()
        except BaseException:
            self.end()
            raise

    def kill(self) -> None:
        """End it at once, as a crash does."""
        self.process.kill()
        self.process.wait(20)

    def end(self) -> None:
        """Ask it to end, and see it end."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def _ready(self) -> str:
        limit = time.monotonic() + START_LIMIT_S
        while time.monotonic() < limit:
            if found := re.search(rf"^{self.command} at (\S+)$", self.said(), re.MULTILINE):
                return found[1]
            assert self.process.poll() is None, self.said()
            time.sleep(0.1)
        raise AssertionError(f"{self.command} is not ready within {START_LIMIT_S:.0f} s:\n{self.said()}")
