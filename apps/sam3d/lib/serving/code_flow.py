"""A browser's login at an OpenID provider: the authorization code flow with PKCE (OpenID Connect Core 1.0, section 3.1;
RFC 7636). Tokens stay on this server; the browser gets a cookie that says nothing."""

from __future__ import annotations

import hmac
import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import requests
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.requests_client import OAuth2Session
from fastapi import HTTPException
from monailabel.config import settings as server_settings

from lib.infers.failures import answer
from lib.serving.browser_logins import LOGIN_S, BrowserLogins, digest
from lib.serving.openid_provider import OpenIdProvider, away
from lib.serving.visitors import Role, Visitor

logger = logging.getLogger(__name__)

SCOPE = "openid profile"
# So long somebody may take at the provider's page, with a password, a phone and a telephone call.
ATTEMPT_S = 1800
NEW_LOGIN = "open /login to begin anew"


@dataclass
class _Attempt:
    """A browser that was sent to the provider, with what only it and we know."""

    browser: bytes
    verifier: str
    nonce: str
    target: str
    callback: str


@dataclass
class _Tokens:
    """What a provider gave for one browser. `until`: seconds since 1970 for which it is believed without asking again;
    after that a refresh token gets new ones, and without one the login has ended."""

    visitor: Visitor
    subject: str
    id_token: str
    refresh_token: str | None
    until: float
    lock: threading.Lock = field(default_factory=threading.Lock)


