"""An archive that does what a test tells it, and a server with our proxy to it and nothing else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests
import uvicorn
from fastapi import FastAPI
from monailabel.config import settings

from lib.viewer.routes import viewer_routes

Answer = Callable[[BaseHTTPRequestHandler], None]
LIMIT_S = 20.0


def say(handler: BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def echo(handler: BaseHTTPRequestHandler) -> None:
    """Answer with the request line, what was sent with it, and things a browser should not get."""
    body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
    text = f"{handler.command} {handler.path}\n{handler.headers}".encode() + body
    say(handler, 200, text, Content_Type="application/dicom+json", Set_Cookie="session=1", Server="secret")


class ToldArchive:
    """An HTTP server on loopback whose answers are `answer`'s."""

    def __init__(self) -> None:
        self.answer: Answer = echo
        archive = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                archive.answer(self)

            do_POST = do_GET

            def log_message(self, *_: Any) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def __enter__(self) -> ToldArchive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


@contextmanager
def serving(studies: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server that has our routes alone and one of its own, /beat."""
    monkeypatch.setattr(settings, "MONAI_LABEL_STUDIES", studies)
    app = FastAPI()
    app.include_router(viewer_routes())
    app.add_api_route("/beat", lambda: "beats")
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    limit = time.monotonic() + LIMIT_S
    while not server.started and time.monotonic() < limit:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(LIMIT_S)


def get(url: str, **options: Any) -> requests.Response:
    with requests.Session() as http:
        http.trust_env = False
        return http.get(url, timeout=LIMIT_S, **options)
