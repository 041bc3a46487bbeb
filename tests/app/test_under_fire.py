"""A running server under fire: thousands of malformed requests, bombs, floods and dawdlers. Nothing fails or stays
behind, and the next click is answered."""

from __future__ import annotations

import gzip
import json
import os
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import nibabel
import numpy as np
import psutil
import pytest
import requests

from fuzzing import fire
from serving import Server, write_study

pytestmark = [pytest.mark.app, pytest.mark.slow, pytest.mark.timeout(1500)]

SHAPE = (40, 36, 32)
REQUESTS = int(os.environ.get("FUZZ_REQUESTS", "5000"))
SEED = int(os.environ.get("FUZZ_SEED", "18"))
# Caches of volumes and embeddings are filled before; this much is the allocator's.
MORE_BYTES = 400 * 2**20
LIMIT_S = 120.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    studies = tmp_path_factory.mktemp("studies")
    for name in ("case", "victim"):
        write_study(studies / f"{name}.nii.gz", np.random.default_rng(0).normal(40, 20, SHAPE).astype(np.int16))
    conf = {"labels": "lesion", "score_share": "0", "max_upload_mib": "64", "max_epochs": "1", "steps_per_epoch": "1"}
    with Server(tmp_path_factory.mktemp("server"), studies, conf) as running:
        for _ in range(3):
            assert running.infer({"lesion": [[9, 9, 9]]}).status == 200
        yield running


def held(server: Server) -> dict[str, int]:
    """What the server's process holds: memory in bytes, threads, descriptors; and files it left."""
    process = psutil.Process(server.process.pid)
    children = process.children(recursive=True)
    server_process = max([process, *children], key=lambda each: each.memory_info().rss)
    return {
        "rss": server_process.memory_info().rss,
        "threads": server_process.num_threads(),
        "descriptors": server_process.num_fds(),
        "processes": len(children),
        "files": len(server._temporary_files()),
    }


def settled(server: Server, before: dict[str, int], most_threads: int = 60) -> dict[str, int]:
    """What is held once connections, threads and files had time to end; compared with before.

    A pool keeps its threads, up to a bound: they are not counted beyond that.
    """
    limit = time.monotonic() + LIMIT_S
    while time.monotonic() < limit:
        after = held(server)
        if (
            after["threads"] <= before["threads"] + most_threads
            and after["descriptors"] <= before["descriptors"] + 8
            and after["processes"] <= before["processes"]
            and after["files"] <= before["files"]
        ):
            break
        time.sleep(0.5)
    return after


def check_settled(server: Server, before: dict[str, int], what: str, capsys: pytest.CaptureFixture[str]) -> None:
    after = settled(server, before)
    growth = {key: after[key] - before[key] for key in before}
    with capsys.disabled():
        print(f"\n{what}: growth of memory {growth['rss'] / 2**20:.0f} MiB, {growth}")
    assert growth["rss"] < MORE_BYTES
    assert growth["threads"] <= 60
    assert growth["descriptors"] <= 8
    assert growth["processes"] <= 0
    assert growth["files"] <= 0
    reply = server.infer({"lesion": [[9, 9, 9]]})
    assert reply.status == 200, reply.detail


def test_malformed_requests(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    before, start = held(server), time.monotonic()
    log_before = server.log.read_text(errors="replace").count("Traceback")
    found = fire(server.url, SEED, REQUESTS)
    tracebacks = server.log.read_text(errors="replace").count("Traceback") - log_before
    server.http.delete(f"{server.url}/train/", timeout=60)
    with capsys.disabled():
        print(
            f"\nfuzz: {found.sent} requests in {time.monotonic() - start:.0f} s, seed {SEED}, "
            f"statuses {dict(sorted(found.statuses.items()))}, {len(found.failures)} failures, {tracebacks} tracebacks"
        )
        for failure, count in Counter(each.split("?")[0][:90] for each in found.failures).most_common(40):
            print(f"  {count:4} {failure}")
    check_settled(server, before, "fuzz", capsys)
    assert found.failures == []
    assert tracebacks == 0


def test_bombs(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """Files that are small as they come, and large in memory, or say that they are."""
    before = held(server)
    header = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)).header.copy()
    vast = bytearray(header.binaryblock)
    vast[40:56] = struct.pack("<8h", 3, 32767, 32767, 32767, 1, 1, 1, 1)
    zeros = bytearray(header.binaryblock)
    zeros[40:56] = struct.pack("<8h", 3, 1280, 1280, 1280, 1, 1, 1, 1)  # as many bytes as voxels
    piece = gzip.compress(bytes(2**24))
    bombs = {
        "terabytes.nii": bytes(vast) + bytes(4 + 1000),
        "terabytes.nii.gz": gzip.compress(bytes(vast) + bytes(4 + 1000)),
        "2GB.nii.gz": gzip.compress(bytes(zeros) + bytes(4)) + piece * 125,
        "terabytes.nrrd": b"NRRD0004\ntype: short\ndimension: 3\nsizes: 99999 99999 99999\nencoding: raw\n\n"
        + bytes(99),
        "terabytes.mha": b"NDims = 3\nDimSize = 99999 99999 99999\nElementType = MET_SHORT\nElementDataFile = LOCAL\n",
    }
    for name, content in bombs.items():
        start = time.monotonic()
        reply = server.infer({"lesion": [[1, 1, 1]]}, image="", files={"file": (name, content)})
        with capsys.disabled():
            print(f"\n{name}, {len(content)} bytes: {reply.status} in {time.monotonic() - start:.1f} s, {reply.detail}")
        assert 400 <= reply.status < 500, f"{name}: {reply.status} {reply.detail}"
        assert 10 < len(reply.detail) < 500, name
        stored = server.http.put(
            f"{server.url}/datastore/label",
            params={"image": "case"},
            files={"label": (name, content)},
            data={"params": "{}"},
            timeout=LIMIT_S,
        )
        assert 400 <= stored.status_code < 500, f"{name}: {stored.status_code} {stored.text[:200]}"
    check_settled(server, before, "bombs", capsys)


