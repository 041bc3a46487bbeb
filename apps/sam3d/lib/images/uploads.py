"""Files that clients send along: temporary ones, which messages call by their users' names."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType

# What tempfile makes, and so what the server calls an upload, with all that its user's name had behind the first dot.
UPLOAD_NAME = re.compile(r"tmp[a-z0-9_]{8}(\..*)?", re.DOTALL)
UNNAMED = "the file sent along"
LONGEST = 120

# Names by the path of the temporary file; by none for whichever file a request has.
_sent_as: ContextVar[Mapping[Path | None, str]] = ContextVar("sent_as", default=MappingProxyType({}))


@contextmanager
def uploaded_as(name: str | None, path: Path | None = None) -> Iterator[None]:
    """While a request is answered: what its client calls the file that it sent along, with or without a folder, and the
    path where it lies, if that is known."""
    token = _sent_as.set({**_sent_as.get(), path: re.split(r"[/\\]", name or "")[-1]})
    try:
        yield
    finally:
        _sent_as.reset(token)


def shown_name(path: Path) -> str:
    """What messages call a file: its name, and for a temporary one that of the user's file."""
    if not (UPLOAD_NAME.fullmatch(path.name) and path.parent == Path(tempfile.gettempdir())):
        return path.name
    names = _sent_as.get()
    name = names.get(path) or names.get(None) or ""
    return "".join(each for each in name if each.isprintable())[-LONGEST:] or UNNAMED
