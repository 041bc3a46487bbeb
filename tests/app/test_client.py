"""A conversation of MONAI Label's own client with the server, about real CT."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from lib.interactive.clicks import first_click
from serving import Server

pytestmark = [
    pytest.mark.app,
    pytest.mark.data,
    # The client leaves its files and sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

DATA = Path(__file__).parents[2].parent / "shared" / "data"
CASES = ("abdomen_totalseg_ct3mm", "sarcoma_ct_028")


@pytest.fixture(scope="module")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    studies = tmp_path_factory.mktemp("real")
    for case in CASES:
        image = DATA / f"{case}_image.nii.gz"
        if not image.exists():
            pytest.skip(f"{image.name} is not beside this repository")
        shutil.copy(image, studies / f"{case}.nii.gz")
    with Server(tmp_path_factory.mktemp("real_server"), studies) as running:
        yield running


@pytest.fixture
def client(real_server: Server, tmp_path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the client imports cgi, which warns of its removal in Python 3.13
        from monailabel.client import MONAILabelClient
    return MONAILabelClient(real_server.url, tmpdir=str(tmp_path))


@pytest.mark.parametrize("case", CASES)
def test_a_click_in_a_real_organ_is_in_its_mask(client: Any, real_server: Server, case: str) -> None:
    info = client.info()
    label = nibabel.load(DATA / f"{case}_label.nii.gz")
    truth = np.asarray(label.dataobj)
    value = int(np.bincount(truth[truth > 0].astype(int)).argmax())
    click = [int(index) for index in first_click(truth == value, np.array(label.header.get_zooms()[:3]))]
    path, params = client.infer("sam3d", case, {"organ": [click], "background": []})
    reply = nibabel.load(path)
    mask = np.asarray(reply.dataobj)
    assert mask.shape == truth.shape
    assert reply.affine == pytest.approx(nibabel.load(DATA / f"{case}_image.nii.gz").affine, abs=1e-3)
    assert mask[tuple(click)] == info["models"]["sam3d"]["labels"]["organ"]
    assert params["label_names"] == {"organ": 2}
    assert 1 < np.count_nonzero(mask) < mask.size / 4
    assert real_server.files_left() == []


def test_a_session_answers_as_the_study_does(client: Any, real_server: Server) -> None:
    case = CASES[0]
    session = client.create_session(str(DATA / f"{case}_image.nii.gz"))["session_id"]
    shape = nibabel.load(DATA / f"{case}_image.nii.gz").shape
    params = {"organ": [[size // 2 for size in shape]], "result_extension": ".nii.gz"}
    of_session, _ = client.infer("sam3d", "", dict(params), session_id=session)
    of_study, _ = client.infer("sam3d", case, dict(params))
    first, second = (np.asarray(nibabel.load(path).dataobj) for path in (of_session, of_study))
    assert np.array_equal(first, second)
    client.remove_session(session)


def test_next_sample_goes_through_the_studies(client: Any) -> None:
    """The tests before clicked on both, so both are this client's: the one clicked on longest ago comes first."""
    asked = [client.next_sample("first", {})["id"], client.next_sample("random", {})["id"]]
    assert sorted(asked) == sorted(CASES)
