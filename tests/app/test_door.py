"""Forms as they should not be, and many clients at once: who is answered, who is sent away, and what is left behind."""

from __future__ import annotations

import json
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import requests

from lib.network.weights import save_weights
from network.small_networks import SMALL, card_of, small_network
from serving import CASE_SHAPE, TUMOR, Reply, Server, make_case, write_study
from test_bad_input import check_refused

pytestmark = pytest.mark.app

BOUNDARY = "----------lImIt_of_THE_fIle_eW_$"


def send(server: Server, body: Any, kind: str | None = f"multipart/form-data; boundary={BOUNDARY}") -> Reply:
    """POST a body as it is."""
    headers = {"Content-Type": kind} if kind else {}
    response = server.http.post(
        f"{server.url}/infer/sam3d", params={"image": "case"}, data=body, headers=headers, timeout=300
    )
    is_json = "json" in response.headers.get("content-type", "")
    return Reply(response.status_code, detail=response.json()["detail"] if is_json else response.text)


def part(content: bytes, name: str = "params", more: str = "") -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'
    return head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ("{no json", ("no JSON", "character 1")),
        ('{"tumor": [[1, 2, 3]]', ("no JSON",)),
        ("[[1, 2, 3]]", ("JSON object", "[[1, 2, 3]]")),
        ("null", ("JSON object",)),
        ("7", ("JSON object",)),
        ('"tumor"', ("JSON object",)),
        ('{"tumor": ' + "[" * 100_000, ("too deep",)),
        ('{"tumor": [[' + "9" * 5000 + ", 2, 3]]}", ("too long",)),
        (r'{"\ud800": [[1, 2, 3]]}', ("UTF-8",)),
    ],
    ids=["word", "cut", "list", "null", "number", "text", "deep", "digits", "surrogate"],
)
def test_params_that_are_no_object_are_refused(server: Server, params: str, words: tuple[str, ...]) -> None:
    check_refused(server, server.infer(params), (422,), "params", *words)


def test_names_in_another_encoding_are_refused(server: Server) -> None:
    text = '{"Gefäß": [[10, 10, 10]]}'
    assert send(server, part(text.encode("utf-8"))).status == 200
    for encoding in ("latin-1", "utf-16"):
        check_refused(server, send(server, part(text.encode(encoding))), (422,), "UTF-8")


def test_what_is_no_form_is_refused(server: Server) -> None:
    check_refused(server, send(server, b'{"tumor": []}', "application/json"), (422,), "application/json", "form")
    check_refused(server, send(server, b'{"tumor": []}', None), (422,), "form")
    check_refused(server, send(server, part(b"{}"), "multipart/form-data"), (422,), "boundary")
    check_refused(server, send(server, b"not a form at all"), (422,), "form")
    check_refused(server, send(server, part(b"{}")[:60]), (422,), "form")
    assert send(server, b"params=%7B%7D", "application/x-www-form-urlencoded").status == 200
    assert send(server, b"", None).status == 200


def test_fields_of_the_wrong_kind_are_refused(server: Server) -> None:
    check_refused(server, send(server, part(b"{}", more='; filename="params.json"')), (422,), "params is a file")
    check_refused(server, send(server, part(b"case.nii.gz", "file")), (422,), "file is a text")
    for name in ("letter.docx", "../../etc/passwd"):
        reply = server.infer({}, image="", files={"file": (name, b"no image")})
        check_refused(server, reply, (422,), "must end in", ".nii.gz")
    many = b"".join(part(b"x", f"field{number}").removesuffix(f"--{BOUNDARY}--\r\n".encode()) for number in range(40))
    check_refused(server, send(server, many + part(b"{}")), (422,), "Too many fields")


@pytest.mark.parametrize("output", ["png", "IMAGE", "image,json"])
def test_an_unknown_output_is_refused(server: Server, output: str) -> None:
    check_refused(server, server.infer({}, output=output), (422,), "output", "dicom_seg")


def test_dicom_seg_is_for_dicom_studies(server: Server) -> None:
    check_refused(server, server.infer({"tumor": [list(TUMOR)]}, output="dicom_seg"), (422,), "DICOMweb")


