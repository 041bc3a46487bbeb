"""What the viewer loads: its configuration with our script, its icons, and the images through the DICOM proxy.

The archive behind the proxy is a small HTTP server that does what the test asks of it.
"""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
import uvicorn
from fastapi import FastAPI
from monailabel.config import settings

from lib.viewer import dicom_proxy
from lib.viewer.routes import OHIF, PAGE_SCRIPTS, viewer_routes
from serving import Server

pytestmark = pytest.mark.app
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


class Archive:
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


@pytest.fixture
def archive() -> Iterator[Archive]:
    running = Archive()
    yield running
    running.close()


@pytest.fixture
def proxy(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_USERNAME", "reader")
    monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_PASSWORD", "s3cret")
    with serving(f"http://{archive.address}/dicom-web/", monkeypatch) as url:
        yield f"{url}/proxy/dicom"


def get(url: str, **options: Any) -> requests.Response:
    with requests.Session() as http:
        http.trust_env = False
        return http.get(url, timeout=LIMIT_S, **options)


def test_the_page_script_follows_the_viewers_own_configuration(proxy: str) -> None:
    reply = get(proxy.replace("/proxy/dicom", "/ohif/app-config.js"))
    assert reply.headers["content-type"].startswith("text/javascript")
    assert reply.headers["cache-control"] == "no-store"
    stock, *page = (path.read_text() for path in (OHIF / "app-config.js", *PAGE_SCRIPTS))
    assert reply.text == f"{stock}\n{chr(10).join(page)}"


@pytest.mark.parametrize("path", ["", "viewer", "monai-label?StudyInstanceUIDs=1.2", "index.html"])
def test_the_page_is_asked_for_each_time(proxy: str, path: str) -> None:
    """Or the browser shows the one that it keeps, and nothing in it, in place of a login that has ended."""
    reply = get(proxy.replace("/proxy/dicom", f"/ohif/{path}"))
    assert reply.content == (OHIF / "index.html").read_bytes()
    assert reply.headers["cache-control"] == "no-store"


def test_icons_are_icons_and_what_is_not_there_is_missing(proxy: str) -> None:
    assets = proxy.replace("/proxy/dicom", "/ohif/assets")
    assert get(f"{assets}/favicon-16x16.png").content == (OHIF / "assets" / "favicon-16x16.png").read_bytes()
    assert get(f"{assets}/nothing.png").status_code == 404
    assert get(f"{assets}/..%2Findex.html").status_code == 404


@pytest.mark.parametrize("service", ["qido", "wado", "stow"])
def test_queries_reach_the_archive_as_they_were_asked(service: str, proxy: str) -> None:
    query = "StudyInstanceUID=1.2&PatientName=M%C3%BCller%2A&includefield=00080020&includefield=00080030&limit=1"
    line, *_ = get(f"{proxy}/{service}/studies/1.2/series?{query}").text.splitlines()
    assert line == f"GET /dicom-web/studies/1.2/series?{query}"
    assert get(f"{proxy}/studies").text.startswith("GET /dicom-web/studies\n")


def test_bodies_and_their_kind_pass_both_ways(proxy: str) -> None:
    body = bytes(range(256)) * 4000
    with requests.Session() as http:
        http.trust_env = False
        kind = 'multipart/related; type="application/dicom"; boundary=b'
        reply = http.post(f"{proxy}/stow/studies", body, headers={"Content-Type": kind}, timeout=LIMIT_S)
    assert reply.content.endswith(body)
    assert f"content-type: {kind}" in reply.text.lower()
    assert reply.headers["content-type"] == "application/dicom+json"


def test_the_password_goes_to_the_archive_and_nowhere_else(archive: Archive, proxy: str) -> None:
    reply = get(f"{proxy}/qido/studies", headers={"Authorization": "Bearer of-the-user", "Cookie": "own=1"})
    assert base64.b64encode(b"reader:s3cret").decode() in reply.text
    assert "of-the-user" not in reply.text
    assert "own=1" not in reply.text
    assert "set-cookie" not in reply.headers
    assert reply.headers["server"] != "secret"
    # A redirect followed would carry it to another server.
    archive.answer = lambda handler: say(handler, 302, b"", Location="http://127.0.0.1:9/elsewhere")
    moved = get(f"{proxy}/qido/studies", allow_redirects=False)
    assert (moved.status_code, "location" in moved.headers) == (502, False)
    assert "has moved" in moved.json()["detail"]


@pytest.mark.parametrize(
    "path", ["wado/../system", "wado/studies/..%2F..%2Fsystem", "%2e%2e/x", "wado//x", "a%3Fb", "a%23"]
)
def test_no_path_leaves_the_archives_address(path: str, proxy: str) -> None:
    asked = requests.Request("GET", proxy).prepare()
    asked.url = f"{proxy}/{path}"  # as it is: requests would take the dots out
    with requests.Session() as http:
        reply = http.send(asked, timeout=LIMIT_S)
    assert reply.status_code in (400, 404)
    assert "GET /" not in reply.text


def test_an_archive_that_refuses_the_server_is_no_login_of_the_browser(archive: Archive, proxy: str) -> None:
    archive.answer = lambda handler: say(handler, 401, b"", WWW_Authenticate="Basic")
    reply = get(f"{proxy}/qido/studies")
    assert (reply.status_code, "www-authenticate" in reply.headers) == (502, False)
    assert "MONAI_LABEL_DICOMWEB_PASSWORD" in reply.json()["detail"]
    assert "s3cret" not in reply.text


def test_an_archive_that_is_down_is_said_to_be(archive: Archive, proxy: str) -> None:
    archive.close()
    reply = get(f"{proxy}/qido/studies")
    assert reply.status_code == 502
    assert reply.json()["detail"] == f"the DICOMweb server {archive.address} cannot be reached: see whether it runs"


def test_nobody_waits_for_a_slow_archive_but_who_asked_it(
    archive: Archive, proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, asked = threading.Event(), threading.Event()

    def hold(handler: BaseHTTPRequestHandler) -> None:
        asked.set()
        held.wait(LIMIT_S)
        say(handler, 200, b"[]")

    archive.answer = hold
    replies: list[int] = []
    waiting = threading.Thread(target=lambda: replies.append(get(f"{proxy}/qido/studies").status_code))
    waiting.start()
    assert asked.wait(LIMIT_S)
    assert get(proxy.replace("/proxy/dicom", "/beat")).json() == "beats"
    assert not replies
    held.set()
    waiting.join(LIMIT_S)
    assert replies == [200]


def test_an_archive_that_is_too_slow_is_given_up(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    archive.answer = lambda handler: released.wait(LIMIT_S) and None
    monkeypatch.setattr(dicom_proxy, "TIMEOUT", 0.2)
    with serving(f"http://{archive.address}/dicom-web", monkeypatch) as url:
        reply = get(f"{url}/proxy/dicom/qido/studies")
    released.set()
    assert reply.status_code == 504
    assert "did not answer in time" in reply.json()["detail"]


def test_images_are_handed_on_as_they_arrive(archive: Archive, proxy: str) -> None:
    seen = threading.Event()

    def in_two_parts(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "10")
        handler.end_headers()
        handler.wfile.write(b"first")
        handler.wfile.flush()
        handler.wfile.write(b"-last" if seen.wait(LIMIT_S) else b"-late")

    archive.answer = in_two_parts
    with requests.Session() as http:
        http.trust_env = False
        with http.get(f"{proxy}/wado/studies/1", stream=True, timeout=LIMIT_S) as reply:
            assert reply.raw.read(5) == b"first"
            seen.set()
            assert reply.raw.read() == b"-last"


@pytest.mark.parametrize(
    "framing", ["Content-Length: 10\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"]
)
def test_an_image_cut_short_does_not_pass_for_a_whole_one(framing: str, archive: Archive, proxy: str) -> None:
    def cut(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(f"HTTP/1.1 200 OK\r\n{framing}".encode())
        handler.close_connection = True

    archive.answer = cut
    with pytest.raises((requests.exceptions.ChunkedEncodingError, requests.exceptions.ConnectionError)):
        get(f"{proxy}/wado/studies/1")


def test_a_folder_of_files_has_no_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving("/data/studies", monkeypatch) as url:
        reply = get(f"{url}/proxy/dicom/qido/studies")
    assert reply.status_code == 404
    assert "DICOM studies only" in reply.json()["detail"]


def test_the_viewer_is_served_as_shipped_if_that_is_wanted(tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    studies.mkdir()
    with Server(tmp_path / "server", studies, {"viewer_fixes": "false"}) as server:
        assert get(f"{server.url}/ohif/app-config.js").content == (OHIF / "app-config.js").read_bytes()
