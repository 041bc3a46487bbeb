"""A MONAI Label server of its own process, started as a user starts it, and the folder of studies that it serves."""

from __future__ import annotations

import gzip
import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import requests
from requests_toolbelt.multipart.decoder import MultipartDecoder

APP = Path(__file__).parents[2] / "apps" / "sam3d"
START_LIMIT_S = 600.0
REQUEST_LIMIT_S = 300.0


@dataclass
class Reply:
    """One answer of /infer: the mask (I, J, K) and params where they were asked for, else status and detail."""

    status: int
    mask: np.ndarray | None = None
    params: dict[str, Any] = field(default_factory=dict)
    detail: str = ""
    content: bytes = b""


class Server:
    """`monailabel start_server` on a free loopback port, with a home and a folder for temporary files of its own.

    `file_limit` is the size in bytes above which the server's writes fail, as on a full disk.
    """

    def __init__(
        self,
        folder: Path,
        studies: Path | str,
        conf: Mapping[str, str] | None = None,
        file_limit: int | None = None,
        host: str = "127.0.0.1",
        token: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self.studies, self.conf, self.file_limit = folder, studies, conf or {}, file_limit
        self.host, self.environment = host, environment or {}
        self.temporary, self.log = folder / "tmp", folder / "server.log"
        self.http = requests.Session()
        self.http.trust_env = False
        if token:
            self.http.headers["Authorization"] = f"Bearer {token}"
        self.http.headers["Connection"] = "close"  # after a bare 500 the server drops the connection

    def __enter__(self) -> Server:
        for path in (self.temporary, self.folder / "home"):
            path.mkdir(parents=True)
        self.url = f"http://127.0.0.1:{_free_port()}"
        self.start()
        self._own_files = self._temporary_files()  # the server's logging leaves one, before the app is loaded
        return self

    def start(self) -> None:
        """Start the server, on the port that it had before, and wait for its first answer."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command(),
                cwd=self.folder,
                env=self._environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=self._limit_files,
            )
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise

    def kill(self) -> None:
        """End the server at once, as a crash does."""
        self.process.kill()
        self.process.wait(20)

    def __exit__(self, *_: object) -> None:
        self.http.close()
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(20)

    def _command(self) -> list[str]:
        script = str(Path(sys.executable).parent / "monailabel")
        port = self.url.rpartition(":")[2]
        conf = [word for key, value in self.conf.items() for word in ("--conf", key, value)]
        served = ["--app", str(APP), "--studies", str(self.studies)]
        return [script, "start_server", *served, "--host", self.host, "--port", port, *conf]

    def _environment(self) -> dict[str, str]:
        unreachable = "http://127.0.0.1:9"  # nothing listens there: whatever the server would fetch, it does not get
        return {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.temporary),
            "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            "http_proxy": unreachable,
            "https_proxy": unreachable,
            "no_proxy": "127.0.0.1,localhost",
            **self.environment,
        }

    def _limit_files(self) -> None:
        if self.file_limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.file_limit, self.file_limit))

    def _wait(self) -> None:
        limit = time.monotonic() + START_LIMIT_S
        while time.monotonic() < limit:
            if self.process.poll() is not None:
                raise AssertionError(f"the server stopped with {self.process.returncode}:\n{self.log_tail()}")
            try:
                if self.http.get(f"{self.url}/info/", timeout=5).status_code in (200, 401):  # or it wants a login
                    return
            except requests.RequestException:
                time.sleep(0.2)
        raise AssertionError(f"no /info/ within {START_LIMIT_S:.0f} s:\n{self.log_tail()}")

    def log_tail(self) -> str:
        """The last lines the server wrote."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-40:])

    def info(self) -> dict[str, Any]:
        """The answer of /info/."""
        return self.http.get(f"{self.url}/info/", timeout=REQUEST_LIMIT_S).json()

    def infer(
        self,
        params: Any = None,
        image: str = "case",
        model: str = "sam3d",
        output: str | None = None,
        query: Mapping[str, str] | None = None,
        files: Mapping[str, tuple[str, bytes]] | None = None,
    ) -> Reply:
        """POST /infer as the viewers do: multipart, `params` a JSON text (a str is sent as it is, None not at all)."""
        fields: dict[str, Any] = {name: (filename, data) for name, (filename, data) in (files or {}).items()}
        if params is not None:
            fields["params"] = (None, params if isinstance(params, str) else json.dumps(params))
        asked = {"image": image, **({"output": output} if output else {}), **(query or {})}
        response = self.http.post(
            f"{self.url}/infer/{requests.utils.quote(model, safe='')}",
            params=asked,
            files=fields or None,
            timeout=REQUEST_LIMIT_S,
        )
        return _read(response)

    def files_left(self, patience_s: float = 10.0) -> list[str]:
        """Temporary files still there after the server had time to clean up behind its last answer."""
        limit = time.monotonic() + patience_s
        while (left := sorted(set(self._temporary_files()) - set(self._own_files))) and time.monotonic() < limit:
            time.sleep(0.05)
        return left

    def _temporary_files(self) -> list[str]:
        return [str(path.relative_to(self.temporary)) for path in self.temporary.rglob("*") if path.is_file()]


Serve = Callable[..., Server]  # of studies, further settings and what else a Server takes


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _read(response: requests.Response) -> Reply:
    kind = response.headers.get("content-type", "")
    if response.status_code != 200:
        detail = response.json().get("detail", "") if "json" in kind else response.text
        return Reply(response.status_code, detail=detail if isinstance(detail, str) else json.dumps(detail))
    if kind.startswith("multipart/"):
        parts = MultipartDecoder.from_response(response).parts
        named = {part.headers[b"Content-Disposition"].split(b'name="')[1].split(b'"')[0]: part for part in parts}
        content = named[b"image"].content
        return Reply(200, read_mask(content), json.loads(named[b"params"].text), content=content)
    if "json" in kind:
        return Reply(200, params=response.json())
    return Reply(200, read_mask(response.content), content=response.content)


def read_mask(content: bytes) -> np.ndarray:
    """The array (I, J, K) of an NRRD or NIfTI file, read without the code that wrote it."""
    if not content.startswith(b"NRRD"):
        read = nibabel.Nifti1Image.from_bytes(_unzipped(content))
        return np.asarray(read.dataobj)
    head, _, voxels = content.partition(b"\n\n")
    fields = dict(line.split(": ", 1) for line in head.decode("ascii").splitlines() if ": " in line)
    assert fields["type"] == "unsigned char"
    shape = tuple(int(size) for size in fields["sizes"].split())
    raw = _unzipped(voxels) if fields["encoding"] == "gzip" else voxels
    return np.frombuffer(raw, dtype=np.uint8).reshape(shape, order="F")


def _unzipped(content: bytes) -> bytes:
    return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content


def write_study(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    """A NIfTI file whose header holds `affine` as it is."""
    image = nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine)
    nibabel.save(image, path)


# The clicks of the recorded payloads hit these: a tumor at (101, 88, 40) and a liver at (10, 10, 10).
CASE_SHAPE = (128, 112, 72)
TUMOR, LIVER = (101, 88, 40), (10, 10, 10)
SPACING_MM = (1.5, 1.5, 2.0)


def make_case() -> tuple[np.ndarray, np.ndarray]:
    """A CT-like volume (I, J, K) int16 with two bright balls in noisy soft tissue, and an oblique affine."""
    rng = np.random.default_rng(0)
    array = rng.normal(40.0, 12.0, CASE_SHAPE)
    where = np.stack(np.meshgrid(*(np.arange(n) for n in CASE_SHAPE), indexing="ij"), axis=-1)
    for centre, value in ((TUMOR, 140.0), (LIVER, 160.0)):
        distance_mm = np.linalg.norm((where - centre) * SPACING_MM, axis=-1)
        array[distance_mm < 14.0] += value - 40.0
    turn = np.array([[0.96, -0.28, 0.0], [0.28, 0.96, 0.0], [0.0, 0.0, 1.0]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-SPACING_MM[0], -SPACING_MM[1], SPACING_MM[2]])
    affine[:3, 3] = (90.0, 70.0, -300.0)
    return array.astype(np.int16), affine
