"""Requests whose body stops coming: given up with a sentence, so that none keeps a connection or a file for ever.

The server that MONAI Label runs in waits for the rest of a body without a limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.types import Message, Receive

from lib.infers.failures import answer

# For each piece of a body, not for all of it: a large image may take its time on a slow line.
BODY_WAIT_S = 60.0


class TimedRoute(APIRoute):
    """A route that answers 408 when the next piece of the body has not come within `BODY_WAIT_S`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_in_time(request: Request) -> Response:
            return await handle(Request(request.scope, _timed(request.receive)))

        return handle_in_time


def _timed(receive: Receive) -> Receive:
    is_whole = False

    async def receive_in_time() -> Message:
        nonlocal is_whole
        if is_whole:  # what comes now is that the client has gone, and that may take any time
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), BODY_WAIT_S)
        except asyncio.TimeoutError:
            raise answer(
                408,
                f"nothing of the request came for {BODY_WAIT_S:g} s, and it is not whole: send it again",
                {"Connection": "close"},
            ) from None
        is_whole = not message.get("more_body", False)
        return message

    return receive_in_time
