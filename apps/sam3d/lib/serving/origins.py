"""Own pages, own names, and without a login this machine only: who is not answered at all.

A browser asks any server on behalf of any page that is open in it. The page's origin is told by the browser, and the
name by which the server was asked tells whether a page pretends that the server is its own (DNS rebinding).
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.types import Scope

from lib.infers.failures import answer
from lib.serving.peers import is_forwarded, is_this_machine

READING = frozenset({"GET", "HEAD", "OPTIONS"})
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
DEFAULT_PORTS = {"http": ":80", "https": ":443"}


class Frontier:
    """What must be so of a request before anything else is looked at.

    `is_open`: other machines are answered too, for there is a login, or none is wanted.
    """

    def __init__(self, hosts: Iterable[str], origins: Iterable[str], is_open: bool) -> None:
        self._named = frozenset(hosts)
        self._own = frozenset({*LOOPBACK, socket.gethostname().lower(), socket.getfqdn().lower()}) | self._named
        self._origins, self._is_open = frozenset(origins), is_open

    def check(self, scope: Scope) -> None:
        """HTTPException 403 for who is not answered, 400 for a request that does not say whom it asks."""
        headers = Headers(scope=scope)
        host = self._host(scope, headers)
        if not self._is_open:
            self._check_machine(scope, host)
        if host not in self._own and host != _address(scope):
            raise answer(
                403,
                f"this server is not called {host[:80]!r}: ask it by a name of its own, or start it with --conf "
                f"allowed_hosts {host[:80]}",
            )
        self._check_page(scope["method"], headers)

    def _check_machine(self, scope: Scope, host: str) -> None:
        if not is_this_machine(scope):
            raise answer(
                403,
                "this server has no login, so it answers its own machine only: start it with --conf access_token_file "
                "FILE, or with --conf allow_anonymous true if whoever reaches it may read and change everything",
            )
        if is_forwarded(scope) and host not in self._named:
            raise answer(
                403,
                "this server has no login, and a proxy asks for somebody else: start it with a login, or with --conf "
                "allowed_hosts NAME if the proxy, which must pass on the name, lets nobody in who may not",
            )

    def _host(self, scope: Scope, headers: Headers) -> str:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not hosts[0]:
            raise answer(400, "the request does not say whom it asks: send one Host header")
        return _without_port(hosts[0].lower())

    def _check_page(self, method: str, headers: Headers) -> None:
        """Refuse what a page of another origin asks. Slicer and scripts are none, and send none of these headers."""
        origins = headers.getlist("origin")
        if origins:
            if len(origins) == 1 and self.is_own(origins[0].lower(), headers["host"].lower()):
                return
            raise answer(
                403,
                f"a page of {origins[0][:80]!r} may not ask this server: start it with --conf allowed_origins "
                f"{origins[0][:80]} if it may",
            )
        site = headers.get("sec-fetch-site", "none")
        is_link = (
            method in READING
            and headers.get("sec-fetch-mode") == "navigate"
            and headers.get("sec-fetch-dest") not in ("object", "embed", "iframe", "frame")
        )
        if site not in ("same-origin", "none") and not is_link:
            raise answer(403, f"a page of another site ({site[:20]}) may not ask this server")

    def is_own(self, origin: str, host: str) -> bool:
        """Whether a page comes from this server, as it was asked, or from a named origin."""
        if origin in self._origins:
            return True
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        default = DEFAULT_PORTS.get(parts.scheme)
        if default is None or f"{parts.scheme}://{parts.netloc}" != origin:
            return False
        return parts.netloc.removesuffix(default) == host.removesuffix(default)


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


def _address(scope: Scope) -> str:
    """The address at which the connection came in, as a Host header has it: no name, which a page could point here."""
    server = scope.get("server")
    address = str(server[0]) if server else ""
    return f"[{address}]" if ":" in address else address


def refuse(error: HTTPException) -> tuple[int, dict[str, str], dict[str, str]]:
    """Status, body and headers of the answer to who is refused before any route."""
    return error.status_code, {"detail": str(error.detail)}, dict(error.headers or {})
