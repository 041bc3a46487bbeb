"""An OpenID provider: what it says of itself, its keys, and which tokens are its own (OpenID Connect Core 1.0).

The stock check names no algorithm, so that its own library refuses every token, and asks for no audience.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

import jwt
import requests
from fastapi import HTTPException
from monailabel.config import settings as server_settings

from lib.infers.failures import answer

logger = logging.getLogger(__name__)

# Of key pairs only: with a shared secret, a provider's public key would be one.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
CLAIMS = ("exp", "iss", "aud", "sub")
CLOCKS_APART_S = 30
# How long keys are believed, and how soon after that a token by an unknown one has them fetched anew.
KEYS_S, KEYS_ANEW_S = 300, 5
DISCOVERY = "/.well-known/openid-configuration"


class OpenIdProvider:
    """Believes tokens of `issuer` that are meant for `audience`."""

    def __init__(self, issuer: str, audience: str) -> None:
        self.audience = audience
        self._issuer = issuer.rstrip("/")
        self._lock = threading.Lock()
        self._said: dict[str, Any] | None = None
        self._keys: jwt.PyJWKClient | None = None

    def claims_of(self, token: str) -> dict[str, Any] | None:
        """What a token tells; None for one that is not believed. HTTPException 503 without the provider."""
        try:
            key = self._key_client().get_signing_key_from_jwt(token)
            return jwt.decode(
                token,
                key,
                algorithms=list(ALGORITHMS),
                audience=self.audience,
                issuer=self._issuer,
                leeway=CLOCKS_APART_S,
                options={"require": list(CLAIMS)},
            )
        except jwt.PyJWKClientConnectionError as error:
            raise away(error) from error
        except jwt.PyJWTError as error:
            logger.warning("a token was not believed: %s", type(error).__name__)
            return None

    def address(self, name: str) -> str:
        """The address that the provider gives under a name; HTTPException 503 if it gives none."""
        found = self.address_if_any(name)
        if found is None:
            raise away(KeyError(name))
        return found

    def address_if_any(self, name: str) -> str | None:
        """The same for what not every provider has."""
        address = self.said().get(name)
        return address if isinstance(address, str) and address.startswith(("http://", "https://")) else None

    def said(self) -> dict[str, Any]:
        """What the provider says of itself, asked once; HTTPException 503 without the provider."""
        with self._lock:
            said = self._said
        if said is None:
            try:
                reply = requests.get(
                    f"{self._issuer}{DISCOVERY}",
                    timeout=server_settings.MONAI_LABEL_AUTH_TIMEOUT,
                    allow_redirects=False,
                )
                reply.raise_for_status()
                said = dict(reply.json())
            except (requests.RequestException, ValueError, TypeError) as error:
                raise away(error) from error
            with self._lock:
                self._said = said
        return said

    def _key_client(self) -> jwt.PyJWKClient:
        with self._lock:
            if self._keys is not None:
                return self._keys
        address = self.address("jwks_uri")
        with self._lock:
            limit_s = server_settings.MONAI_LABEL_AUTH_TIMEOUT
            self._keys = self._keys or jwt.PyJWKClient(
                address, lifespan=KEYS_S, cooldown_duration=KEYS_ANEW_S, timeout=limit_s
            )
            return self._keys


def away(error: Exception) -> HTTPException:
    """The answer without the provider."""
    return answer(503, f"the OpenID provider does not answer as it should ({type(error).__name__}): try again later")
