"""Visitors known by an OpenID provider: what MONAI_LABEL_AUTH_ENABLE and its like ask for.

Scripts and Slicer bring a token. A browser is sent to the provider and comes back with a code, for which the server
gets tokens and keeps them; the browser gets a cookie (`code_flow`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import requests
from monailabel.config import settings as server_settings
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from lib.infers.failures import answer
from lib.serving.browser_logins import COOKIE
from lib.serving.code_flow import CodeFlow
from lib.serving.openid_provider import OpenIdProvider, away
from lib.serving.visitors import Role, Visitor


class OpenIdLogin:
    """Believes the tokens of a provider: a bearer's own, or those that are kept for a browser."""

    is_asked_for = True

    def __init__(self, provider: OpenIdProvider, secret: str | None = None) -> None:
        self._provider = provider
        self.flow = CodeFlow(provider, visitor_in, secret)

    async def visitor(self, connection: HTTPConnection) -> Visitor | None:
        """None for somebody with no token, or with one that is not believed; HTTPException 503 without the provider."""
        authorization = connection.headers.get("authorization")
        if authorization is None:
            return await run_in_threadpool(self.flow.visitor, connection.cookies.get(COOKIE, ""))
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            return None
        claims = await run_in_threadpool(self._provider.claims_of, token.strip())
        return visitor_in([claims]) if claims else None

    def token_for(self, name: str, password: str) -> dict[str, Any]:
        """Slicer's way to a token: the provider's own answer. HTTPException 401 if it refuses."""
        data = {"client_id": self._provider.audience, "username": name, "password": password, "grant_type": "password"}
        limit_s = server_settings.MONAI_LABEL_AUTH_TIMEOUT
        try:
            reply = requests.post(
                self._provider.address("token_endpoint"), data=data, timeout=limit_s, allow_redirects=False
            )
            given = reply.json() if reply.ok else {}
        except (requests.RequestException, ValueError) as error:
            raise away(error) from error
        if not isinstance(given, dict) or not given.get("access_token"):
            raise answer(401, "the OpenID provider does not know this name and password")
        return {"access_token": str(given["access_token"]), "token_type": "Bearer"}


def visitor_in(tokens: list[dict[str, Any]]) -> Visitor:
    """The visitor that the claims of one or more tokens of one person tell of, with the highest role in them."""
    name = tokens[0].get(server_settings.MONAI_LABEL_AUTH_TOKEN_USERNAME) or tokens[0]["sub"]
    return Visitor(str(name)[:80], max(map(role_in, tokens)), is_one_person=True)


def role_in(claims: Mapping[str, Any]) -> Role:
    """The highest of the roles that a token names; none of them is no role at all."""
    named: Any = claims
    for step in server_settings.MONAI_LABEL_AUTH_TOKEN_ROLES.split("#"):
        named = named.get(step) if isinstance(named, Mapping) else None
    roles = {
        server_settings.MONAI_LABEL_AUTH_ROLE_USER: Role.USER,
        server_settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR: Role.ANNOTATOR,
        server_settings.MONAI_LABEL_AUTH_ROLE_REVIEWER: Role.REVIEWER,
        server_settings.MONAI_LABEL_AUTH_ROLE_ADMIN: Role.ADMIN,
    }
    listed = [each for each in named if isinstance(each, str)] if isinstance(named, list) else []
    return max((roles[each] for each in listed if each in roles), default=Role.PUBLIC)
