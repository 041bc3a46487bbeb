"""SAM's official weights from their authors' server: resumed where a fetch was interrupted, checked before they count.

Only the `fetch-sam` command calls this; the app itself never goes online.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from lib.errors import WeightsError

CHUNK_BYTES = 2**20
SILENCE_LIMIT_S = 60.0

# Told how many bytes are there, and of how many (None where the server does not say).
Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class RemoteFile:
    """A file of a server, and the hash that proves it is the right one."""

    url: str
    sha256: str

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


_SAM = "https://dl.fbaipublicfiles.com/segment_anything"
SAM_WEIGHTS: Mapping[str, RemoteFile] = {
    "vit_b": RemoteFile(
        f"{_SAM}/sam_vit_b_01ec64.pth", "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"
    ),
    "vit_l": RemoteFile(
        f"{_SAM}/sam_vit_l_0b3195.pth", "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"
    ),
    "vit_h": RemoteFile(
        f"{_SAM}/sam_vit_h_4b8939.pth", "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"
    ),
}


def fetch(remote: RemoteFile, folder: Path, progress: Progress = lambda done, total: None) -> Path:
    """The file in `folder`, fetched unless it is there already. What has come so far is kept as `.part`.

    Raises WeightsError when the server cannot be reached, stops early or sends another file; the last is removed.
    """
    target = folder / remote.name
    if target.is_file():
        _check(target, remote)
        return target
    part = target.with_name(f"{target.name}.part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _download(remote, part, progress)
    except HTTPError as error:
        raise WeightsError(f"{remote.url} answers {error.code} {error.reason}: try again later") from error
    except OSError as error:
        reason = error.reason if isinstance(error, URLError) else error
        raise WeightsError(f"{remote.name} could not be fetched ({reason}): run the command again to go on") from error
    try:
        _check(part, remote)
    except WeightsError:
        part.unlink()
        raise
    part.replace(target)
    return target


def _download(remote: RemoteFile, part: Path, progress: Progress) -> None:
    """Bring `part` to its full length, from where it ends if the server can."""
    start = part.stat().st_size if part.exists() else 0
    request = Request(remote.url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with urlopen(request, timeout=SILENCE_LIMIT_S) as reply:
            has_resumed = reply.status == HTTPStatus.PARTIAL_CONTENT
            _receive(reply, part, start if has_resumed else 0, progress)
    except HTTPError as error:
        # Nothing lies beyond the end of a part that is complete.
        if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise


def _receive(reply: Any, part: Path, start: int, progress: Progress) -> None:
    length = reply.headers.get("Content-Length")
    total = start + int(length) if length else None
    done = start
    with part.open("ab" if start else "wb") as file:
        while chunk := reply.read(CHUNK_BYTES):
            file.write(chunk)
            done += len(chunk)
            progress(done, total)
    if total is not None and done < total:
        raise ConnectionError(f"the server stopped after {done} of {total} bytes")


def sha256_of(path: Path) -> str:
    """The hash of a file's bytes, in hexadecimal digits."""
    digest = sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _check(path: Path, remote: RemoteFile) -> None:
    found = sha256_of(path)
    if found != remote.sha256:
        raise WeightsError(
            f"{path.name} has sha256 {found[:12]} where {remote.sha256[:12]} was expected: "
            "it is damaged or another file; remove it if it is still there, and fetch it again"
        )
