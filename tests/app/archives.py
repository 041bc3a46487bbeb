"""DICOMweb servers of their own processes, over folders that outlive them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import requests

from serving import APP

START_LIMIT_S = 60.0


class DemoArchive:
    """`cli.py dicomweb` over a folder, on a port that stays the same when it is stopped and started again."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.url = f"http://127.0.0.1:{port}/dicom-web"
        self.log = folder.with_name(f"{folder.name}.log")
        self.process: subprocess.Popen[bytes] | None = None
        self.http = requests.Session()
        self.http.trust_env = False

    def __enter__(self) -> DemoArchive:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.http.close()

    def start(self) -> None:
        """Start the server and wait for its first answer."""
        command = [sys.executable, str(APP / "cli.py"), "dicomweb", "--folder", str(self.folder)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port)],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        limit = time.monotonic() + START_LIMIT_S
        while time.monotonic() < limit:
            assert self.process.poll() is None, self.log.read_text()
            try:
                self.http.get(f"{self.url}/studies?limit=1", timeout=5)
                return
            except requests.RequestException:
                time.sleep(0.05)
        raise AssertionError(f"no answer within {START_LIMIT_S:.0f} s:\n{self.log.read_text()}")

    def kill(self) -> None:
        """End the server at once, as a crash does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(20)
            self.process = None
