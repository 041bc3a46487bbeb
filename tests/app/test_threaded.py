"""Stock endpoints that wait for an archive: the same contract, in threads, while everybody else is answered."""

from __future__ import annotations

import asyncio
import inspect
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pydicom
import pytest
import requests
import uvicorn
from fastapi import APIRouter, FastAPI, HTTPException
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from monailabel.endpoints import activelearning, batch_infer, datastore, infer, info, scoring, session, train
from starlette.datastructures import Headers

from archives import DemoArchive
from lib.demo import free_port
from lib.images.dicom_writing import SeriesInfo, write_series
from lib.serving.bodies import bounded
from lib.serving.datastore_door import datastore_door
from lib.serving.heads import limit_heads
from lib.serving.infer_door import infer_door
from lib.serving.next_sample import next_sample_door
from lib.serving.places import Places
from lib.serving.scoring_door import scoring_door
from lib.serving.served import served
from lib.serving.session_door import session_door
from lib.serving.task_door import task_door
from lib.serving.threaded import ROUTERS, _threaded, threaded_doors
from lib.serving.visitors import Role
from serving import Server

pytestmark = pytest.mark.app


def parameters(route: APIRoute) -> dict[str, list[str]]:
    """The names that an endpoint reads, by where it reads them from."""
    dependant = route.dependant
    kinds = ("path_params", "query_params", "header_params", "cookie_params", "body_params")
    return {kind: sorted(field.name for field in getattr(dependant, kind)) for kind in kinds}


def by_name(*routers: APIRouter) -> dict[tuple[str, str], APIRoute]:
    routes = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]
    return {(method, route.path): route for route in routes for method in route.methods}


HOST = (activelearning, batch_infer, datastore, infer, info, scoring, session, train)
STOCK = by_name(*(each.router for each in HOST))
OURS = by_name(
    infer_door(None, Places(1), lambda *_: None),
    next_sample_door(None),
    scoring_door(None),
    datastore_door(None, 1),
    session_door(None, 1),
    task_door(None),
    threaded_doors(),
)


def test_every_route_that_we_serve_lets_the_same_users_in_as_the_stock_one() -> None:
    """And only what is served is served: the rest of the stock's is in no table."""
    roles = {f"monailabel-{role.name.lower()}": role for role in Role}
    compared = 0
    for (method, path), route in STOCK.items():
        if found := served(method, path):
            (theirs,) = (each.call.roles for each in route.dependant.dependencies)
            assert found[0].role == roles[theirs], f"{method} {path}"
            compared += 1
    assert compared == len(OURS) == 32
    closed = {key for key in STOCK if not served(*key)}
    assert closed == {("DELETE", "/datastore/"), ("PUT", "/datastore/updatelabelinfo")}


# Of the stock's: what nobody sends, or what we read of the form ourselves.
ELSEWHERE = {"query_params": {"replace"}, "body_params": {"params", "file", "label", "files", "info"}}


def test_our_doors_have_the_stock_ones_parameters() -> None:
    for key, route in OURS.items():
        ours, theirs = parameters(route), parameters(STOCK[key])
        for kind, elsewhere in ELSEWHERE.items():
            ours[kind] = sorted(set(ours[kind]) - elsewhere)
            theirs[kind] = sorted(set(theirs[kind]) - elsewhere)
        assert ours == theirs, key


def test_no_endpoint_of_the_stock_s_is_left_on_the_event_loop() -> None:
    stock = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    ours = [route for route in threaded_doors().routes if isinstance(route, APIRoute)]
    assert [(route.path, route.methods) for route in ours] == [(route.path, route.methods) for route in stock]
    for theirs, mine in zip(stock, ours, strict=True):
        assert parameters(mine) == parameters(theirs), mine.path
        assert inspect.iscoroutinefunction(theirs.endpoint)
        assert not inspect.iscoroutinefunction(mine.endpoint)


