"""Connections on which no request gets whole: closed, so that a few hundred of them do not use up all there is.

The server limits how long a connection is kept between requests, but waits without a limit for the rest of a head.
"""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn

HEAD_WAIT_S = 30.0


def limit_heads(config: uvicorn.Config) -> None:
    """From the next connection on, give up one whose request's head is not whole in time."""
    config.http_protocol_class = patient(config.http_protocol_class)


def patient(protocol: Any) -> type[asyncio.Protocol]:
    """A server's protocol that waits `HEAD_WAIT_S` for a head; `cycle` is its request in progress, if there is one."""

    class PatientProtocol(protocol):
        _waiting: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def _watch(self) -> None:
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop()
            elif self._waiting is None:
                self._waiting = asyncio.get_running_loop().call_later(HEAD_WAIT_S, self._give_up)

        def _stop(self) -> None:
            if self._waiting is not None:
                self._waiting.cancel()
                self._waiting = None

        def _give_up(self) -> None:
            self._waiting = None
            if (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing():
                self.transport.close()

    return PatientProtocol
