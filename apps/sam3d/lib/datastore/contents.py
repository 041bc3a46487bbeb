"""What names the content of files: a digest, read once and kept for as long as the files stay as they are."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from lib.network.weights import write_atomically

logger = logging.getLogger(__name__)

# Two writings within this time may leave the same times behind, on file systems that count in seconds.
COARSE_S = 2.0
BLOCK_BYTES, SAMPLE_BYTES = 2**20, 2**16

# Size, and times of the last change of content and of name in ns: of each file.
State = tuple[tuple[int, int, int], ...]


class Content(NamedTuple):
    """What a label was drawn on: the digest of an image's files, their size together, the name of the first, and the
    digest of a sample of their bytes, by which most others are told apart without reading them."""

    digest: str
    n_bytes: int
    name: str
    sample: str


class _Kept(NamedTuple):
    state: State
    sample: str = ""
    digest: str = ""


def state_of(files: Sequence[Path]) -> State:
    """What changes when one of the files does; OSError if one is not there."""
    found = [path.stat() for path in files]
    return tuple((each.st_size, each.st_mtime_ns, each.st_ctime_ns) for each in found)


def size_of(state: State) -> int:
    """Bytes of all files together."""
    return sum(size for size, _, _ in state)


class Digests:
    """The digests of files by name, kept in a JSON file at `path`; for several threads.

    `n_read` counts how often files were read to their end for one: once, while size and times stay the same.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._kept: dict[str, _Kept] = _read(path)
        self._is_saved = True
        self.n_read = 0

    def of(self, name: str, files: Sequence[Path]) -> str:
        """sha256 of the files' bytes one after the other; OSError if one cannot be read."""
        return self._found(name, files, "digest", self._whole)

    def sample(self, name: str, files: Sequence[Path]) -> str:
        """sha256 of some of the files' bytes: files that differ in it differ, which takes no long reading."""
        return self._found(name, files, "sample", sample_of)

    def known(self, name: str, files: Sequence[Path]) -> str:
        """As `of`, but empty where the files would have to be read."""
        with self._lock:
            kept = self._kept.get(name)
        return kept.digest if kept is not None and kept.state == state_of(files) else ""

    def _whole(self, files: Sequence[Path]) -> str:
        with self._lock:
            self.n_read += 1
        return digest_of(files)

    def _found(self, name: str, files: Sequence[Path], field: str, make: Callable[[Sequence[Path]], str]) -> str:
        state = state_of(files)
        with self._lock:
            kept = self._kept.get(name)
        if kept is not None and kept.state == state and (known := str(getattr(kept, field))):
            return known
        asked = time.time()
        made = make(files)
        with self._lock:
            if state_of(files) == state and is_settled(state, asked):
                kept = self._kept.get(name)
                before = kept if kept is not None and kept.state == state else _Kept(state)
                self._kept[name] = before._replace(sample=made) if field == "sample" else before._replace(digest=made)
                self._is_saved = False
            else:
                self._kept.pop(name, None)
        return made

    def save(self) -> None:
        """Write down what is new, for the next start."""
        with self._lock:
            if self._is_saved:
                return
            content = json.dumps(self._kept)
            self._is_saved = True
        write_atomically(self._path, content.encode())

    def forget(self, names: set[str]) -> None:
        """Keep nothing but these names."""
        with self._lock:
            kept = {name: each for name, each in self._kept.items() if name in names}
            self._is_saved = self._is_saved and len(kept) == len(self._kept)
            self._kept = kept


def digest_of(files: Sequence[Path]) -> str:
    """sha256 of the bytes of files, one after the other."""
    read = sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                read.update(block)
    return read.hexdigest()


def sample_of(files: Sequence[Path]) -> str:
    """sha256 of the sizes and of a block at the start, the middle and the end of each file."""
    read = sha256()
    for path in files:
        size = path.stat().st_size
        read.update(f"{size} ".encode())
        with path.open("rb") as file:
            for start in (0, size // 2, max(0, size - SAMPLE_BYTES)):
                file.seek(start)
                read.update(file.read(SAMPLE_BYTES))
    return read.hexdigest()


def is_settled(state: State, now: float) -> bool:
    """Whether another writing would show in the times."""
    return all(abs(now - changed / 1e9) > COARSE_S for _, *times in state for changed in times)


def _read(path: Path) -> dict[str, _Kept]:
    """What was kept; nothing, logged, where that cannot be read, for it can all be made again."""
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {name: _Kept(_state(state), *map(str, digests)) for name, (state, *digests) in stored.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        logger.warning("%s cannot be read, so images are read once more: %s", path.name, error)
        return {}


def _state(stored: Any) -> State:
    return tuple((int(size), int(written), int(named)) for size, written, named in stored)