class Bounded:
    """An app whose requests have bodies of at most a thousand bytes."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, bounded(receive, Headers(scope=scope), 1000, "send less"), send)


def test_a_body_that_stops_coming_is_given_up_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """At every door that reads one; a request that is whole may be worked on for as long as it takes."""
    monkeypatch.setattr("lib.serving.bodies.BODY_WAIT_S", 0.5)
    api, places = FastAPI(), Places(1)
    for router in (infer_door(None, places, lambda *_: None), next_sample_door(None), datastore_door(None, 1)):
        api.include_router(router)
    slow = APIRouter()

    @slow.post("/slow")
    async def wait(body: dict[str, int]) -> dict[str, int]:
        await asyncio.sleep(1.5)
        return body

    api.include_router(slow)
    form = "multipart/form-data; boundary=x"
    doors = {"POST /infer/sam3d": form, "POST /activelearning/first": "application/json", "PUT /datastore/": form}
    with running(Bounded(api)) as port:
        for door, kind in doors.items():
            status, content = unfinished(port, door, kind)
            assert (status, json.loads(content)["detail"]) == (
                408,
                "nothing of the request came for 0.5 s, and it is not whole: send it again",
            )
        assert requests.post(f"http://127.0.0.1:{port}/slow", json={"a": 1}, timeout=60).json() == {"a": 1}
    places.check()


def test_a_body_that_comes_byte_by_byte_is_given_up_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib.serving.bodies.BODY_WAIT_S", 0.5)

    async def trickle() -> dict[str, Any]:
        await asyncio.sleep(0.1)
        return {"type": "http.request", "body": b"x", "more_body": True}

    read = []

    async def read_all() -> None:
        receive = bounded(trickle, Headers({"content-length": "900"}), 1000, "send less")
        while len(read) < 100:
            read.append(await receive())

    with pytest.raises(HTTPException, match="408"):
        asyncio.run(read_all())
    assert 0 < len(read) < 10


@contextmanager
def running(api: Any) -> Iterator[int]:
    """The port of a server in a thread of this process."""
    config = uvicorn.Config(api, port=0, log_level="warning", lifespan="off")
    config.load()
    limit_heads(config)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        limit = time.monotonic() + 60
        while not server.started:
            assert time.monotonic() < limit
            time.sleep(0.02)
        yield int(server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        thread.join()


@pytest.mark.parametrize("head", ["", "GET /beat HT", "GET /beat HTTP/1.1\r\nHost: here\r\nX-", "whole"])
def test_a_connection_without_a_whole_request_is_closed(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the second request of one, and never one that is being answered."""
    monkeypatch.setattr("lib.serving.heads.HEAD_WAIT_S", 0.5)
    api = FastAPI()

    @api.get("/beat")
    async def beat() -> str:
        await asyncio.sleep(1.5)
        return "beats"

    whole = b"GET /beat HTTP/1.1\r\nHost: here\r\n\r\n"
    with running(api) as port, socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        answer = b""
        connection.sendall(whole if head == "whole" else head.encode())
        while head == "whole" and not answer.endswith(b'"beats"'):
            answer += connection.recv(65536)
        connection.sendall(b"GET /be" if head == "whole" else b"")
        begin = time.monotonic()
        while piece := connection.recv(65536):
            answer += piece
        waited = time.monotonic() - begin
        assert requests.get(f"http://127.0.0.1:{port}/beat", timeout=60).json() == "beats"
    assert waited < 4.5  # and the server's own limit between requests is five
    assert answer.endswith(b'"beats"') == (head == "whole")


def unfinished(port: int, door: str, kind: str) -> tuple[int, bytes]:
    """Status and content of the answer to a request of which the last byte never comes."""
    body = b'--x\r\nContent-Disposition: form-data; name="params"\r\n\r\n{}\r\n--x-'
    length = len(body) + 1
    head = f"{door} HTTP/1.1\r\nHost: here\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=120) as connection:
        connection.sendall(head.encode() + body)
        answer = b""
        while piece := connection.recv(65536):  # until the server hangs up
            answer += piece
    top, _, content = answer.partition(b"\r\n\r\n")
    return int(top.split()[1]), content


def test_an_endpoint_that_waits_cannot_be_moved_by_mistake() -> None:
    async def waits() -> None:
        await Never()

    class Never:
        def __await__(self) -> Iterator[None]:
            yield

    with pytest.raises(RuntimeError, match="waits for something"):
        _threaded(waits)()


