"""A server of its own, and a client that clicks as a user who knows the truth would."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import requests
from numpy.typing import NDArray
from requests_toolbelt.multipart.decoder import MultipartDecoder

from lib.evaluation.metrics import dice
from lib.interactive.clicks import first_click, next_click
from support.cases import AnnotatedCase

APP = Path(__file__).parents[2] / "apps" / "sam3d"
LABEL = "lesion"
START_LIMIT_S, REQUEST_LIMIT_S = 300.0, 600.0


@dataclass
class Clicked:
    """What a client that clicks now and then met."""

    seconds: list[float] = field(default_factory=list)
    versions: set[str] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)


class Client:
    """Requests to a server; nothing is sent through a proxy."""

    def __init__(self, url: str, log: Path, process: subprocess.Popen[bytes]) -> None:
        self.url, self.log, self.process = url, log, process
        self.http = requests.Session()
        self.http.trust_env = False

    def get(self, path: str) -> Any:
        answer = self.http.get(f"{self.url}{path}", timeout=REQUEST_LIMIT_S)
        return answer.json() if answer.ok else None

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        answer = self.http.post(f"{self.url}{path}", json=body, timeout=REQUEST_LIMIT_S)
        answer.raise_for_status()
        return answer.json()

    def submit(self, image: str, label: Path) -> None:
        """Store a label file, as 3D Slicer does."""
        answer = self.http.put(
            f"{self.url}/datastore/label",
            params={"image": image, "tag": "final"},
            data={"params": json.dumps({"label_info": [{"name": LABEL, "idx": 1}]})},
            files={"label": (label.name, label.read_bytes())},
            timeout=REQUEST_LIMIT_S,
        )
        answer.raise_for_status()

    def click(self, image: str, foreground: list[Any], background: list[Any]) -> tuple[NDArray[np.bool_], str]:
        """The mask (I, J, K) for some clicks, and the version that made it; HTTPError if there is none."""
        asked = {LABEL: foreground, "background": background, "result_extension": ".nrrd", "result_dtype": "uint8"}
        answer = self.http.post(
            f"{self.url}/infer/sam3d",
            params={"image": image},
            files={"params": (None, json.dumps(asked))},
            timeout=REQUEST_LIMIT_S,
        )
        answer.raise_for_status()
        parts = {
            b"image" in part.headers[b"Content-Disposition"]: part
            for part in MultipartDecoder.from_response(answer).parts
        }
        return _mask(parts[True].content), str(json.loads(parts[False].text)["model_version"])

    def dices(self, case: AnnotatedCase, n_clicks: int = 5) -> list[float]:
        """Dice after each click: first in the middle of the target, then in the middle of the largest error."""
        truth, spacing = case.truth(), case.spacing()
        clicks: dict[bool, list[list[int]]] = {True: [list(first_click(truth, spacing))], False: []}
        scores: list[float] = []
        while len(scores) < n_clicks:
            mask, _ = self.click(case.name, clicks[True], clicks[False])
            scores.append(round(float(dice(mask, truth)), 4))
            more = next_click(truth, mask, spacing)
            if more is None:
                scores += scores[-1:] * (n_clicks - len(scores))
            else:
                clicks[more[1]].append(list(more[0]))
        return scores

    def train(self, **options: Any) -> dict[str, Any]:
        """Start a training run, wait for its end, and return what /train/ says."""
        self.post("/train/sam3d", options)
        while True:
            time.sleep(2.0)
            state: dict[str, Any] = self.get("/train/") or {}
            if state.get("status") not in ("SUBMITTED", "RUNNING"):
                return state

    def cpu_s_of_children(self) -> float:
        """Processor seconds of the server's sub-processes that have ended, training runs above all."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.children_user + times.children_system)

    @contextmanager
    def clicking(self, case: AnnotatedCase, every_s: float) -> Iterator[Clicked]:
        """Click on a case every so many seconds while the enclosed lines run."""
        found, is_over = Clicked(), threading.Event()
        at = list(first_click(case.truth(), case.spacing()))

        def run() -> None:
            while not is_over.wait(every_s):
                start = time.perf_counter()
                try:
                    found.versions.add(self.click(case.name, [at], [])[1])
                except requests.RequestException as error:
                    found.errors.append(str(error))
                found.seconds.append(round(time.perf_counter() - start, 2))

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield found
        finally:
            is_over.set()
            thread.join()


@contextmanager
def serving(folder: Path, studies: Path, conf: Mapping[str, str]) -> Iterator[Client]:
    """A server on a free loopback port, its model folder and log in `folder`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    values = {"labels": LABEL, "model_folder": str(folder / "model"), **conf}
    words = [word for key, value in values.items() for word in ("--conf", key, value)]
    command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(APP), "--studies", str(studies)]
    log = folder / "server.log"
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port), *words],
            env={**os.environ, "PATH": path},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    client = Client(f"http://127.0.0.1:{port}", log, process)
    try:
        _wait(client)
        yield client
    finally:
        process.terminate()
        process.wait(30)


def _wait(client: Client) -> None:
    limit = time.monotonic() + START_LIMIT_S
    while time.monotonic() < limit and client.process.poll() is None:
        try:
            if client.get("/info/") is not None:
                return
        except requests.RequestException:
            time.sleep(0.5)
    raise RuntimeError(f"the server did not start:\n{client.log.read_text()[-3000:]}")


def _mask(nrrd: bytes) -> NDArray[np.bool_]:
    """The array of a raw uint8 NRRD file."""
    head, _, voxels = nrrd.partition(b"\n\n")
    sizes = next(line for line in head.decode("ascii").splitlines() if line.startswith("sizes: "))
    shape = [int(size) for size in sizes.removeprefix("sizes: ").split()]
    return np.frombuffer(voxels, np.uint8).reshape(shape, order="F") > 0
