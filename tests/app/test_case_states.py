"""A case on its way from hand to hand, asked of a running server: annotators, a reviewer, Next Sample and training."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from serving import CASE_SHAPE, TUMOR, Server, make_case, read_mask, write_study

pytestmark = [pytest.mark.app, pytest.mark.slow]

TIMEOUT_S = 120


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two cases; training takes reviewed labels only."""
    folder = tmp_path_factory.mktemp("states")
    (folder / "studies").mkdir()
    array, affine = make_case()
    for number, name in enumerate(("first", "second")):
        write_study(folder / "studies" / f"{name}.nii.gz", array + number, affine)
    conf = {"labels": "tumor", "model_folder": str(folder / "model"), "train_on": "reviewed", "next_sample": "first"}
    with Server(folder / "server", folder / "studies", conf) as running:
        yield running


def post(server: Server, path: str, image: str, body: Any) -> requests.Response:
    return server.http.post(f"{server.url}{path}", params={"image": image}, json=body, timeout=TIMEOUT_S)


def submit(server: Server, image: str, **info: Any) -> None:
    voxels = np.zeros(CASE_SHAPE, np.uint8)
    voxels[4:9, 4:9, 4:9] = 1
    params = {"label_info": [{"name": "tumor", "idx": 1}], **info}
    reply = server.http.put(
        f"{server.url}/datastore/label",
        params={"image": image},
        files={"params": (None, json.dumps(params)), "label": ("label.bin", voxels.tobytes(order="F"))},
        timeout=TIMEOUT_S,
    )
    assert reply.ok, reply.text


def listed(server: Server, state: str = "") -> list[dict[str, Any]]:
    return server.http.get(f"{server.url}/cases/", params={"state": state}, timeout=TIMEOUT_S).json()


def test_a_case_goes_from_hand_to_hand(server: Server) -> None:
    anna = {"client_id": "ohif-1", "client_name": "Anna"}
    emil = {"client_id": "ohif-2", "client_name": "Emil"}
    assert [each["state"] for each in listed(server)] == ["new", "new"]

    # Anna clicks, Emil opens the same case: each is told of the other.
    assert "also_open" not in server.infer({"tumor": [TUMOR], **anna}, "second", output="json").params
    opened = post(server, "/cases/open", "second", emil).json()
    assert (opened["state"], opened["in_work_by"], opened["also_open"]) == ("in work", "Anna", ["Anna"])
    assert opened["may_review"]  # without a login everybody may
    assert server.infer({"tumor": [TUMOR], **anna}, "second", output="json").params["also_open"] == ["Emil"]
    assert server.infer({"tumor": [TUMOR], **anna}, "second", output="all").params["also_open"] == ["Emil"]
    post(server, "/cases/leave", "second", emil)
    assert post(server, "/cases/open", "second", anna).json()["also_open"] == []

    submit(server, "second", **anna)
    (waiting,) = listed(server, "submitted")
    assert (waiting["id"], waiting["by"], waiting["version"]) == ("second", "Anna", 1)
    refused = server.http.post(f"{server.url}/train/sam3d", json={}, timeout=TIMEOUT_S)
    assert refused.status_code == 409
    assert "no label is approved yet" in refused.json()["detail"]

    sent_back = post(server, "/cases/send_back", "second", {**emil, "comment": "it is a liver", "version": 1})
    assert sent_back.json()["state"] == "rejected"
    states = server.info()["datastore"]["states"]
    assert (states["rejected"], states["submitted"]) == (1, 0)
    assert server.info()["datastore"]["rejected"] == {"second": "sent back by Emil: it is a liver"}

    # It comes back before a case that nobody began.
    given = server.http.post(f"{server.url}/activelearning/first", json=anna, timeout=TIMEOUT_S).json()
    assert (given["id"], given["reason"]) == ("second", "sent back by Emil: it is a liver")
    again = post(server, "/cases/open", "second", anna).json()
    assert (again["state"], again["comment"], again["reviewer"]) == ("in work", "it is a liver", "Emil")
    other = server.http.post(f"{server.url}/activelearning/first", json=emil, timeout=TIMEOUT_S).json()
    assert other["id"] == "first"

    submit(server, "second", **anna)
    approved = post(server, "/cases/approve", "second", {**emil, "version": 2}).json()
    assert (approved["state"], approved["reviewer"], approved["version"]) == ("reviewed", "Emil", 2)
    assert server.info()["datastore"]["states"]["reviewed"] == 1


def test_a_label_is_downloaded_and_what_cannot_be_is_refused(server: Server) -> None:
    submit(server, "second")
    address = f"{server.url}/cases/download"

    def get(**asked: Any) -> requests.Response:
        return server.http.get(address, params=asked, timeout=TIMEOUT_S)

    packed = get(image="second", format="nifti")
    assert packed.headers["content-disposition"].startswith("attachment; filename*=utf-8''second_v")
    mask = read_mask(packed.content)
    assert (int(mask.sum()), bool(mask[4:9, 4:9, 4:9].all())) == (125, True)
    assert np.array_equal(read_mask(get(image="second", format="nrrd", version=1).content), mask)
    refused = {
        "format is 'stl'": get(image="second", format="stl"),
        "there is no image 'third'": get(image="third", format="nifti"),
        "image first has no label that is stored": get(image="first", format="nifti"),
        "image second has no version 99 of a label": get(image="second", format="nifti", version=99),
        "rtstruct refers to a DICOM series": get(image="second", format="rtstruct"),
        "the tag is '../final'": get(image="second", format="nifti", tag="../final"),
        "image second has no label tagged original that is stored": get(image="second", format="nifti", tag="original"),
        "image second has no SEG ../1.2 to start from": get(image="second", format="nifti", seg="../1.2"),
        "seg is '1.2' beside a version or a tag": get(image="second", format="nifti", seg="1.2", version=1),
    }
    assert {sentence: sentence in reply.json()["detail"] for sentence, reply in refused.items()} == dict.fromkeys(
        refused, True
    )
    assert [reply.status_code for reply in refused.values()] == [422, 404, 404, 404, 422, 422, 404, 404, 422]
    assert server.files_left() == []


