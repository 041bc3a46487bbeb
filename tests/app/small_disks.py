"""A real file system that is soon full, or can be made read-only, for those who may mount one."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


@contextmanager
def small_disk(place: Path, mib: int) -> Iterator[Path]:
    """A file system of its own in a folder; skips, with the reason, where none may be mounted."""
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "sam3d-test", place], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"needs a user who may mount a tmpfs: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


@contextmanager
def full(place: Path, but_kib: int = 0) -> Iterator[None]:
    """A file that leaves so many KiB free while the enclosed lines run."""
    filler = place / ".filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    if but_kib:
        with filler.open("r+b") as file:
            file.truncate(max(0, filler.stat().st_size - but_kib * 1024))
    try:
        yield
    finally:
        filler.unlink()


@contextmanager
def read_only(place: Path) -> Iterator[None]:
    """Nothing can be written while the enclosed lines run."""
    subprocess.run(["mount", "-o", "remount,ro", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", place], check=True)
