"""What 3D Slicer says to the server, by the client that its extension brings, over a folder of NIfTI files."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import requests

from network.small_runs import ball_cases, small_settings
from serving import Server

pytestmark = [
    pytest.mark.app,
    pytest.mark.slow,
    # The client leaves its files and sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

CLIENT = Path(sys.prefix) / "monailabel" / "plugins" / "slicer" / "MONAILabel" / "MONAILabelLib" / "client.py"
N_CASES = 6
# `background` is the user's first segment, as Slicer makes them from /info/: so idx is one more than the voxels' value.
LABEL_INFO = [{"name": "lesion", "idx": 2}, {"name": "organ", "idx": 3}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("slicer")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    """Six images with a ball each, whose labels are elsewhere, and a network that trains in seconds."""
    settings = small_settings(folder)
    for case in ball_cases(folder / "studies", N_CASES):
        case.label.rename(folder / case.label.name)
    conf = {"checkpoint": str(settings.checkpoint), "model_folder": str(settings.model_folder)}
    conf |= {"labels": "lesion,organ,background", "steps_per_epoch": "2", "click_rounds": "1", "publish_margin": "0"}
    with Server(folder / "server", folder / "studies", conf) as running:
        yield running


@pytest.fixture(scope="module")
def client_module() -> Any:
    spec = importlib.util.spec_from_file_location("slicer_client", CLIENT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports cgi, which warns of its removal in Python 3.13
        spec.loader.exec_module(module)
    return module


@pytest.fixture
def clients(server: Server, client_module: Any, tmp_path: Path) -> Callable[[str], Any]:
    """A client as Slicer makes one, by the name that its user set."""
    return lambda name: client_module.MONAILabelClient(server.url, tmpdir=str(tmp_path), client_id=name)


def voxels(path: str | Path) -> np.ndarray:
    if str(path).endswith(".nrrd"):
        import SimpleITK as sitk

        return sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T
    return np.asarray(nibabel.load(path).dataobj)


def submitted(folder: Path, name: str) -> tuple[Path, np.ndarray]:
    """A label file as Slicer exports it: 1 is the ball (lesion), 2 a bar beside it (organ)."""
    truth = nibabel.load(folder / f"{name}_label.nii.gz")
    values = (np.asarray(truth.dataobj) > 0).astype(np.uint8)
    bar = np.zeros_like(values)
    bar[1:4, 1:4, :] = 2
    values = np.where(values, values, bar)
    path = folder / f"{name}.nii.gz"
    nibabel.save(nibabel.Nifti1Image(values, truth.affine), path)
    return path, values


def test_a_local_image_is_annotated_in_a_session_and_then_uploaded(
    clients: Callable[[str], Any], folder: Path, server: Server, tmp_path: Path
) -> None:
    anna = clients("anna")
    assert anna.info()["labels"] == ["lesion", "organ", "background"]
    image = nibabel.load(folder / "studies" / "case_0.nii.gz")
    local = tmp_path / "my image.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj) + 1, image.affine), local)
    session = anna.create_session(str(local))["session_id"]
    points = {"lesion": [[10, 10, 10]], "organ": [], "background": [[2, 2, 2]], "label": "lesion"}
    box = [16, 6, 6, 16, 15, 4]  # along i and k Slicer's axes run the other way
    path, params = anna.infer("sam3d", "", {**points, "roi": box, "result_extension": ".nrrd"}, session_id=session)
    mask = voxels(path)
    assert mask.shape == image.shape
    assert mask[10, 10, 10] == anna.info()["models"]["sam3d"]["labels"]["lesion"]
    inside = np.zeros(mask.shape, bool)
    inside[6:17, 6:17, 4:16] = True
    assert not mask[~inside].any()
    assert params["label_names"] == {"lesion": 1}
    anna.remove_session(session)

    label = tmp_path / "label.nii.gz"
    nibabel.save(nibabel.Nifti1Image(mask, image.affine), label)
    anna.upload_image(str(local), "mine")
    anna.save_label("mine", str(label), params={"label_info": [{"name": "lesion", "idx": 2}]})
    assert "mine" in anna.datastore()["objects"]
    assert np.array_equal(voxels(anna.download_label("mine", "final")), mask)
    assert server.files_left() == []


def test_next_sample_gives_two_users_different_cases(clients: Callable[[str], Any], server: Server) -> None:
    names = [f"user{number}" for number in range(3)]
    with ThreadPoolExecutor(3) as pool:
        samples = list(pool.map(lambda name: clients(name).next_sample("first", {}), names))
    assert {sample["id"] for sample in samples} == {"case_0", "case_1", "case_2"}
    for sample in samples:
        assert Path(sample["path"]) == server.studies / f"{sample['id']}.nii.gz"
        assert sample["name"] == f"{sample['id']}.nii.gz"
    assert clients("bert").infer("sam3d", "case_3", {"lesion": [[10, 10, 10]]})[1]["n_clicks"] == 1
    assert clients("carl").next_sample("first", {})["id"] == "case_4"  # case_3 is Bert's since he clicked on it
    assert clients("dora").next_sample("random", {})["id"] == "case_5"
    late = server.http.post(f"{server.url}/activelearning/random", json={"client_id": "emil"}, timeout=60)
    assert late.status_code == 409
    assert "last 6 cases" in late.json()["detail"]
    unknown = server.http.post(f"{server.url}/activelearning/second", json={}, timeout=60)
    assert unknown.status_code == 404
    assert "['diversity', 'first', 'hybrid', 'random', 'uncertainty']" in unknown.json()["detail"]


def ask_next(server: Server, name: str) -> requests.Response:
    return server.http.post(f"{server.url}/activelearning/first", json={"client_id": name}, timeout=60)


def test_a_saved_case_is_not_offered_again_and_a_new_one_is(
    clients: Callable[[str], Any], folder: Path, server: Server
) -> None:
    bert = clients("bert")
    path, _ = submitted(folder, "case_3")
    bert.save_label("case_3", str(path), params={"label_info": LABEL_INFO})
    assert ask_next(server, "bert").status_code == 409
    # Another image: with the bytes of case_3 it would have its label.
    image = nibabel.load(server.studies / "case_3.nii.gz")
    fresh = nibabel.Nifti1Image(np.asarray(image.dataobj) + 9, image.affine)
    nibabel.save(fresh, server.folder / "case_9.nii.gz")
    (server.folder / "case_9.nii.gz").rename(server.studies / "case_9.nii.gz")
    limit = time.monotonic() + 300
    while not (answer := ask_next(server, "bert")).ok:
        assert time.monotonic() < limit
        time.sleep(0.2)
    assert answer.json()["id"] == "case_9"


def test_labels_are_trained_on_by_name_while_clicks_go_on(
    clients: Callable[[str], Any], folder: Path, server: Server
) -> None:
    """The trap of Slicer's `idx`: taken for a value, 1 would have no name and no case could be used."""
    anna = clients("anna")
    for number in range(N_CASES):
        path, values = submitted(folder, f"case_{number}")
        anna.save_label(f"case_{number}", str(path), params={"label_info": LABEL_INFO, "model": "sam3d"})
        assert np.array_equal(voxels(anna.download_label(f"case_{number}", "final")), values)
    assert anna.info()["datastore"]["completed"] == N_CASES + 1
    assert anna.train_start("sam3d", {"max_epochs": 1})["status"] in ("SUBMITTED", "RUNNING")
    limit = time.monotonic() + 1200
    while (state := train_state(server))["status"] in ("SUBMITTED", "RUNNING"):
        assert time.monotonic() < limit
        path, _ = anna.infer("sam3d", "case_1", {"lesion": [[10, 10, 10]], "organ": [[2, 2, 9]]})
        mask = voxels(path)
        assert (mask[10, 10, 10], mask[2, 2, 9]) == (1, 2)
        time.sleep(5.0)
    assert state["status"] == "DONE", state["details"]
    reports = [json.loads(path.read_text()) for path in (folder / "model").rglob("*.json")]
    measured = [report for report in reports if "organ" in json.dumps(report) and "lesion" in json.dumps(report)]
    assert measured, "no record of the run names both labels"


def train_state(server: Server) -> dict[str, Any]:
    state: dict[str, Any] = server.http.get(f"{server.url}/train/", timeout=60).json()
    return state


def test_no_case_left_is_told_without_an_id(clients: Callable[[str], Any], folder: Path, server: Server) -> None:
    """Slicer asks for the id, and warns in its own words where there is none."""
    labels = server.studies / "labels" / "final"
    for image in server.studies.glob("*.nii.gz"):
        if not (labels / image.name).exists():
            (labels / image.name).write_bytes((folder / "case_0_label.nii.gz").read_bytes())
    limit = time.monotonic() + 300
    while not (answer := ask_next(server, "anna")).ok or "id" in answer.json():
        assert time.monotonic() < limit, answer.text
        time.sleep(0.2)
    sample = clients("bert").next_sample("first", {})
    assert sample == {"detail": "every case has a label: add studies, or open one by hand to correct its label"}
