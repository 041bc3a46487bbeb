"""Labels put to a running server that serves a DICOMweb archive, as the viewer puts them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
import requests

from archives import DemoArchive
from lib.demo import free_port
from lib.images.dicom_writing import SeriesInfo
from serving import Server
from studies_in_archive import write_image
from unit.test_dicom_writing import affine_of

pytestmark = [pytest.mark.app, pytest.mark.slow]

INFO = SeriesInfo("P-1", "Müller^Jörg")
SHAPE = (12, 10, 6)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoArchive]:
    folder = tmp_path_factory.mktemp("archive") / "files"
    write_image(folder, INFO, affine_of("PSL", turn=0.3), SHAPE)
    with DemoArchive(folder, free_port(0)) as running:
        yield running


@pytest.fixture(scope="module")
def server(archive: DemoArchive, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server"), archive.url, {"labels": "liver,Gefäß"}) as running:
        yield running


def put(server: Server, voxels: np.ndarray) -> requests.Response:
    params = {
        "label_info": [{"name": "liver", "idx": 1}, {"name": "Gefäß", "idx": 2}],
        "model": "sam3d",
        "clicks": {"liver": [[1, 2, 3]]},
    }
    return server.http.put(
        f"{server.url}/datastore/label",
        params={"image": INFO.uid()},
        files={"params": (None, json.dumps(params)), "label": ("label.bin", voxels.tobytes(order="F"))},
        timeout=60,
    )


def test_a_label_is_stored_and_the_reply_says_where(server: Server, archive: DemoArchive) -> None:
    voxels = np.random.default_rng(0).integers(0, 3, SHAPE).astype(np.uint8)
    replies = [put(server, voxels).json() for _ in range(2)]
    assert [reply["version"] for reply in replies] == [1, 2]
    assert replies[1]["note"].startswith("It is version 2 of this label, ")
    assert server.info()["datastore"]["completed"] == 1
    (card,) = server.folder.rglob("label_versions/*/final/0001.json")
    noted = json.loads(card.read_text())
    assert (noted["model"], noted["model_version"], noted["clicks"]) == ("sam3d", "base", {"liver": [[1, 2, 3]]})


def test_a_label_of_another_size_is_refused_with_a_sentence(server: Server) -> None:
    reply = put(server, np.zeros((12, 10, 5), np.uint8))
    assert reply.status_code == 422
    assert f"the label has 600 bytes, but image {INFO.uid()} has shape {SHAPE}" in reply.json()["detail"]


def test_the_archive_answers_the_viewer_through_the_server(server: Server, archive: DemoArchive) -> None:
    studies = server.http.get(f"{server.url}/proxy/dicom/qido/studies?PatientID=P-1", timeout=60).json()
    assert [entry["00100020"]["Value"] for entry in studies] == [["P-1"]]