def test_a_body_beyond_the_limit_is_refused(server: Server) -> None:
    limit = int(server.conf["max_upload_mib"]) * 2**20
    reply = server.infer({"tumor": [], "padding": "x" * (5 * 2**20)})
    check_refused(server, reply, (413,), "4194304")
    whole = part(b"\0" * (limit - 400), "file", '; filename="huge.nii.gz"')
    assert send(server, whole).status == 422  # as long as it may be, and no image

    def chunks() -> Iterator[bytes]:  # its length is not declared
        yield part(b"", "file", '; filename="huge.nii.gz"').partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        for _ in range(limit // 2**16 + 1):
            yield b"\0" * 2**16

    check_refused(server, send(server, chunks()), (413,), str(limit), "max_upload_mib")
    declared = {"Content-Length": str(limit + 1), "Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    reply = raw_reply(server, declared, b"")
    check_refused(server, reply, (413,), str(limit), "max_upload_mib")


def raw_reply(server: Server, headers: dict[str, str], body: bytes) -> Reply:
    """The answer to a request of which `body` alone is sent."""
    with raw_request(server, "case", headers, body) as connection:
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
            if b'"}' in answer:
                break
    head, _, content = answer.partition(b"\r\n\r\n")
    return Reply(int(head.split()[1]), detail=json.loads(content)["detail"])


@contextmanager
def raw_request(server: Server, image: str, headers: dict[str, str], body: bytes) -> Iterator[socket.socket]:
    host, port = server.url.removeprefix("http://").split(":")
    lines = [f"POST /infer/sam3d?image={image} HTTP/1.1", f"Host: {host}", *(f"{k}: {v}" for k, v in headers.items())]
    with socket.create_connection((host, int(port)), timeout=300) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        yield connection


@pytest.mark.parametrize("way", ["wsi", "wsi_v2"])
def test_there_is_no_way_around_the_door(server: Server, way: str) -> None:
    answer = server.http.post(f"{server.url}/infer/{way}/sam3d", params={"image": "case"}, timeout=60)
    assert answer.status_code == 404
    assert "whole slides" in answer.json()["detail"]


def test_the_stock_answer_in_each_shape(server: Server) -> None:
    """The same voxels as file, in a form and as JSON, under the names and types that the clients look at."""
    url, asked = f"{server.url}/infer/sam3d", {"params": (None, json.dumps({"tumor": [list(TUMOR)]}))}
    answers = {
        output: server.http.post(url, params={"image": "case", **output_of(output)}, files=asked, timeout=300)
        for output in ("", "all", "image", "json")
    }
    assert answers["image"].headers["content-type"] == "application/gzip" or answers["image"].content[:2] == b"\x1f\x8b"
    assert answers["image"].headers["content-disposition"].startswith('attachment; filename="')
    assert answers["image"].headers["content-disposition"].endswith('.nii.gz"')
    assert answers["json"].json()["label_names"].keys() == {"tumor"}
    for output in ("", "all"):
        assert answers[output].headers["content-type"].startswith("multipart/form-data; boundary=")
        assert answers["image"].content in answers[output].content
        assert b'name="params"' in answers[output].content
    assert server.files_left() == []


def output_of(output: str) -> dict[str, str]:
    return {"output": output} if output else {}


def test_the_stock_route_still_describes_the_contract(server: Server) -> None:
    schema = server.http.get(f"{server.url}/openapi.json", timeout=60).json()
    names = {parameter["name"] for parameter in schema["paths"]["/infer/{model}"]["post"]["parameters"]}
    assert names >= {"model", "image", "session_id", "output"}


# An encode of these takes seconds, here and on faster machines.
SLOW = replace(SMALL, patch_size=64, embed_dim=192, num_heads=6, sam_grid_size=16, depth=12, neck_blocks=(2, 5, 8, 11))
PLACES = 3
CASES = [f"case{number}" for number in range(9)]


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a slow encoder, random weights and three places."""
    folder = tmp_path_factory.mktemp("busy")
    (folder / "studies").mkdir()
    array, affine = make_case()
    for number, case in enumerate(CASES):
        write_study(folder / "studies" / f"{case}.nii.gz", array + number, affine)
    weights = folder / "slow.safetensors"
    save_weights(small_network(0, SLOW), card_of(SLOW), weights)
    conf = {"checkpoint": str(weights), "max_requests": str(PLACES), "max_patches": "1"}
    conf["model_folder"] = str(folder / "model")
    with Server(folder / "server", folder / "studies", conf) as running:
        yield running


CLICK = {"lesion": [list(TUMOR)], "result_extension": ".nrrd"}


@pytest.fixture
def users() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2 * PLACES) as pool:
        yield pool


def click(server: Server, image: str) -> requests.Response:
    """The params that answer one click, over a connection of its own."""
    with requests.Session() as http:
        http.trust_env = False
        asked = {"image": image, "output": "json"}
        form = {"params": (None, json.dumps(CLICK))}
        return http.post(f"{server.url}/infer/sam3d", params=asked, files=form, timeout=600)


def answered_meanwhile(slow: Future[requests.Response], ask: Callable[[], requests.Response]) -> int:
    """How many requests are answered, one after the other, until a slow one is."""
    answered = 0
    while not slow.done():
        assert ask().status_code == 200
        answered += not slow.done()
    assert slow.result().status_code == 200
    return answered


def test_others_are_answered_while_one_encodes(busy: Server, users: ThreadPoolExecutor) -> None:
    """On the event loop, or with one lock around everything, one of each could slip in at most."""
    n_patches = click(busy, "case0").json()["n_encoded"]
    assert n_patches > 0
    slow = users.submit(click, busy, "case1")
    assert answered_meanwhile(slow, lambda: busy.http.get(f"{busy.url}/info/", timeout=600)) > 1
    slow = users.submit(click, busy, "case2")
    assert answered_meanwhile(slow, lambda: click(busy, "case0")) > 1
    assert slow.result().json()["n_encoded"] == n_patches


def test_two_users_of_one_patch_encode_it_once(busy: Server, users: ThreadPoolExecutor) -> None:
    answers = [answer.json() for answer in users.map(click, [busy] * 2, ["case3"] * 2)]
    n_patches = max(answer["n_patches"] for answer in answers)  # whoever comes second may be given the first's mask
    assert sum(answer["n_encoded"] for answer in answers) == n_patches > 0


def test_whoever_finds_no_place_is_told_to_come_back(busy: Server, users: ThreadPoolExecutor) -> None:
    answers = list(users.map(click, [busy] * (PLACES + 2), CASES[4:]))
    assert sorted(answer.status_code for answer in answers) == [200] * PLACES + [429] * 2
    for answer in answers:
        if answer.status_code == 429:
            assert int(answer.headers["retry-after"]) > 0
            assert f"{PLACES} requests" in answer.json()["detail"]
            assert "try again" in answer.json()["detail"]
    assert [answer.status_code for answer in users.map(click, [busy] * PLACES, CASES[4:7])] == [200] * PLACES
    assert busy.files_left() == []


def test_clients_that_go_away_leave_nothing(busy: Server) -> None:
    """No file, no place taken, and no encode that nobody waits for, but the one that may have begun."""
    fresh = [f"fresh{number}" for number in range(PLACES)]
    array, affine = make_case()
    for number, case in enumerate(fresh):
        write_study(busy.studies / f"{case}.nii.gz", array - 1 - number, affine)
    wait_until(lambda: busy.info()["datastore"]["total"] == len(CASES) + len(fresh))
    body = part(json.dumps(CLICK).encode())
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", "Content-Length": str(len(body))}
    for case in fresh:
        with raw_request(busy, case, headers, body):
            pass
    half = part(b"\0" * 3 * 2**20, "file", '; filename="half.nii.gz"')
    for _ in range(PLACES):
        with raw_request(busy, "case0", {**headers, "Content-Length": str(2 * len(half))}, half):
            pass
    answers = [answered(busy, case) for case in fresh]
    assert sum(answer.json()["n_encoded"] for answer in answers) >= PLACES - 1
    assert busy.files_left() == []


def answered(server: Server, image: str, limit_s: float = 300.0) -> requests.Response:
    """The answer to a click, which is sent again for as long as there is no place."""
    limit = time.monotonic() + limit_s
    while (answer := click(server, image)).status_code == 429:
        assert time.monotonic() < limit
        time.sleep(0.2)
    assert answer.status_code == 200, answer.text
    return answer


def wait_until(is_so: Callable[[], bool], limit_s: float = 300.0) -> None:
    limit = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < limit
        time.sleep(0.05)


@pytest.mark.parametrize("output", ["all", "image"])
def test_a_mask_is_packed_for_whoever_can_unpack_it(server: Server, output: str) -> None:
    params = {"tumor": [list(TUMOR)], "result_extension": ".nrrd"}
    bodies = {}
    for encoding in ("identity", "gzip", "gzip, deflate, br"):
        answer = server.http.post(
            f"{server.url}/infer/sam3d",
            params={"image": "case", "output": output},
            files={"params": (None, json.dumps(params))},
            headers={"Accept-Encoding": encoding},
            stream=True,
            timeout=300,
        )
        assert "accept-encoding" in answer.headers["vary"]
        packed = answer.raw.read(decode_content=False)
        assert int(answer.headers["content-length"]) == len(packed)
        is_packed = answer.headers.get("content-encoding") == "deflate"
        assert is_packed == ("deflate" in encoding)
        bodies[encoding] = zlib.decompress(packed) if is_packed else packed
        if is_packed:
            assert len(packed) < len(bodies[encoding]) / 20
    masks = [body[body.index(b"NRRD0004") :] for body in bodies.values()]
    voxels = [mask[mask.index(b"\n\n") + 2 :][: int(np.prod(CASE_SHAPE))] for mask in masks]
    assert voxels[0] == voxels[1] == voxels[2]
    assert any(voxels[0])
