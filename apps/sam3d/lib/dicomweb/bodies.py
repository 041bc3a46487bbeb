"""multipart/related bodies: made from files one at a time, and taken apart into files while they come in."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from tempfile import mkstemp
from typing import BinaryIO
from uuid import uuid4

from python_multipart import MultipartParser

from lib.dicomweb.archive import INCOMING

BOUNDARY = re.compile(r'boundary=("[^"]+"|[^;,\s]+)', re.IGNORECASE)


class PartWriter:
    """Writes each part of a body to a file of its own in a folder, and hands the file over when the part is complete.

    A part that did not come in whole leaves nothing behind. What `receive` leaves where it is, is deleted.
    """

    def __init__(self, content_type: str, folder: Path, receive: Callable[[Path], None]) -> None:
        """ValueError if the content type names no boundary."""
        found = BOUNDARY.search(content_type)
        if found is None:
            raise ValueError(f"the content type is {content_type[:80]!r}, which names no boundary")
        self._folder, self._receive = folder, receive
        self._path: Path | None = None
        self._file: BinaryIO | None = None
        self._is_complete = False
        self._parser = MultipartParser(
            found[1].strip('"').encode(),
            {
                "on_part_begin": self._begin,
                "on_part_data": self._data,
                "on_part_end": self._end,
                "on_end": self._finish,
            },
        )

    def write(self, data: bytes) -> None:
        """Take the next bytes of the body; python_multipart.exceptions.MultipartParseError if they make no sense."""
        self._parser.write(data)

    def close(self) -> bool:
        """Whether the body ended as it should; the file of an unfinished part is deleted."""
        self._discard()
        return self._is_complete

    def _begin(self) -> None:
        handle, name = mkstemp(dir=self._folder, prefix=INCOMING)
        self._path, self._file = Path(name), os.fdopen(handle, "wb")

    def _data(self, data: bytes, start: int, end: int) -> None:
        assert self._file is not None, "a part has begun"
        self._file.write(data[start:end])

    def _end(self) -> None:
        assert self._file is not None, "a part has begun"
        assert self._path is not None, "a part has begun"
        self._file.close()
        try:
            self._receive(self._path)
        finally:
            self._discard()

    def _finish(self) -> None:
        self._is_complete = True

    def _discard(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        self._file = self._path = None


def multipart(parts: Iterable[bytes], kind: str, detail: str = "") -> tuple[str, Iterator[bytes]]:
    """The content type of a multipart/related body, and the body, made while it is read.

    `kind` is the media type of each part, `detail` what to add to it.
    """
    boundary = uuid4().hex

    def body() -> Iterator[bytes]:
        for part in parts:
            yield f"--{boundary}\r\nContent-Type: {kind}{detail}\r\n\r\n".encode()
            yield part
            yield b"\r\n"
        yield f"--{boundary}--\r\n".encode()

    return f'multipart/related; type="{kind}"; boundary={boundary}', body()
