"""The machine at the other end of a connection, and what the server left lying about when it started.

The server puts what a proxy's header says in place of the peer's address, for every request that comes from this
machine. Whether a request came from this machine can then no longer be told, so it is noted before.
"""

from __future__ import annotations

import gc
import logging
import tempfile
from ipaddress import ip_address
from pathlib import Path

import uvicorn
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

logger = logging.getLogger(__name__)

PEER = "sam3d.peer"
FORWARDING = ("x-forwarded-for", "x-forwarded-host", "forwarded", "x-real-ip", "via")


class PeerRecorder:
    """Around everything else: notes in the scope who is at the other end of the connection."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope[PEER] = scope.get("client")
        await self._app(scope, receive, send)


def running_server() -> uvicorn.Config | None:
    """The configuration of the server that runs this app. Nothing names it but the server itself."""
    return next((each for each in gc.get_objects() if type(each) is uvicorn.Config), None)


def record_peers(config: uvicorn.Config) -> None:
    """From the next connection on."""
    config.loaded_app = PeerRecorder(config.loaded_app)


def remove_log_configuration(config: uvicorn.Config) -> None:
    """MONAI Label writes how to log into a temporary file at each start, and leaves it. Several workers read it."""
    path = Path(config.log_config) if isinstance(config.log_config, str) else None
    if config.workers == 1 and path and path.parent == Path(tempfile.gettempdir()) and path.name.startswith("tmp"):
        path.unlink(missing_ok=True)


def is_this_machine(scope: Scope) -> bool:
    """Whether the connection came from this machine: over its loopback interface."""
    peer = scope.get(PEER, scope.get("client"))
    try:
        address = ip_address(peer[0]) if peer else None
    except ValueError:
        return False
    if address is None:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def is_forwarded(scope: Scope) -> bool:
    """Whether a proxy says that it asks for somebody else."""
    headers = Headers(scope=scope)
    return any(name in headers for name in FORWARDING)
