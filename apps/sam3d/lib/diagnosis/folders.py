"""Whether a folder takes files: tried, for permissions do not say it all."""

from __future__ import annotations

import tempfile
from pathlib import Path


def refusal_to_write(folder: Path) -> str:
    """Why no file can be made in a folder, or in what it would be made in; empty if one can."""
    place = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        return error.strerror or str(error)
    return ""
