"""An archive that sends pages, redirects and nonsense: to the browser, and to a server that is asked for clicks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import pytest
import requests

from serving import Server
from told_archives import ToldArchive, echo, get, say

pytestmark = pytest.mark.app

UID = "1.2.826.0.1.3680043.8.498.7"
SERIES = {"0020000E": {"vr": "UI", "Value": [UID]}, "0020000D": {"vr": "UI", "Value": ["1.2.3"]}}


PAGES = (
    "text/html",
    "TEXT/HTML; charset=utf-8",
    "application/xhtml+xml",
    "image/svg+xml",
    "text/javascript",
    "text/xml",
)


@pytest.mark.parametrize("kind", PAGES)
@pytest.mark.parametrize("status", [200, 206, 404, 500])
def test_no_page_of_the_archive_becomes_one_of_ours(
    told_archive: ToldArchive, proxy: str, kind: str, status: int
) -> None:
    told_archive.answer = lambda handler: say(handler, status, b"<script>alert(1)</script>", Content_Type=kind)
    reply = get(f"{proxy}/wado/studies/1.2")
    assert reply.status_code == (404 if status == 404 else 502)
    assert b"script>" not in reply.content
    assert reply.headers["content-type"] == "application/json"
    assert told_archive.address in reply.json()["detail"]


KINDS = (
    "application/dicom+json",
    "application/json; charset=utf-8",
    'multipart/related; type="application/dicom"; boundary=x',
)


@pytest.mark.parametrize("kind", [*KINDS, "application/octet-stream", "image/jpeg", "application/dicom"])
def test_data_passes(told_archive: ToldArchive, proxy: str, kind: str) -> None:
    told_archive.answer = lambda handler: say(handler, 200, b"[]", Content_Type=kind)
    reply = get(f"{proxy}/wado/studies/1.2")
    assert (reply.status_code, reply.content, reply.headers["content-type"]) == (200, b"[]", kind)


def test_data_of_no_named_kind_is_data(told_archive: ToldArchive, proxy: str) -> None:
    told_archive.answer = lambda handler: say(handler, 200, b"<script>")
    assert get(f"{proxy}/wado/studies/1.2").headers["content-type"] == "application/octet-stream"
    told_archive.answer = lambda handler: say(handler, 204, b"", Content_Type="text/html")
    assert get(f"{proxy}/wado/studies/1.2").status_code == 204


@pytest.mark.parametrize(
    "path", ["servers/other/stow", "qido/servers", "wado/system", "wado", "stow/modalities/x/store"]
)
def test_what_is_beside_the_archive_s_dicomweb_is_out_of_reach(
    told_archive: ToldArchive, proxy: str, path: str
) -> None:
    told_archive.answer = echo
    with requests.Session() as http:
        http.trust_env = False
        for method in ("GET", "POST"):
            assert http.request(method, f"{proxy}/{path}", timeout=20).status_code == 400
        for path in ("stow/studies/1.2/series", "wado/studies/1.2/rendered"):
            assert http.post(f"{proxy}/{path}", timeout=20).status_code == 400
        assert http.post(f"{proxy}/stow/studies/1.2", data=b"x", timeout=20).status_code == 200


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, ToldArchive]]:
    folder = tmp_path_factory.mktemp("strange")
    with ToldArchive() as archive:
        archive.answer = lambda handler: say(handler, 200, b"[]", Content_Type="application/dicom+json")
        with Server(folder / "server", f"http://{archive.address}/dicom-web", {"model_folder": str(folder)}) as server:
            yield server, archive


NONSENSE = {
    "page": b"<html>",
    "number": b"7",
    "null": b"null",
    "object": b'{"a": 1}',
    "list of numbers": b"[1, 2]",
    "list of lists": b"[[]]",
    "empty object": b"[{}]",
    "no UID": json.dumps([{"0020000E": {"vr": "UI"}}]).encode(),
    "a path for a UID": json.dumps([{"0020000E": {"vr": "UI", "Value": ["../../x"]}}]).encode(),
    "wrong VR": json.dumps([{"0020000E": {"vr": "XX", "Value": [1]}}]).encode(),
    "no tag": json.dumps([{"nonsense": {"vr": "UI", "Value": ["1.2"]}}]).encode(),
    "no study": json.dumps([{"0020000E": SERIES["0020000E"]}]).encode(),
    "NaN": b'[{"00280010": {"vr": "DS", "Value": [NaN]}}]',
    "cut": json.dumps([SERIES]).encode()[:-9],
    "binary": bytes(range(256)),
}


@pytest.mark.parametrize("what", NONSENSE)
@pytest.mark.parametrize("status", [200, 500])
def test_nonsense_is_a_sentence_for_whoever_clicks(strange: tuple[Server, ToldArchive], what: str, status: int) -> None:
    server, archive = strange
    archive.answer = lambda handler: say(handler, status, NONSENSE[what], Content_Type="application/dicom+json")
    check_clicks(server)


def check_clicks(server: Server) -> None:
    """Each question gets a sentence, and the server goes on."""
    so_far = len(server.log.read_text(errors="replace"))
    reply = server.infer({"lesion": [[1, 1, 1]]}, image=UID)
    assert reply.status in (404, 422, 502, 503), reply.detail
    assert 20 < len(reply.detail) < 300
    for path in (f"image?image={UID}", f"image/info?image={UID}", f"label?label={UID}&tag=final"):
        asked = server.http.get(f"{server.url}/datastore/{path}", timeout=60)
        # What the archive says of a series is told even where its instances are none.
        told = (200,) if "info" in path else ()
        assert asked.status_code in (404, 422, 502, 503, *told), (path, asked.status_code, asked.text)
    for path in ("/info/", "/datastore/", "/datastore/?output=all", "/datastore/?output=train"):
        assert server.http.get(f"{server.url}{path}", timeout=60).status_code == 200, path
    assert "Traceback" not in server.log.read_text(errors="replace")[so_far:], server.log_tail()
    assert server.files_left() == []


def test_instances_that_are_none_are_a_sentence(strange: tuple[Server, ToldArchive]) -> None:
    server, archive = strange

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if "?" in handler.path:
            say(handler, 200, json.dumps([SERIES]).encode(), Content_Type="application/dicom+json")
        else:
            kind = 'multipart/related; type="application/dicom"; boundary=x'
            say(
                handler,
                200,
                b"--x\r\nContent-Type: application/dicom\r\n\r\nno instance\r\n--x--\r\n",
                Content_Type=kind,
            )

    archive.answer = answer
    check_clicks(server)


def test_a_redirect_is_not_followed(strange: tuple[Server, ToldArchive]) -> None:
    """It could lead to a machine that only this server can reach."""
    server, archive = strange
    elsewhere, asked = ToldArchive(), []

    def note(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        say(handler, 200, json.dumps([SERIES]).encode(), Content_Type="application/dicom+json")

    elsewhere.answer = note
    target = f"http://{elsewhere.address}/inside"
    for status in (301, 302, 307, 308):
        archive.answer = lambda handler, status=status: say(handler, status, b"", Location=target)
        check_clicks(server)
        assert server.http.get(f"{server.url}/proxy/dicom/studies", timeout=60).status_code == 502
    elsewhere.close()
    assert asked == []
