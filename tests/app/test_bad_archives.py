"""An archive that answers with pages, errors, nonsense, half of it, or never: a sentence, no label lost, and all is
well when it is well."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import requests
from fastapi import HTTPException

from archives import DemoArchive
from lib.datastore.archive import ArchiveDatastore
from lib.demo import free_port
from lib.images.dicom_writing import SeriesInfo
from studies_in_archive import datastore_at, write_image
from unit.test_dicom_writing import affine_of

pytestmark = [pytest.mark.app, pytest.mark.slow]

ANN, BOB = SeriesInfo("P-ann", "Doe^Ann"), SeriesInfo("P-bob", "Doe^Bob")
SHAPE = (9, 8, 6)
PAGE = b"<html><script>alert(1)</script>Please log in</html>"
LIMIT_S = 0.5
# What stands in the way of the archive's own answers: status, content type and body.
ANSWERS = {
    "page": (200, "text/html", PAGE),
    "page that says it is JSON": (200, "application/dicom+json", PAGE),
    "page that says it is DICOM": (200, 'multipart/related; type="application/dicom"; boundary=x', PAGE),
    "error": (500, "text/plain", b"Internal Server Error"),
    "forbidden": (403, "text/html", PAGE),
    "nothing": (200, "application/dicom+json", b""),
    "half": (200, "application/dicom+json", b'[{"0020000E": {"vr": "UI", "Val'),
    "number": (200, "application/dicom+json", b"7"),
    "numbers": (200, "application/dicom+json", b"[7, null, []]"),
    "other JSON": (200, "application/dicom+json", b'[{"a": 1}, {"0020000E": "x"}]'),
    "series without a name": (200, "application/dicom+json", b'[{"00080060": {"vr": "CS", "Value": ["CT"]}}]'),
    "wrong types": (200, "application/dicom+json", b'[{"0020000E": {"vr": "UI", "Value": [{"a": 1}]}}]'),
    "deep JSON": (200, "application/dicom+json", b"[" * 100_000),
}
WAYS = [*ANSWERS, "redirect", "cut", "slow", "away"]


class Middleman:
    """A proxy before an archive that can be told to answer otherwise."""

    def __init__(self, archive: DemoArchive) -> None:
        self.target, self.way = f"http://127.0.0.1:{archive.port}", ""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if outer.way in ANSWERS:
                    self.reply(*ANSWERS[outer.way])
                elif outer.way == "redirect":
                    self.send_response(302)
                    self.send_header("Location", "http://127.0.0.1:9/elsewhere")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                elif outer.way == "away":
                    self.close_connection = True
                    self.connection.close()
                elif outer.way == "slow":
                    time.sleep(3 * LIMIT_S)
                    self.close_connection = True
                else:
                    self.forward(body)

            do_POST = do_GET

            def forward(self, body: bytes) -> None:
                headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection")}
                answer = requests.request(
                    self.command, outer.target + self.path, data=body, headers=headers, timeout=60
                )
                self.reply(
                    answer.status_code,
                    answer.headers.get("Content-Type", ""),
                    answer.content,
                    is_cut=outer.way == "cut" and len(answer.content) > 0,
                )

            def reply(self, status: int, kind: str, body: bytes, is_cut: bool = False) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) // 2] if is_cut else body)
                self.close_connection = is_cut

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/dicom-web"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @contextmanager
    def answering(self, way: str) -> Iterator[None]:
        self.way = way
        try:
            yield
        finally:
            self.way = ""


@pytest.fixture(scope="module")
def middleman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Middleman]:
    folder = tmp_path_factory.mktemp("archive") / "files"
    for info in (ANN, BOB):
        write_image(folder, info, affine_of("LPS"), SHAPE)
    with DemoArchive(folder, free_port(0)) as archive:
        between = Middleman(archive)
        yield between
        between.server.shutdown()
        between.server.server_close()


@pytest.fixture
def store(
    middleman: Middleman, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[ArchiveDatastore]:
    monkeypatch.setattr("lib.datastore.archive_client.ANSWER_LIMIT_S", LIMIT_S)
    monkeypatch.setattr("lib.datastore.archive.LISTS_TTL_S", 0.0)
    opened = datastore_at(middleman.url, tmp_path / "cache", monkeypatch)
    yield opened
    opened.close()


def submit(store: ArchiveDatastore, folder: Path, seed: int) -> dict:
    voxels = np.random.default_rng(seed).integers(0, 2, SHAPE).astype(np.uint8)
    (folder / "label.bin").write_bytes(voxels.tobytes(order="F"))
    store.save_label(ANN.uid(), str(folder / "label.bin"), "final", {"label_info": [{"name": "liver"}]})
    return store.saved_note(ANN.uid())


@pytest.mark.parametrize("way", WAYS)
def test_an_archive_that_answers_wrongly(
    store: ArchiveDatastore, middleman: Middleman, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = {ANN.uid(), BOB.uid()}
    assert set(store.list_images()) == both
    store.get_image_uri(ANN.uid())
    monkeypatch.setattr("lib.datastore.archive.SEND_WAIT_S", 30.0)
    monkeypatch.setattr("lib.datastore.outbox.FIRST_WAIT_S", 0.2)
    with middleman.answering(way):
        # What is listed stays: an answer that is no list of series says nothing about them. An empty one is a list.
        store._images.expire()
        listed = set(store.list_images())
        assert listed == (set() if way == "nothing" else both)
        assert set(store.get_unlabeled_images()) <= both
        assert store.status()["total"] == len(listed)
        # What is here is served; what is not, is refused with a sentence.
        assert Path(store.get_image_uri(ANN.uid())).is_file()
        with pytest.raises(HTTPException) as refusal:
            store.get_image_uri(BOB.uid())
        assert refusal.value.status_code in (404, 502, 503), refusal.value.detail
        assert "archive" in refusal.value.detail
        assert "<" not in refusal.value.detail
        assert not list(tmp_path.rglob(f"{BOB.uid()}*")), "nothing half is kept"
        # A label is stored, and waits.
        note = submit(store, tmp_path, 1)
        assert note["archive"] == "waiting", note
        assert "<" not in note["note"]
        assert len(store.waiting()) == 1
        if way != "nothing":
            assert [case.id for case in store.annotated_cases()] == [ANN.uid()]
    limit = time.monotonic() + 60
    while store.waiting():
        assert time.monotonic() < limit, store.waiting()
        time.sleep(0.1)
    assert Path(store.get_image_uri(BOB.uid())).is_file()
    store._images.expire()
    assert set(store.list_images()) == both