def test_a_hundred_thousand_parts(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    before = held(server)
    part = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    for method, path in (
        ("POST", "/infer/sam3d?image=case"),
        ("PUT", "/datastore/label?image=case"),
        ("PUT", "/session/"),
    ):
        answer = server.http.request(
            method, server.url + path, data=part * 100_000 + b"--x--\r\n", headers=headers, timeout=LIMIT_S
        )
        assert 400 <= answer.status_code < 500, f"{path}: {answer.status_code}"
    check_settled(server, before, "parts", capsys)


def connect(server: Server, text: bytes = b"") -> socket.socket:
    port = int(server.url.rpartition(":")[2])
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    if text:
        connection.sendall(text)
    return connection


def test_idle_and_slow_connections_keep_nobody_waiting(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    before = held(server)
    half_head = b"POST /infer/sam3d HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "
    half_body = (
        b"POST /infer/sam3d?image=case HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        b"Content-Length: 1000000\r\n\r\n--x\r\n"
    )
    with ExitStack() as stack:
        for text, count in ((b"", 400), (half_head, 50), (half_body, 50)):
            for _ in range(count):
                connection = stack.enter_context(connect(server, text))
        for _ in range(3):
            connection.sendall(b"a")
            start = time.monotonic()
            assert server.infer({"lesion": [[9, 9, 9]]}).status == 200
            with capsys.disabled():
                print(f"\nbehind 400 idle and 100 slow connections a click took {time.monotonic() - start:.1f} s")
    check_settled(server, before, "idle", capsys)


def click_at_once(server: Server, count: int) -> Counter[int]:
    """So many users click in the same moment: how many were answered, and how many told to come back."""

    def click(number: int) -> tuple[int, str]:
        params = json.dumps({"lesion": [[5 + number % 20, 9, 9]]})
        answer = requests.post(
            f"{server.url}/infer/sam3d",
            params={"image": "case"},
            files={"params": (None, params)},
            timeout=600,
            proxies={"http": ""},
        )
        return answer.status_code, answer.headers.get("Retry-After", "")

    with ThreadPoolExecutor(count) as threads:
        replies = list(threads.map(click, range(count)))
    assert all(wait for status, wait in replies if status == 429)
    return Counter(status for status, _ in replies)


def test_two_hundred_clicks_at_once(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    first = click_at_once(server, 200)  # as many threads work as there may, and each keeps an arena of its own
    before = held(server)
    statuses = first + click_at_once(server, 200)
    with capsys.disabled():
        print(f"\ntwice 200 clicks at once: {dict(statuses)}")
    assert set(statuses) <= {200, 429}
    assert statuses[200] >= 2
    check_settled(server, before, "200 clicks more", capsys)


def test_the_images_are_as_they_were(server: Server) -> None:
    studies = Path(str(server.studies))
    assert (studies / "case.nii.gz").is_file()
    assert server.info()["datastore"]["total"] >= 1
    own = {"labels", "label_versions", "datastore_v2.json", ".lock", ".serving", ".identity"}
    kept = {*own, "case.nii.gz", "victim.nii.gz"}
    assert {path.name for path in studies.iterdir()} <= kept, "no request brought a file of its own choice"
