"""What must be the same on all machines of a cluster, so that each comes to the same results."""

from __future__ import annotations

import importlib.metadata
import platform
from functools import lru_cache
from hashlib import sha256

from lib.settings import APP

# The parts of an identity, as sentences name them.
NAMES = {"app": "code of sam3d", "torch": "torch", "python": "Python"}


@lru_cache(maxsize=1)
def identity() -> dict[str, str]:
    """Digest of the app's source, and the versions of torch and Python (without its patch level)."""
    digest = sha256()
    for path in sorted(APP.joinpath("lib").rglob("*.py")):
        digest.update(path.relative_to(APP).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return {
        "app": digest.hexdigest()[:12],
        # Builds for CPU and for CUDA may work side by side.
        "torch": importlib.metadata.version("torch").partition("+")[0],
        "python": ".".join(platform.python_version_tuple()[:2]),
    }


def difference(mine: dict[str, str], theirs: dict[str, str]) -> str:
    """How another machine differs from this one, in words; empty if it does not."""
    return ", ".join(
        f"{NAMES[part]} {mine.get(part)} here and {theirs.get(part)} there"
        for part in NAMES
        if mine.get(part) != theirs.get(part)
    )
