"""Bodies put together from compressed parts: what a client unpacks, and what zeros cost."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.serving import deflate
from lib.serving.deflate import deflated, is_accepted

MIB = 2**20


def with_holes(path: Path, size: int, pieces: dict[int, bytes]) -> bytes:
    """Writes a file of holes but for some pieces; returns its bytes."""
    content = bytearray(size)
    with path.open("wb") as file:
        for start, piece in pieces.items():
            file.seek(start)
            file.write(piece)
            content[start : start + len(piece)] = piece
        file.truncate(size)
    return bytes(content)


@pytest.mark.parametrize(
    "pieces",
    [{}, {0: b"first"}, {5 * MIB - 4: b"last"}, {3: b"a", MIB + 77: bytes(range(256)) * 50, 3 * MIB: bytes(9)}],
    ids=["nothing", "start", "end", "between"],
)
def test_a_client_unpacks_what_was_written(tmp_path: Path, pieces: dict[int, bytes]) -> None:
    content = with_holes(tmp_path / "file", 5 * MIB, pieces)
    body = deflated(b"head", tmp_path / "file", b"tail")
    assert zlib.decompress(body) == b"head" + content + b"tail"
    assert len(body) < 12_000  # a five-hundredth, and no more where something lies between


def test_holes_are_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read of a mask of 512 x 512 x 300, one part of it labelled, is that part."""
    with_holes(tmp_path / "file", 512 * 512 * 300, {512 * 512 * 150: b"label" * 1000})
    read, pread = [], deflate.os.pread

    def count(descriptor: int, size: int, place: int) -> bytes:
        read.append(size)
        return pread(descriptor, size, place)

    monkeypatch.setattr(deflate.os, "pread", count)
    body = deflated(b"", tmp_path / "file", b"")
    assert 5000 <= sum(read) <= 5000 + 2 * 4096
    assert len(body) < 100_000


def test_a_file_system_without_holes_costs_only_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = with_holes(tmp_path / "file", 2 * MIB, {MIB: b"x"})
    places = {deflate.os.SEEK_DATA: lambda place: place, deflate.os.SEEK_HOLE: lambda _: 2 * MIB}
    monkeypatch.setattr(deflate.os, "lseek", lambda _descriptor, place, kind: places[kind](place))
    assert zlib.decompress(deflated(b"", tmp_path / "file", b"")) == content


@given(st.lists(st.one_of(st.binary(max_size=300), st.integers(0, 3 * MIB)), max_size=6))
def test_any_order_of_parts_is_one_stream(parts: list[bytes | int]) -> None:
    stream = deflate._Stream()
    expected = b""
    for part in parts:
        if isinstance(part, int):
            stream.add_zeros(part)
            expected += bytes(part)
        else:
            stream.add(part)
            expected += part
    assert zlib.decompress(stream.end()) == expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("gzip, deflate, br", True),
        ("Deflate;q=0.5", True),
        ("gzip, deflate;q=0", False),
        ("gzip", False),
        ("", False),
        ("x-deflate", False),
    ],
)
def test_only_who_accepts_it_gets_it(header: str, expected: bool) -> None:
    assert is_accepted(header) == expected


def test_the_checksum_of_zeros_is_the_one_of_zlib() -> None:
    for count in (0, 1, 65520, 65521, 65522, 10**6):
        stream = deflate._Stream()
        stream.add(b"before")
        stream.add_zeros(count)
        assert stream._adler == zlib.adler32(b"before" + np.zeros(count, np.uint8).tobytes())
