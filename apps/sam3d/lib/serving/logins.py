"""How visitors are known: by one token for all, as a bearer or by the cookie of the login page; or not at all."""

from __future__ import annotations

import hmac

from starlette.requests import HTTPConnection

from lib.serving.browser_logins import COOKIE, BrowserLogins, digest
from lib.serving.visitors import ANYBODY, Role, Visitor

HOLDER = Visitor("holder of the token", Role.ADMIN)


class NoLogin:
    """Whoever reaches the server may do everything."""

    is_asked_for = False

    async def visitor(self, connection: HTTPConnection) -> Visitor:
        return ANYBODY


class TokenLogin:
    """Whoever has the token of a file may do everything; a cookie stands for it in a browser."""

    is_asked_for = True

    def __init__(self, token: str) -> None:
        self._token = digest(token)
        self._browsers: BrowserLogins[Visitor] = BrowserLogins()

    async def visitor(self, connection: HTTPConnection) -> Visitor | None:
        """None for somebody with no token, or with another one."""
        authorization = connection.headers.get("authorization")
        if authorization is not None:
            scheme, _, token = authorization.partition(" ")
            return HOLDER if scheme.lower() == "bearer" and self.is_right(token.strip()) else None
        return self._browsers.find(connection.cookies.get(COOKIE, ""))

    def is_right(self, token: str) -> bool:
        """Whether this is the token, found out in a time that does not tell how much of it is right."""
        return hmac.compare_digest(digest(token), self._token)

    def open(self) -> str:
        """A new cookie's value."""
        return self._browsers.open(HOLDER)

    def close(self, value: str) -> None:
        """From now on the cookie opens nothing."""
        self._browsers.close(value)
