"""The one gate that every request passes: its route, who asks, its body, and a line in the audit log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import urlencode

from fastapi import HTTPException
from starlette.datastructures import Headers, QueryParams
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lib.infers.failures import answer, as_answers
from lib.serving.audit import AuditLog, asked_for
from lib.serving.bodies import again, bounded, whole
from lib.serving.origins import Frontier
from lib.serving.served import Served, Takes, methods_of, served
from lib.serving.visitors import STRANGER, Role, Visitor
from lib.strict_json import read_object

JSON_LIMIT_BYTES = 4 * 2**20
WORDS_LIMIT_BYTES = 2**18
LOGIN_PAGE = "/login"
NOT_HERE = "whole slides, uploads of models and reloads are not served; /openapi.json lists what is"


class Login(Protocol):
    """How visitors are known."""

    async def visitor(self, connection: HTTPConnection) -> Visitor | None:
        """Who asks; None for somebody unknown."""


class Outside:
    """Refuses, before anything else, who is not answered at all."""

    def __init__(self, app: ASGIApp, frontier: Frontier) -> None:
        self._app, self._frontier = app, frontier

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["type"] == "websocket":
                raise answer(403, "no websocket is served here")
            if scope["type"] == "http":
                self._frontier.check(scope)
        except HTTPException as error:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                await _refusal(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)


class Gate:
    """Lets a request through to its route, if there is one that we serve, and its visitor may use it."""

    def __init__(self, app: ASGIApp, login: Login, audit: AuditLog, upload_limit_bytes: int, prefix: str = "") -> None:
        self._app, self._login, self._audit, self._prefix = app, login, audit, prefix
        self._limits = {
            Takes.NOTHING: (WORDS_LIMIT_BYTES, "this route takes no body"),
            Takes.WORDS: (WORDS_LIMIT_BYTES, "send less"),
            Takes.JSON: (JSON_LIMIT_BYTES, "send less"),
            Takes.FILES: (
                upload_limit_bytes,
                "send a smaller image, or start the server with a larger max_upload_mib",
            ),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", "")).removeprefix(self._prefix)
        parts: dict[str, Any] = {}
        visitor, route, status = STRANGER, None, 500
        refusal: Response | None = None
        try:
            found = served(scope["method"], path)
            if found is None:
                await _closed(scope["method"], path)(scope, receive, send)
                return
            route, parts = found
            visitor = await self._known(scope, route)
            if route.role > visitor.role:
                raise _too_small(visitor, route)
            scope.setdefault("state", {})["visitor"] = visitor
            limit, way_out = self._limits[route.takes]
            body = bounded(receive, Headers(scope=scope), limit, way_out)
            if route.takes is Takes.JSON:
                body = await _strict(body)

            async def send_noted(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = int(message["status"])
                await send(message)

            await self._app(scope, body, send_noted)
        except HTTPException as error:
            status = error.status_code
            refusal = _refusal(error, scope)
        finally:
            if route is not None:
                self._note(scope, route, visitor, parts, status)
        if refusal is not None:  # after its line is in the log
            await refusal(scope, receive, send)

    async def _known(self, scope: Scope, route: Served) -> Visitor:
        """Who asks; HTTPException 401 for a stranger at a route that is not for everybody."""
        if route.role == Role.PUBLIC:
            return STRANGER
        visitor = await self._login.visitor(HTTPConnection(scope))
        if visitor is None:
            raise answer(401, "log in first, at /login, or send a bearer token", {"WWW-Authenticate": "Bearer"})
        return visitor

    def _note(self, scope: Scope, route: Served, visitor: Visitor, parts: Mapping[str, Any], status: int) -> None:
        client = scope.get("client")
        told: Mapping[str, str] = scope.get("state", {}).get("told", {})
        asked = {**asked_for(parts, QueryParams(scope["query_string"])), **told}
        self._audit.note(route, visitor, str(client[0]) if client else "", asked, status)


def _too_small(visitor: Visitor, route: Served) -> HTTPException:
    return answer(
        403, f"{visitor.name[:80]} is a {visitor.role.name.lower()}, and this takes a {route.role.name.lower()}"
    )


def tell(connection: HTTPConnection, **names: str) -> None:
    """For a route: what the audit log is to say beside what the address says."""
    connection.state.told = {**getattr(connection.state, "told", {}), **names}


async def _strict(receive: Receive) -> Receive:
    """A body of JSON that was read strictly, for a route that reads it again."""
    body = await whole(receive)
    if body.strip() not in (b"", b"null"):
        with as_answers():
            read_object(body, "the body")
    return again(body, receive)


def _closed(method: str, path: str) -> Response:
    """The answer for what is not served."""
    methods = methods_of(path)
    if methods:
        error = answer(405, f"{method[:20]} is not what can be done here, but {methods}", {"Allow": ", ".join(methods)})
        return _refusal(error)
    if method in ("GET", "HEAD") and methods_of(f"{path}/"):
        return RedirectResponse(f"{path.rpartition('/')[2]}/", 307)
    return _refusal(answer(404, f"there is no {method[:20]} {path[:80]} here: {NOT_HERE}"))


def _refusal(error: HTTPException, scope: Scope | None = None) -> Response:
    """The sentence; for somebody who is not logged in and opens a page, the way to the login."""
    if scope is not None and error.status_code == 401 and scope["method"] == "GET":
        headers = Headers(scope=scope)
        is_page = headers.get("sec-fetch-mode", "navigate") == "navigate" and "text/html" in headers.get("accept", "")
        if is_page:
            return RedirectResponse(f"{LOGIN_PAGE}?{_next_of(scope)}", 303)
    return JSONResponse({"detail": error.detail}, error.status_code, dict(error.headers or {}))


def _next_of(scope: Scope) -> str:
    query = scope["query_string"].decode("latin-1")
    return urlencode({"next": scope["path"] + (f"?{query}" if query else "")})
