"""Embeddings on disk, so that a case that is opened again is not encoded again, even after a restart.

One safetensors file an embedding, named by what it depends on: whose weights, how they are used, which volume and
patch. Files of other weights are removed when a folder is opened, the longest unused ones when it is full.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from lib.network.sam3d import Embedding
from lib.network.weights import write_atomically

logger = logging.getLogger(__name__)

ENDING = ".embedding.safetensors"
NAME_LENGTH = 16
PARTS = ("feature", "fusion", "image")
# Said by a part's name: its channels are last in memory, though not by its shape.
CHANNELS_LAST = " (channels last)"


class EmbeddingFolder:
    """Thread-safe. `owner` is all that the embeddings depend on beside their own keys, as text."""

    def __init__(self, folder: Path, limit_bytes: int, owner: str) -> None:
        self._folder, self._limit_bytes, self._owner = folder, limit_bytes, _digest(owner)
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob(f"*{ENDING}"):
            if not path.name.startswith(self._owner):
                path.unlink(missing_ok=True)

    def get(self, key: object, make: Callable[[], Embedding]) -> Embedding:
        """The embedding in the key's file, or what `make` returns, which is then written; its errors pass through."""
        path = self._folder / f"{self._owner}-{_digest(repr(key))}{ENDING}"
        found = _read(path)
        if found is None:
            found = make()
            self._write(path, found)
        return found

    def _write(self, path: Path, embedding: Embedding) -> None:
        """A full disk costs the next opening its time, not this click its answer."""
        if embedding.nbytes > self._limit_bytes:
            return
        try:
            write_atomically(path, save(_packed(embedding)))
            with self._lock:
                self._remove_oldest()
        except OSError as error:
            logger.warning("an embedding was not kept in %s: %s", self._folder, error.strerror)

    def _remove_oldest(self) -> None:
        states = sorted(
            (path.stat().st_mtime_ns, path.stat().st_size, path) for path in self._folder.glob(f"*{ENDING}")
        )
        used = sum(size for _, size, _ in states)
        for _, size, path in states:
            if used <= self._limit_bytes:
                break
            path.unlink(missing_ok=True)
            used -= size


def _read(path: Path) -> Embedding | None:
    try:
        parts = load_file(path)
        os.utime(path)
        return _unpacked(parts)
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, KeyError) as error:
        logger.warning("%s cannot be used and is made again: %s", path.name, error)
        return None


def _packed(embedding: Embedding) -> dict[str, torch.Tensor]:
    parts = {}
    for name in PARTS:
        part: torch.Tensor = getattr(embedding, name).cpu()
        is_last = part.ndim == 5 and not part.is_contiguous()
        parts[name + CHANNELS_LAST * is_last] = (part.movedim(1, -1) if is_last else part).contiguous()
    return parts


def _unpacked(parts: dict[str, torch.Tensor]) -> Embedding:
    found = {
        name.removesuffix(CHANNELS_LAST): part.movedim(-1, 1) if name.endswith(CHANNELS_LAST) else part
        for name, part in parts.items()
    }
    return Embedding(**{name: found[name] for name in PARTS})


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:NAME_LENGTH]