class SlowStore:
    """A datastore that notes how many change it at once."""

    def __init__(self) -> None:
        self.inside, self.most, self._lock = 0, 0, threading.Lock()
        self._datastore = SimpleNamespace(objects={"case": None})

    def list_images(self) -> list[str]:
        return ["case"]

    def update_image_info(self, image: str, info: dict[str, Any]) -> None:
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        time.sleep(0.05)
        with self._lock:
            self.inside -= 1


def test_what_changes_the_datastore_is_done_one_at_a_time() -> None:
    api, store = FastAPI(), SlowStore()
    api.include_router(datastore_door(SimpleNamespace(datastore=lambda: store), 1))
    with TestClient(api) as client, ThreadPoolExecutor(6) as pool:
        ask = {"params": {"image": "case"}, "files": {"info": (None, "{}")}}
        answers = list(pool.map(lambda _: client.put("/datastore/image/info", **ask).status_code, range(6)))
    assert answers == [200] * 6
    assert store.most == 1


class SlowLine:
    """A way to a server on this machine, on which every piece of an answer takes its time."""

    def __init__(self, port: int, delay_s: float) -> None:
        self._far, self.delay_s = port, delay_s
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> SlowLine:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._far))
            for way in ((near, far, False), (far, near, True)):
                threading.Thread(target=self._carry, args=way, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, is_answer: bool) -> None:
        with source, target:
            try:
                while piece := source.recv(2**16):
                    time.sleep(self.delay_s if is_answer else 0.0)
                    target.sendall(piece)
                target.shutdown(socket.SHUT_WR)
            except OSError:
                return


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose studies are in an archive at the other end of a slow line."""
    folder = tmp_path_factory.mktemp("far")
    rng = np.random.default_rng(0)
    for number in range(2):
        info = SeriesInfo(f"P-{number}", f"Doe^{number}", description="abdomen", date="20260105")
        array = rng.integers(-500, 500, (64, 64, 24)).astype(np.int16)
        write_series(folder / "files" / f"{number}", array, np.diag([-2.0, -2.0, 3.0, 1.0]), info, list(range(24)))
    with (
        DemoArchive(folder / "files", free_port(0)) as archive,
        SlowLine(archive.port, 0.0) as line,
        Server(folder / "server", f"http://127.0.0.1:{line.port}/dicom-web") as server,
    ):
        server.line = line
        yield server


def answered_meanwhile(server: Server, slow: Future[Any], path: str) -> int:
    """How many requests are answered, one after the other, until a slow one is."""
    answered = 0
    while not slow.done():
        assert server.http.get(f"{server.url}{path}", timeout=600).status_code == 200
        answered += not slow.done()
    return answered


ASK: dict[str, Callable[[Server], requests.Response]] = {
    "next sample": lambda server: server.http.post(f"{server.url}/activelearning/first", json={}, timeout=600),
    "what is stored": lambda server: server.http.get(f"{server.url}/datastore/?output=train", timeout=600),
}


@pytest.mark.parametrize("question", ASK)
def test_others_are_answered_while_the_archive_is_slow(
    far: Server, question: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(far.line, "delay_s", 2.0)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(ASK[question], far)
        assert answered_meanwhile(far, slow, "/favicon.ico") > 2
        assert slow.result().status_code == 200, far.log_tail()


def test_a_mask_can_be_had_as_a_dicom_seg(far: Server) -> None:
    series = far.http.get(f"{far.url}/datastore/?output=all", timeout=600).json()["objects"]
    (image, *_) = series
    asked = {"image": image, "output": "dicom_seg"}
    form = {"params": (None, json.dumps({"organ": [[30, 30, 12]]}))}
    answer = far.http.post(f"{far.url}/infer/sam3d", params=asked, files=form, timeout=600)
    assert answer.status_code == 200, answer.text[:300]
    assert answer.headers["content-type"] == "application/dicom"
    seg = pydicom.dcmread(io.BytesIO(answer.content))
    assert [segment.SegmentLabel for segment in seg.SegmentSequence] == ["organ"]
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == image
    assert seg.pixel_array.any()
    empty = far.http.post(f"{far.url}/infer/sam3d", params=asked, timeout=600)
    assert (empty.status_code, "without any voxel" in empty.json()["detail"]) == (422, True)
    assert far.files_left() == []