@pytest.mark.parametrize(
    ("path", "image", "body", "status", "sentence"),
    [
        ("/cases/open", "nowhere", {}, 404, "there is no image 'nowhere' here"),
        ("/cases/approve", "nowhere", {}, 404, "there is no image 'nowhere' here"),
        ("/cases/approve", "first", {}, 409, "first has no label to review"),
        ("/cases/approve", "first", {"version": "1"}, 422, "version is '1': send the number"),
        ("/cases/approve", "first", {"version": True}, 422, "version is 'True': send the number"),
        ("/cases/send_back", "first", {"comment": ["x"]}, 422, "it must be a text"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(
    server: Server, path: str, image: str, body: Any, status: int, sentence: str
) -> None:
    refused = post(server, path, image, body)
    assert (refused.status_code, sentence in refused.json()["detail"]) == (status, True), refused.text


def test_an_unknown_state_is_refused(server: Server) -> None:
    refused = server.http.get(f"{server.url}/cases/", params={"state": "done"}, timeout=TIMEOUT_S)
    assert refused.status_code == 422
    assert "state is 'done'" in refused.json()["detail"]


def test_the_cases_are_a_page_of_what_is_to_be_done(server: Server) -> None:
    def page(**asked: str) -> str:
        reply = server.http.get(f"{server.url}/cases/list", params=asked, timeout=TIMEOUT_S)
        assert (reply.status_code, reply.headers["content-type"]) == (200, "text/html; charset=utf-8"), reply.text
        assert "default-src 'none'" in reply.headers["content-security-policy"]
        return reply.text

    submit(server, "second", client_id="ohif-1", client_name="Anna <b>")
    number = listed(server, "submitted")[0]["version"]
    post(server, "/cases/send_back", "second", {"client_name": "Emil", "comment": "<script>alert(1)</script>"})
    cells = [text for row in page().split("<tr>")[2:] for text in re.split("<[^>]+>", row.partition("</table>")[0])]
    second = [text for text in cells[: cells.index("first")] if text]
    assert second[:3] == ["second", "rejected", f"version {number} by Anna &lt;b&gt;"]
    assert second[-1] == "Emil: &lt;script&gt;alert(1)&lt;/script&gt;"
    assert "<script" not in page()
    assert "view?image=first" not in page(state="rejected")
    assert "<h1>sam3d: 0 of 2 cases</h1>" in page(state="reviewed")
    asked = server.http.get(f"{server.url}/cases/list", params={"state": "done"}, timeout=TIMEOUT_S)
    assert (asked.status_code, "state is 'done'" in asked.json()["detail"]) == (422, True)
    shown = server.http.get(f"{server.url}/cases/view", params={"image": "first"}, timeout=TIMEOUT_S)
    assert (shown.status_code, "first is no DICOM study" in shown.json()["detail"]) == (404, True)


def test_what_there_is_to_start_from_is_listed_and_downloaded(server: Server) -> None:
    def starts(image: str) -> list[dict[str, Any]]:
        return server.http.get(f"{server.url}/cases/starts", params={"image": image}, timeout=TIMEOUT_S).json()

    assert starts("first") == []
    made = server.http.post(
        f"{server.url}/batch/infer/sam3d_auto", params={"run_sync": "true"}, json={"max_workers": 1}, timeout=TIMEOUT_S
    ).json()
    assert made["first"]["tag"] == "original"
    (draft,) = starts("first")
    told = {key: draft[key] for key in ("kind", "tag", "version", "by", "labels")}
    assert told == {"kind": "draft", "tag": "original", "version": 1, "by": "sam3d_auto base", "labels": ["tumor"]}
    submit(server, "first", client_id="ohif-1", client_name="Anna", started_from={"tag": "original", "version": 1})
    listed = starts("first")
    assert [(each["kind"], each["version"], each["by"]) for each in listed] == [
        ("label", 1, "Anna"),
        ("draft", 1, "sam3d_auto base"),
    ]
    for each in listed:
        asked = {"image": "first", "format": "nrrd", "tag": each["tag"], "version": each["version"]}
        reply = server.http.get(f"{server.url}/cases/download", params=asked, timeout=TIMEOUT_S)
        file = server.studies / "labels" / each["tag"] / "first.nii.gz"
        assert np.array_equal(read_mask(reply.content) > 0, read_mask(file.read_bytes()) > 0)
    assert reply.headers["content-disposition"].endswith("first_original_v1.seg.nrrd")
    refused = server.http.get(f"{server.url}/cases/starts", params={"image": "nowhere"}, timeout=TIMEOUT_S)
    assert (refused.status_code, "there is no image 'nowhere' here" in refused.json()["detail"]) == (404, True)


def test_who_said_what_stands_in_the_audit_log(server: Server) -> None:
    lines = [json.loads(line) for line in (Path(server.conf["model_folder"]) / "audit.jsonl").read_text().splitlines()]
    deeds = {(line["deed"], line.get("image")) for line in lines}
    assert {("send label back", "second"), ("approve label", "second"), ("list labels", "first")} <= deeds
