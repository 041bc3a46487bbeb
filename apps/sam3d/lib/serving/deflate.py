"""A body with long runs of zeros as HTTP's `deflate`, in time that depends on the rest alone.

The mask of a large CT is 80 MB of which nearly all is zero, and lies as holes in its file. A deflate stream may be put
together from parts that were compressed apart; those for zeros are made once. Checksums of zeros are a formula.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ENCODING = "deflate"
# Raw deflate, without a header. Masks are simple; and zeros, compressed once, may take their time.
LEVEL, ZEROS_LEVEL, RAW = 1, 9, -15
HEADER, EMPTY_END = b"\x78\x01", b"\x03\x00"
ADLER_MODULUS = 65521
LARGEST_RUN_BITS = 20


def is_accepted(accept_encoding: str) -> bool:
    """Whether a client's Accept-Encoding header names deflate, and not as what it refuses."""
    choices = [choice.replace(" ", "").lower() for choice in accept_encoding.split(",")]
    return any(choice.split(";")[0] == ENCODING and not choice.endswith((";q=0", ";q=0.0")) for choice in choices)


def deflated(head: bytes, file: Path, tail: bytes) -> bytes:
    """The zlib stream of head, the file's bytes, tail."""
    stream = _Stream()
    stream.add(head)
    for part in _parts(file):
        if isinstance(part, int):
            stream.add_zeros(part)
        else:
            stream.add(part)
    stream.add(tail)
    return stream.end()


class _Stream:
    """A zlib stream (RFC 1950) in the making."""

    def __init__(self) -> None:
        self._parts = [HEADER]
        self._compressor = zlib.compressobj(LEVEL, wbits=RAW)
        self._adler = 1

    def add(self, data: bytes) -> None:
        # A full flush ends on a whole byte and forgets what came before: any other part may follow.
        self._parts += [self._compressor.compress(data), self._compressor.flush(zlib.Z_FULL_FLUSH)]
        self._adler = zlib.adler32(data, self._adler)

    def add_zeros(self, count: int) -> None:
        low, high = self._adler & 0xFFFF, self._adler >> 16
        self._adler = (high + count * low) % ADLER_MODULUS << 16 | low
        self._parts += [_zeros(LARGEST_RUN_BITS)] * (count >> LARGEST_RUN_BITS)
        self._parts += [_zeros(bits) for bits in range(LARGEST_RUN_BITS) if count >> bits & 1]

    def end(self) -> bytes:
        return b"".join([*self._parts, EMPTY_END, self._adler.to_bytes(4, "big")])


@cache
def _zeros(bits: int) -> bytes:
    """2^bits zeros, compressed."""
    compressor = zlib.compressobj(ZEROS_LEVEL, wbits=RAW)
    return compressor.compress(bytes(1 << bits)) + compressor.flush(zlib.Z_FULL_FLUSH)


def _parts(path: Path) -> Iterator[bytes | int]:
    """What a file holds, in order: bytes where something was written, and the lengths of its holes. Where a file
    system knows no holes, all of it is bytes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        place = 0
        while place < size:
            start = _next_data(file.fileno(), place, size)
            if start > place:
                yield start - place
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE) if start < size else size
            yield os.pread(file.fileno(), end - start, start)
            place = end


def _next_data(descriptor: int, place: int, size: int) -> int:
    try:
        return os.lseek(descriptor, place, os.SEEK_DATA)
    except OSError:  # ENXIO: nothing but a hole up to the end
        return size
