"""A cluster of this machine's own processes, as `cli.py` starts them, on loopback; each is ended by its process id."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving import APP

CLI = str(APP / "cli.py")
START_LIMIT_S = 600.0


class Node:
    """One process of `cli.py`; `address` is what it said that it listens at."""

    def __init__(self, arguments: list[str], log: Path, program: list[str] | None = None) -> None:
        self.log, self.lines, self._said = log, list[str](), threading.Event()
        with log.open("ab") as written:
            self.process = subprocess.Popen(
                [sys.executable, *(program or [CLI]), *arguments],
                stdout=subprocess.PIPE,
                stderr=written,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.strip())
            self._said.set()
        self._said.set()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def address(self) -> str:
        """Waits for it."""
        assert self._said.wait(START_LIMIT_S), self.told()
        assert self.lines, self.told()
        return self.lines[0].split()[-1]

    def kill(self) -> None:
        """End it at once, as a crash does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(20)

    def end(self) -> int:
        """Ask it to end, and see that it does."""
        self.process.terminate()
        try:
            code = self.process.wait(30)
        finally:
            if self.process.poll() is None:
                self.kill()
            self._reader.join(10)
            assert self.process.stdout is not None
            self.process.stdout.close()
        return code

    def told(self) -> str:
        return self.log.read_text(errors="replace")


class Nodes:
    """A scheduler and workers; all that still run are ended with the block."""

    def __init__(self, folder: Path, tls: Mapping[str, Path] | None = None) -> None:
        self.folder, self._nodes = folder, list[Node]()
        self._tls = [word for key, path in (tls or {}).items() for word in (f"--cluster-{key}", str(path))]
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Nodes:
        return self

    def __exit__(self, *_: object) -> None:
        for node in reversed(self._nodes):
            if node.process.poll() is None:
                node.kill()
            node._reader.join(10)
            node.process.stdout.close()

    def scheduler(self, port: int = 0) -> Node:
        return self._started(["scheduler", "--port", str(port), *self._tls], "scheduler")

    def worker(self, scheduler: str, root: Path | None = None, *further: str, program: list[str] | None = None) -> Node:
        named = ["--root", str(root)] if root is not None else []
        arguments = ["worker", scheduler, *named, "--device", "cpu", *self._tls, *further]
        return self._started(arguments, f"worker{len(self._nodes)}", program)

    def _started(self, arguments: list[str], name: str, program: list[str] | None = None) -> Node:
        node = Node(arguments, self.folder / f"{name}.log", program)
        self._nodes.append(node)
        return node


def until(is_so: Any, limit_s: float = 120.0) -> None:
    """Wait for what will come."""
    limit = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < limit, f"not within {limit_s} s"
        time.sleep(0.1)