class CodeFlow:
    """Sends browsers to the provider, takes them back, and knows them again by cookie."""

    def __init__(
        self,
        provider: OpenIdProvider,
        visitor_in: Callable[[list[dict[str, Any]]], Visitor],
        secret: str | None,
    ) -> None:
        self._provider, self._visitor_in, self._secret = provider, visitor_in, secret
        self._attempts: BrowserLogins[_Attempt] = BrowserLogins(ATTEMPT_S)
        self._browsers: BrowserLogins[_Tokens] = BrowserLogins(LOGIN_S)

    def begin(self, browser: str, target: str, callback: str) -> str:
        """The provider's address for a browser to log in, to come back to `callback` and go on to `target`.

        `browser` is a secret that the browser keeps meanwhile: nobody else can end what it began.
        """
        verifier, nonce = secrets.token_urlsafe(48), secrets.token_urlsafe(24)
        state = self._attempts.open(_Attempt(digest(browser), verifier, nonce, target, callback))
        with self._client(callback) as client:
            address, _ = client.create_authorization_url(
                self._provider.address("authorization_endpoint"), state=state, code_verifier=verifier, nonce=nonce
            )
        return str(address)

    def finish(self, browser: str, query: Mapping[str, str]) -> tuple[str, str]:
        """From the query that the provider sent a browser back with: the value of its cookie, and where it goes on.

        HTTPException 400 for what no login of this browser began with, 401 if the provider let nobody in, 403 for
        somebody without a role here, 503 without the provider.
        """
        attempt = self._attempts.close(query.get("state", ""))  # whatever comes of it: a state is good for one answer
        if attempt is None or not hmac.compare_digest(attempt.browser, digest(browser)):
            raise answer(400, f"no login of this browser began so, or it took over {ATTEMPT_S // 60} min: {NEW_LOGIN}")
        code = query.get("code")
        if "error" in query or not code:
            reason = query.get("error_description") or query.get("error") or "no code"
            raise answer(401, f"the OpenID provider let nobody in ({_plain(reason)}): {NEW_LOGIN}")
        given = self._ask(attempt.callback, "authorization_code", code=code, code_verifier=attempt.verifier)
        if given is None:
            raise answer(401, f"the OpenID provider does not know the code that it gave: {NEW_LOGIN}")
        tokens = self._tokens(given, attempt.nonce)
        if tokens is None:
            raise answer(401, f"the OpenID provider's ID token is not for this login: {NEW_LOGIN}")
        if tokens.visitor.role == Role.PUBLIC:
            raise answer(
                403,
                f"{tokens.visitor.name} has no role here: give them one of the roles of docs/admin.md at the provider, "
                f"in the claim {server_settings.MONAI_LABEL_AUTH_TOKEN_ROLES.replace('#', '.')}",
            )
        return self._browsers.open(tokens), attempt.target

    def visitor(self, cookie: str) -> Visitor | None:
        """Whose cookie it is; None if nobody's, or if the provider does not let them in any more."""
        tokens = self._browsers.find(cookie)
        if tokens is None:
            return None
        with tokens.lock:
            if tokens.until > time.time() or self._refresh(tokens):
                return tokens.visitor
        self._browsers.close(cookie)
        return None

    def close(self, cookie: str, back: str) -> str | None:
        """From now on the cookie opens nothing. Where the browser logs out of the provider too, to come `back`; None
        for a provider without such a page (OpenID Connect RP-Initiated Logout 1.0)."""
        tokens = self._browsers.close(cookie)
        try:
            address = self._provider.address_if_any("end_session_endpoint")
        except HTTPException:
            return None  # it is away, and the login here has ended
        if tokens is None or address is None:
            return None
        client = self._provider.audience
        told = {"id_token_hint": tokens.id_token, "client_id": client, "post_logout_redirect_uri": back}
        return f"{address}?{urlencode(told)}"

    def _refresh(self, tokens: _Tokens) -> bool:
        """Whether the provider still lets somebody in; then the tokens are new ones."""
        if tokens.refresh_token is None:
            return False
        given = self._ask("", "refresh_token", refresh_token=tokens.refresh_token)
        fresh = None if given is None else self._tokens(given)
        if fresh is None or fresh.subject != tokens.subject or fresh.visitor.role == Role.PUBLIC:
            return False
        tokens.visitor, tokens.until = fresh.visitor, fresh.until
        tokens.id_token = fresh.id_token or tokens.id_token
        tokens.refresh_token = fresh.refresh_token or tokens.refresh_token  # some providers give a new one each time
        return True

    def _tokens(self, given: Mapping[str, Any], nonce: str | None = None) -> _Tokens | None:
        """What to remember of a provider's answer; None if it tells of nobody that is believed.

        Roles are read from the access token too, where that is meant for us: some providers name them only there. Only
        a refresh may come without an ID token.
        """
        id_token = str(given.get("id_token") or "")
        told = self._provider.claims_of(id_token) if id_token else None
        if nonce is not None and (told is None or not hmac.compare_digest(str(told.get("nonce")), nonce)):
            return None
        access_token = str(given.get("access_token") or "")
        claims = [each for each in (told, self._provider.claims_of(access_token)) if each]
        if not claims or any(each["sub"] != claims[0]["sub"] for each in claims):
            return None
        refresh_token = given.get("refresh_token")
        return _Tokens(
            self._visitor_in(claims),
            str(claims[0]["sub"]),
            id_token,
            str(refresh_token) if refresh_token else None,
            min(float(each["exp"]) for each in claims),
        )

    def _ask(self, callback: str, grant: str, **sent: str) -> Mapping[str, Any] | None:
        """What the token endpoint gives; None if it refuses, HTTPException 503 if it does not answer."""
        address = self._provider.address("token_endpoint")
        try:
            with self._client(callback) as client:
                limits = {"timeout": server_settings.MONAI_LABEL_AUTH_TIMEOUT, "allow_redirects": False}
                if grant == "refresh_token":
                    return dict(client.refresh_token(address, **sent, **limits))
                return dict(client.fetch_token(address, grant_type=grant, **sent, **limits))
        except AuthlibBaseError as error:
            logger.warning("the OpenID provider refused a %s: %s", grant, _plain(str(error.error)))
            return None
        except (requests.RequestException, ValueError) as error:
            raise away(error) from error

    def _client(self, callback: str) -> OAuth2Session:
        return OAuth2Session(
            self._provider.audience,
            self._secret,
            token_endpoint_auth_method=self._way_to_show_the_secret(),
            scope=SCOPE,
            redirect_uri=callback or None,
            code_challenge_method="S256",
        )

    def _way_to_show_the_secret(self) -> str:
        if self._secret is None:
            return "none"
        # In the body it is taken as it is; not all agree on how a header spells its signs (RFC 6749, section 2.3.1).
        ways = self._provider.said().get("token_endpoint_auth_methods_supported")
        return (
            "client_secret_post" if isinstance(ways, list) and "client_secret_post" in ways else "client_secret_basic"
        )


def _plain(text: str) -> str:
    """Words of a stranger, to be shown."""
    return "".join(letter for letter in text if letter.isprintable())[:120]
