"""Tokens of an OpenID provider: every route, by every kind of token that there should not be, and by each role.

The provider is a small HTTP server with a key pair of its own, which it changes as providers do.
"""

from __future__ import annotations

import base64
import hmac
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import jwt
import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from lib.serving.openid_provider import OpenIdProvider
from lib.serving.served import ROUTES
from lib.serving.visitors import Role
from served_paths import path_for
from serving import Server, make_case, write_study

pytestmark = pytest.mark.app

AUDIENCE = "sam3d-lab"


class Provider:
    """Discovery, keys and a token endpoint on loopback."""

    def __init__(self) -> None:
        self.keys: dict[str, rsa.RSAPrivateKey] = {}
        self.add_key("first")
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._say(200, provider.document(self.path))

            def do_POST(self) -> None:
                sent = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                is_known = (sent["username"], sent["password"]) == (["anna"], ["secret"])
                self._say(200, {"access_token": provider.token("annotator")}) if is_known else self._say(401, {})

            def _say(self, status: int, content: Any) -> None:
                body = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self.http.server_port}/realms/lab"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def add_key(self, name: str) -> None:
        self.keys = {name: rsa.generate_private_key(public_exponent=65537, key_size=2048)}

    def document(self, path: str) -> Any:
        if path.endswith("/keys"):
            told = [jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True) for key in self.keys.values()]
            return {"keys": [{**each, "kid": name, "use": "sig"} for each, name in zip(told, self.keys, strict=True)]}
        return {"issuer": self.issuer, "jwks_uri": f"{self.issuer}/keys", "token_endpoint": f"{self.issuer}/token"}

    def token(self, *roles: str, algorithm: str = "RS256", key: Any = None, kid: str = "", **claims: Any) -> str:
        (name, own), *_ = self.keys.items()
        told = {
            "iss": self.issuer,
            "aud": AUDIENCE,
            "sub": "0815",
            "preferred_username": "anna",
            "exp": time.time() + 300,
            "realm_access": {"roles": [f"monailabel-{role}" for role in roles]},
            **claims,
        }
        kept = {name: value for name, value in told.items() if value is not None}
        return jwt.encode(kept, own if key is None else key, algorithm, headers={"kid": kid or name})


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    running = Provider()
    yield running
    running.http.shutdown()
    running.http.server_close()


@pytest.fixture(scope="module")
def server(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("openid")
    (folder / "studies").mkdir()
    write_study(folder / "studies" / "case.nii.gz", *make_case())
    environment = {
        "MONAI_LABEL_AUTH_ENABLE": "true",
        "MONAI_LABEL_AUTH_REALM_URI": provider.issuer,
        "MONAI_LABEL_AUTH_CLIENT_ID": AUDIENCE,
    }
    conf = {"model_folder": str(folder / "model")}
    token = provider.token("admin", exp=time.time() + 7200)
    with Server(folder / "server", folder / "studies", conf, token=token, environment=environment) as running:
        yield running


def ask(server: Server, method: str, path: str, token: str) -> requests.Response:
    with requests.Session() as http:
        http.trust_env = False
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return http.request(method, f"{server.url}{path}", headers=headers, timeout=60, allow_redirects=False)


def by_shared_secret(token: str, secret: bytes) -> str:
    """The same token as one of HS256; the library itself refuses to sign by a public key."""
    head, body, _ = token.split(".")
    told = json.loads(base64.urlsafe_b64decode(head + "==")) | {"alg": "HS256"}
    head = base64.urlsafe_b64encode(json.dumps(told).encode()).decode().rstrip("=")
    signature = hmac.digest(secret, f"{head}.{body}".encode(), "sha256")
    return f"{head}.{body}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def strangers(provider: Provider) -> dict[str, str]:
    """Tokens that nobody should be let in with."""
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    (own,) = provider.keys.values()
    public = own.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    whole = provider.token("admin")
    head, body, signature = whole.split(".")
    return {
        "none": "",
        "nonsense": "a.b.c",
        "expired": provider.token("admin", exp=time.time() - 120),
        "no expiry": provider.token("admin", exp=None),
        "not yet": provider.token("admin", nbf=time.time() + 600),
        "alg none": provider.token("admin", algorithm="none", key=""),
        "signed by the public key": by_shared_secret(provider.token("admin"), public),
        "another key": provider.token("admin", key=other),
        "an unknown key": provider.token("admin", key=other, kid="unknown"),
        "wrong audience": provider.token("admin", aud="somebody-else"),
        "no audience": provider.token("admin", aud=None),
        "wrong issuer": provider.token("admin", iss="http://evil.example"),
        "changed": f"{head}.{body[:-2]}AA.{signature}",
        "unsigned": f"{head}.{body}.",
    }


def test_every_route_lets_in_whom_it_should(server: Server, provider: Provider) -> None:
    """The whole table; a refusal is 401 for a stranger, 403 for somebody whose role is too small, and else neither."""
    believed = {role.name.lower(): provider.token(role.name.lower()) for role in Role if role > Role.PUBLIC}
    others = strangers(provider)
    wrong, n_asked = [], 0
    for route in ROUTES:
        path = path_for(route)
        if route.role == Role.PUBLIC:
            continue
        for name, token in {**others, **believed, "no role": provider.token()}.items():
            role = Role[name.upper()] if name in believed else Role.PUBLIC
            expected = {401} if name in others else ({403} if role < route.role else None)
            status = ask(server, route.method, path, token).status_code
            n_asked += 1
            if (status in (401, 403) or status >= 500) if expected is None else status not in expected:
                wrong.append((route.method, path, name, status))
    print(f"{len(ROUTES)} routes, {len(others) + 5} kinds of tokens, {n_asked} requests: {len(wrong)} wrong")
    assert wrong == []
    assert "Traceback" not in server.log.read_text(errors="replace")


def test_a_new_key_is_fetched_and_an_old_one_is_forgotten(server: Server, provider: Provider) -> None:
    before = provider.token("user")
    assert ask(server, "GET", "/info/", before).status_code == 200
    provider.add_key("second")
    limit = time.monotonic() + 60  # a provider is not asked for every token that names a key of its own
    while ask(server, "GET", "/info/", provider.token("user")).status_code != 200:
        assert time.monotonic() < limit
        time.sleep(0.5)
    assert ask(server, "GET", "/info/", before).status_code == 401


def test_slicer_gets_a_token_by_name_and_password(server: Server, provider: Provider) -> None:
    form = {"username": "anna", "password": "secret", "grant_type": "password"}
    with requests.Session() as http:
        http.trust_env = False
        token = http.post(f"{server.url}/auth/token", data=form, timeout=60).json()
        refused = http.post(f"{server.url}/auth/token", data={**form, "password": "x"}, timeout=60)
    assert refused.status_code == 401
    assert ask(server, "GET", "/auth/token/valid", token["access_token"]).json()["username"] == "anna"
    assert ask(server, "DELETE", "/datastore/image?id=case", token["access_token"]).status_code == 403
    lines = [json.loads(line) for line in (Path(server.conf["model_folder"]) / "audit.jsonl").read_text().splitlines()]
    assert (lines[-1]["who"], lines[-1]["deed"], lines[-1]["status"]) == ("anna", "delete image", 403)
    assert "secret" not in server.log.read_text()


def test_without_its_provider_nobody_is_let_in(tmp_path: Path) -> None:
    lone = Provider()
    token = lone.token("admin")
    lone.http.shutdown()
    lone.http.server_close()
    with pytest.raises(Exception, match="does not answer") as refusal:
        OpenIdProvider(lone.issuer, AUDIENCE).claims_of(token)
    assert refusal.value.status_code == 503
