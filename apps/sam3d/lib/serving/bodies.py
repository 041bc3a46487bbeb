"""The body of a request: no longer than its route takes, and given up when it stops coming.

The server that MONAI Label runs in reads bodies of any length, and waits for the rest of one without a limit.
"""

from __future__ import annotations

import asyncio
import time

from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.types import Message, Receive

from lib.infers.failures import answer

# For each piece of a body, not for all of it: a large image may take its time on a slow line.
BODY_WAIT_S = 60.0
# But not for ever, piece by piece: a body that comes slower than this is given up as well.
SLOWEST_BYTES_S = 1024


def bounded(receive: Receive, headers: Headers, limit_bytes: int, way_out: str) -> Receive:
    """The body of a request, no more than `limit_bytes` of it; HTTPException 413 at once if it declares more, and for
    the reader as soon as more has come, or 408 when it stops coming."""
    declared = headers.get("content-length", "0")
    if not declared.isdecimal() or len(declared) > 18 or int(declared) > limit_bytes:
        raise _too_long(limit_bytes, way_out)
    is_whole, n_bytes, begin = False, 0, time.monotonic()

    async def receive_some() -> Message:
        nonlocal is_whole, n_bytes
        if is_whole:  # what comes now is that the client has gone, and that may take any time
            return await receive()
        left_s = BODY_WAIT_S + n_bytes / SLOWEST_BYTES_S - (time.monotonic() - begin)
        try:
            message = await asyncio.wait_for(receive(), max(0.0, min(BODY_WAIT_S, left_s)))
        except asyncio.TimeoutError:
            raise answer(
                408,
                f"nothing of the request came for {BODY_WAIT_S:g} s, and it is not whole: send it again",
                {"Connection": "close"},
            ) from None
        n_bytes += len(message.get("body", b""))
        if n_bytes > limit_bytes:
            raise _too_long(limit_bytes, way_out)
        is_whole = not message.get("more_body", False)
        return message

    return receive_some


async def whole(receive: Receive) -> bytes:
    """All of a body; HTTPException 499 if the client goes away before it is whole."""
    pieces, is_whole = [], False
    while not is_whole:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise HTTPException(499, "the client went away while it sent its request")
        pieces.append(message.get("body", b""))
        is_whole = not message.get("more_body", False)
    return b"".join(pieces)


def again(body: bytes, receive: Receive) -> Receive:
    """A body that was read, for somebody else to read; what comes behind it is `receive`'s."""
    is_given = False

    async def receive_again() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


def _too_long(limit_bytes: int, way_out: str) -> HTTPException:
    return answer(413, f"the request is longer than {limit_bytes} bytes: {way_out}", {"Connection": "close"})
