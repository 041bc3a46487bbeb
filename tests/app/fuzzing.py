"""Requests as nobody should send them, drawn from what /openapi.json says is served; the same seed draws the same."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import requests

TEXTS = (
    *(
        "",
        " ",
        ".",
        "..",
        "../../../etc/passwd",
        "/etc/passwd",
        "-rf",
        ".hidden",
        "a" * 3000,
        "\0",
        "a\0b",
        "a\r\nX: y",
    ),
    *("NaN", "-1", "0", "1e309", "99999999999999999999", "null", "true", "{}", "[]", "{", "Gefäß", "💥", "<script>"),
    *(
        "case",
        "victim",
        "final",
        "original",
        "sam3d",
        "sam3d_auto",
        "random",
        "first",
        "all",
        "' OR 1=1 --",
        "%00",
        "%",
    ),
)
JSONS = (
    *(
        b"",
        b"{",
        b"[]",
        b"7",
        b"null",
        b'"x"',
        b"NaN",
        b'{"x": NaN}',
        b'{"x": 1e999}',
        b"[" * 50_000,
        b"\xff\xfe",
        b"{}",
    ),
    *(
        b'{"a": {"b": [1, 2, {}]}}',
        b'{"image": "../x"}',
        b'{"model": 7}',
        b'{"": ""}',
        b'{"a": 1, "a": 2}',
        b" " * 9999,
    ),
    *(
        b'{"lesion": [[1, 2, 3]]}',
        b'{"lesion": [[NaN, 1, 2]]}',
        b'{"lesion": "x"}',
        b'{"images": [7]}',
        b'{"x": "\\ud800"}',
    ),
)
KINDS = ("application/json", "text/plain", "multipart/form-data", "multipart/form-data; boundary=x", "image/png", "")
FILES = (
    b"",
    b"no image",
    b"\x1f\x8b\x08" + bytes(50),
    bytes(400),
    b"NRRD0004\nsizes: 9 9 9\n\n",
    b"PK\x03\x04" + bytes(99),
)
NAMES = ("x.nii.gz", "x", "../x.nii", ".nii.gz", "x.html", "x.zip", "x.seg.nrrd", "a" * 300 + ".nii", "x.bin", "")
# These start processes: few of them, for each takes seconds.
COSTLY = ("/train", "/batch", "/scoring")
MOST_COSTLY = 8
SECONDS = 60.0


@dataclass
class Found:
    """What became of the requests."""

    sent: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def note(self, drawn: requests.PreparedRequest, answer: requests.Response) -> None:
        self.sent += 1
        self.statuses[answer.status_code] = self.statuses.get(answer.status_code, 0) + 1
        if answer.status_code >= 500 or "Traceback" in answer.text[:10_000]:
            self.failures.append(f"{answer.status_code} {drawn.method} {drawn.path_url[:120]} {answer.text[:120]!r}")


def routes_of(openapi: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Method, path and description of everything that is served."""
    methods = ("get", "put", "post", "delete", "head", "patch", "options")
    found = [
        (method.upper(), path, about)
        for path, item in openapi["paths"].items()
        for method, about in item.items()
        if method in methods
    ]
    assert found, "nothing is served"
    return sorted(found, key=lambda each: each[:2])


def draw(url: str, routes: list[tuple[str, str, dict[str, Any]]], seed: int, count: int) -> Iterator[requests.Request]:
    """So many requests, to every route alike."""
    rng, costly = random.Random(seed), 0
    for _ in range(count):
        method, path, about = rng.choice(routes)
        is_costly = method == "POST" and path.startswith(COSTLY)
        if is_costly and costly >= MOST_COSTLY:
            method = rng.choice(("GET", "PATCH", "OPTIONS"))
        costly += is_costly
        parameters = about.get("parameters", [])
        for each in parameters:
            if each["in"] == "path":
                path = path.replace("{" + each["name"] + "}", quote(_text(rng, method), safe=""))
        query = {
            each["name"]: _text(rng, method) for each in parameters if each["in"] == "query" and rng.random() < 0.7
        }
        yield requests.Request(method, url + path, params=query, **_body(rng, about))


def _text(rng: random.Random, method: str) -> str:
    text = rng.choice(TEXTS)
    return "victim" if method == "DELETE" and text == "case" else text


def _body(rng: random.Random, about: dict[str, Any]) -> dict[str, Any]:
    kinds = about.get("requestBody", {}).get("content", {})
    if not kinds and rng.random() < 0.8:
        return {}
    if "multipart/form-data" in kinds and rng.random() < 0.7:
        names = [*rng.sample(("file", "label", "files", "params", "info", "x"), rng.randint(1, 4))]
        files = [
            (name, (rng.choice(NAMES), rng.choice(FILES)) if rng.random() < 0.6 else (None, rng.choice(JSONS)))
            for name in names
        ]
        return {"files": files}
    if rng.random() < 0.2:
        return {"data": {"params": rng.choice(TEXTS), "info": rng.choice(TEXTS)}}
    kind = "application/json" if rng.random() < 0.6 else rng.choice(KINDS)
    return {"data": rng.choice(JSONS), "headers": {"Content-Type": kind} if kind else {}}


def fire(url: str, seed: int, count: int) -> Found:
    """Send them one after the other; a request that is not answered in time is a failure."""
    found = Found()
    with requests.Session() as http:
        http.trust_env = False
        http.headers["Connection"] = "close"  # after a bare 500 the server drops the connection
        routes = routes_of(json.loads(http.get(f"{url}/openapi.json", timeout=SECONDS).content))
        for each in draw(url, routes, seed, count):
            try:
                drawn = http.prepare_request(each)
            except (ValueError, requests.RequestException):  # what the client itself refuses to send
                continue
            try:
                found.note(drawn, http.send(drawn, timeout=SECONDS, allow_redirects=False))
            except requests.RequestException as error:
                found.sent += 1
                found.failures.append(f"{type(error).__name__} {drawn.method} {drawn.path_url[:120]}")
    return found
