"""Weights are fetched from a real server on loopback: fresh, resumed, damaged, interrupted."""

import re
import threading
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from lib.errors import WeightsError
from lib.weights.fetch import CHUNK_BYTES, SAM_WEIGHTS, RemoteFile, fetch, sha256_of

CONTENT = np.random.default_rng(0).bytes(2 * CHUNK_BYTES + 12345)
WRONG = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@contextmanager
def serving(content=CONTENT, has_ranges=True, stops_after=None, status=None):
    """A file server; gives the file's place and the list of the ranges that were asked for."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.headers.get("Range"))
            found = re.fullmatch(r"bytes=(\d+)-", asked[-1] or "") if has_ranges else None
            start = int(found[1]) if found else 0
            if status or (found and start >= len(content)):
                self.send_error(status or 416)
                return
            self.send_response(206 if found else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start:][:stops_after])

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_address[1]}/files/weights.pth"
            yield RemoteFile(url, sha256(CONTENT).hexdigest()), asked
        finally:
            server.shutdown()
            thread.join()


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_fresh_fetch_is_whole_and_says_how_far_it_is(tmp_path):
    steps = []
    with serving() as (remote, asked):
        path = fetch(remote, tmp_path / "new" / "folder", lambda done, total: steps.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert names_in(path.parent) == ["weights.pth"]
    assert asked == [None]
    assert steps == [(n, len(CONTENT)) for n in (CHUNK_BYTES, 2 * CHUNK_BYTES, len(CONTENT))]


def test_what_is_there_is_not_fetched_again(tmp_path):
    (tmp_path / "weights.pth").write_bytes(CONTENT)
    with serving(status=500) as (remote, asked):
        assert fetch(remote, tmp_path) == tmp_path / "weights.pth"
    assert asked == []


def test_another_file_of_that_name_is_left_alone_and_named(tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"mine")
    with serving() as (remote, asked), pytest.raises(WeightsError, match=r"weights\.pth has sha256 .* was expected"):
        fetch(remote, tmp_path)
    assert asked == []
    assert (tmp_path / "weights.pth").read_bytes() == b"mine"


def test_an_interrupted_fetch_keeps_its_part_and_goes_on(tmp_path):
    with serving(stops_after=1000) as (remote, _), pytest.raises(WeightsError, match=r"stopped after 1000 of .* go on"):
        fetch(remote, tmp_path)
    assert names_in(tmp_path) == ["weights.pth.part"]
    steps = []
    with serving() as (remote, asked):
        path = fetch(remote, tmp_path, lambda done, total: steps.append((done, total)))
    assert asked == ["bytes=1000-"]
    assert steps[0] == (1000 + CHUNK_BYTES, len(CONTENT))
    assert path.read_bytes() == CONTENT
    assert names_in(tmp_path) == ["weights.pth"]


def test_a_server_without_ranges_starts_over(tmp_path):
    (tmp_path / "weights.pth.part").write_bytes(CONTENT[:1000])
    with serving(has_ranges=False) as (remote, asked):
        assert fetch(remote, tmp_path).read_bytes() == CONTENT
    assert asked == ["bytes=1000-"]


def test_a_part_that_is_complete_only_needs_its_check(tmp_path):
    (tmp_path / "weights.pth.part").write_bytes(CONTENT)
    with serving() as (remote, asked):
        assert fetch(remote, tmp_path).read_bytes() == CONTENT
    assert asked == [f"bytes={len(CONTENT)}-"]
    assert names_in(tmp_path) == ["weights.pth"]


@pytest.mark.parametrize("part", [None, CONTENT[:1000], b"from elsewhere", CONTENT + b"and more"])
def test_a_wrong_hash_is_refused_and_removed(tmp_path, part):
    if part is not None:
        (tmp_path / "weights.pth.part").write_bytes(part)
    with serving(content=WRONG) as (remote, _), pytest.raises(WeightsError, match=r"part has sha256 .* was expected"):
        fetch(remote, tmp_path)
    assert names_in(tmp_path) == []


def test_a_server_that_refuses_or_is_not_there_is_named(tmp_path):
    with serving(status=404) as (remote, _), pytest.raises(WeightsError, match=r"weights\.pth answers 404 Not Found"):
        fetch(remote, tmp_path)
    with pytest.raises(WeightsError, match=r"weights\.pth could not be fetched \(.*refused\): run the command again"):
        fetch(remote, tmp_path)
    assert names_in(tmp_path) == []


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "weights.pth.part").mkdir()
    with serving() as (remote, _), pytest.raises(WeightsError, match=r"could not be fetched .*Is a directory"):
        fetch(remote, tmp_path)


def test_the_table_names_sams_own_files():
    assert {name: remote.name for name, remote in SAM_WEIGHTS.items()} == {
        "vit_b": "sam_vit_b_01ec64.pth",
        "vit_l": "sam_vit_l_0b3195.pth",
        "vit_h": "sam_vit_h_4b8939.pth",
    }
    for remote in SAM_WEIGHTS.values():
        assert remote.url.startswith("https://dl.fbaipublicfiles.com/segment_anything/")
        assert re.fullmatch("[0-9a-f]{64}", remote.sha256)


def test_sha256_of_nothing(tmp_path):
    (tmp_path / "empty").touch()
    assert sha256_of(tmp_path / "empty").startswith("e3b0c44298fc1c14")
