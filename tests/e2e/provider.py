"""An OpenID provider of npm's, on a site of its own, and people who log in at it without a browser."""

from __future__ import annotations

import html
import json
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from urllib.parse import parse_qs, urljoin, urlsplit

import requests
from authlib.integrations.requests_client import OAuth2Session
from playwright._impl._driver import compute_driver_executable

FOLDER = Path(__file__).with_name("openid")
CLIENT_ID = "sam3d-lab"
START_LIMIT_S = 60.0


class Provider:
    """`oidc-provider` at `issuer`, for one client at `server`."""

    def __init__(self, folder: Path, issuer: str, server: str, token_s: int = 600, secret: str = "") -> None:
        self.folder, self.issuer = folder, issuer
        self._server, self._token_s, self._secret = server, token_s, secret
        self._accounts, self._log = folder / "accounts.json", folder / "provider.log"

    @staticmethod
    def is_installed() -> bool:
        return (FOLDER / "node_modules" / "oidc-provider").is_dir()

    def set_accounts(self, roles: Mapping[str, Sequence[str]]) -> None:
        """Who has an account from now on, and with which roles."""
        self._accounts.write_text(json.dumps({name: list(each) for name, each in roles.items()}))

    def log(self) -> str:
        return self._log.read_text()

    def __enter__(self) -> Provider:
        self.set_accounts({})
        node, _ = compute_driver_executable()
        told = [self.issuer, str(self._accounts), CLIENT_ID, self._server, str(self._token_s), self._secret]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen([node, str(FOLDER / "provider.js"), *told], stdout=log, stderr=log)
        limit = time.monotonic() + START_LIMIT_S
        while "listening" not in self.log():
            if time.monotonic() > limit or self._process.poll() is not None:
                raise AssertionError(f"the provider does not start:\n{self.log()}")
            time.sleep(0.1)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.terminate()
        self._process.wait(30)


class Person:
    """Somebody with a browser's cookies and patience, but no browser."""

    def __init__(self, server: str) -> None:
        self.server = server
        self.http = requests.Session()
        self.http.trust_env = False

    def get(self, path: str, method: str = "GET") -> requests.Response:
        """A request of a page of the server, not followed."""
        return self.http.request(method, f"{self.server}{path}", timeout=120, allow_redirects=False)

    def come_back(self, name: str, target: str = "/") -> str:
        """Log in at the provider; the address, not yet opened, by which it sends the browser back."""
        return self.follow(self.get(f"/login?next={target}"), name)

    def log_in(self, name: str, target: str = "/") -> requests.Response:
        """The same, and back: the server's answer."""
        return self.http.get(self.come_back(name, target), timeout=120, allow_redirects=False)

    def follow(self, reply: requests.Response, name: str) -> str:
        """Through the provider's pages, to the address by which it sends the browser back."""
        for _ in range(20):
            address = urljoin(reply.url, reply.headers.get("Location", reply.url))
            if address.startswith(f"{self.server}/login/callback"):
                return address
            if reply.is_redirect:
                reply = self.http.get(address, timeout=60, allow_redirects=False)
                continue
            form = re.search(r'<form[^>]* action="([^"]+)"', reply.text)
            prompt = re.search(r'name="prompt" value="(\w+)"', reply.text)
            if form is None or prompt is None:
                raise AssertionError(f"this is no page of the provider:\n{reply.text}")
            sent = {"prompt": prompt[1], "login": name, "password": "any"}
            reply = self.http.post(
                urljoin(reply.url, html.unescape(form[1])), data=sent, timeout=60, allow_redirects=False
            )
        raise AssertionError(f"the provider does not let {name} through")

    def bring_token(self, provider: Provider, name: str, client_id: str = CLIENT_ID) -> str:
        """An ID token, got from the provider by the same flow as the server's: for whoever brings tokens themselves."""
        asks = OAuth2Session(
            client_id,
            redirect_uri=f"{self.server}/login/callback",
            scope="openid profile",
            code_challenge_method="S256",
        )
        asks.trust_env = False
        verifier = "v" * 64
        address, _ = asks.create_authorization_url(f"{provider.issuer}/auth", code_verifier=verifier)
        back = self.follow(self.http.get(address, timeout=60, allow_redirects=False), name)
        code = parse_qs(urlsplit(back).query)["code"][0]
        given = asks.fetch_token(f"{provider.issuer}/token", code=code, code_verifier=verifier)
        return str(given["id_token"])
