"""What the viewer loads: its configuration with our script, its icons, and the images through the DICOM proxy.

The archive behind the proxy is a small HTTP server that does what the test asks of it.
"""

from __future__ import annotations

import base64
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import requests

from lib.viewer import dicom_proxy
from lib.viewer.routes import OHIF, PAGE_SCRIPTS
from serving import Server
from told_archives import LIMIT_S, ToldArchive, get, say, serving

pytestmark = pytest.mark.app


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


def test_the_password_goes_to_the_archive_and_nowhere_else(told_archive: ToldArchive, proxy: str) -> None:
    reply = get(f"{proxy}/qido/studies", headers={"Authorization": "Bearer of-the-user", "Cookie": "own=1"})
    assert base64.b64encode(b"reader:s3cret").decode() in reply.text
    assert "of-the-user" not in reply.text
    assert "own=1" not in reply.text
    assert "set-cookie" not in reply.headers
    assert reply.headers["server"] != "secret"
    # A redirect followed would carry it to another server.
    told_archive.answer = lambda handler: say(handler, 302, b"", Location="http://127.0.0.1:9/elsewhere")
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


def test_an_archive_that_refuses_the_server_is_no_login_of_the_browser(told_archive: ToldArchive, proxy: str) -> None:
    told_archive.answer = lambda handler: say(handler, 401, b"", WWW_Authenticate="Basic")
    reply = get(f"{proxy}/qido/studies")
    assert (reply.status_code, "www-authenticate" in reply.headers) == (502, False)
    assert "MONAI_LABEL_DICOMWEB_PASSWORD" in reply.json()["detail"]
    assert "s3cret" not in reply.text


def test_an_archive_that_is_down_is_said_to_be(told_archive: ToldArchive, proxy: str) -> None:
    told_archive.close()
    reply = get(f"{proxy}/qido/studies")
    assert reply.status_code == 502
    assert (
        reply.json()["detail"] == f"the DICOMweb server {told_archive.address} cannot be reached: see whether it runs"
    )


def test_nobody_waits_for_a_slow_archive_but_who_asked_it(
    told_archive: ToldArchive, proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, asked = threading.Event(), threading.Event()

    def hold(handler: BaseHTTPRequestHandler) -> None:
        asked.set()
        held.wait(LIMIT_S)
        say(handler, 200, b"[]")

    told_archive.answer = hold
    replies: list[int] = []
    waiting = threading.Thread(target=lambda: replies.append(get(f"{proxy}/qido/studies").status_code))
    waiting.start()
    assert asked.wait(LIMIT_S)
    assert get(proxy.replace("/proxy/dicom", "/beat")).json() == "beats"
    assert not replies
    held.set()
    waiting.join(LIMIT_S)
    assert replies == [200]


def test_an_archive_that_is_too_slow_is_given_up(told_archive: ToldArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    told_archive.answer = lambda handler: released.wait(LIMIT_S) and None
    monkeypatch.setattr(dicom_proxy, "TIMEOUT", 0.2)
    with serving(f"http://{told_archive.address}/dicom-web", monkeypatch) as url:
        reply = get(f"{url}/proxy/dicom/qido/studies")
    released.set()
    assert reply.status_code == 504
    assert "did not answer in time" in reply.json()["detail"]


def test_images_are_handed_on_as_they_arrive(told_archive: ToldArchive, proxy: str) -> None:
    seen = threading.Event()

    def in_two_parts(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "10")
        handler.end_headers()
        handler.wfile.write(b"first")
        handler.wfile.flush()
        handler.wfile.write(b"-last" if seen.wait(LIMIT_S) else b"-late")

    told_archive.answer = in_two_parts
    with requests.Session() as http:
        http.trust_env = False
        with http.get(f"{proxy}/wado/studies/1", stream=True, timeout=LIMIT_S) as reply:
            assert reply.raw.read(5) == b"first"
            seen.set()
            assert reply.raw.read() == b"-last"


@pytest.mark.parametrize(
    "framing", ["Content-Length: 10\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"]
)
def test_an_image_cut_short_does_not_pass_for_a_whole_one(framing: str, told_archive: ToldArchive, proxy: str) -> None:
    def cut(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(f"HTTP/1.1 200 OK\r\n{framing}".encode())
        handler.close_connection = True

    told_archive.answer = cut
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
