"""What goes wrong in a running server's room: a full disk, studies that become read-only, files deleted under it, a
second server on the same folder. A sentence each time, nothing that was acknowledged lost, and it goes on."""

from __future__ import annotations

import gzip
import json
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import nibabel
import numpy as np
import pytest
import requests
from fastapi import HTTPException

from lib.datastore.versioned import VersionedDatastore
from serving import Server, write_study
from small_disks import full, read_only, small_disk

pytestmark = [pytest.mark.app, pytest.mark.slow]

SHAPE = (40, 36, 32)
NAMES = {"label_info": [{"name": "lesion", "idx": 1}]}


def label(seed: int) -> np.ndarray:
    """Noise, which no compression makes small."""
    return np.random.default_rng(seed).integers(0, 2, SHAPE).astype(np.uint8)


def put(server: Server, seed: int, image: str = "case") -> requests.Response:
    return server.http.put(
        f"{server.url}/datastore/label",
        params={"image": image, "tag": "final"},
        data={"params": json.dumps(NAMES)},
        files={"label": ("label.nii.gz", nifti(seed))},
        timeout=120,
    )


def nifti(seed: int) -> bytes:
    return gzip.compress(nibabel.Nifti1Image(label(seed), np.diag([1.5, 1.5, 2.0, 1.0])).to_bytes())


def stored(server: Server, image: str = "case") -> np.ndarray:
    """The label that clients get."""
    answer = server.http.get(f"{server.url}/datastore/label", params={"label": image, "tag": "final"}, timeout=60)
    assert answer.status_code == 200, answer.text
    return np.asarray(nibabel.Nifti1Image.from_bytes(gzip.decompress(answer.content)).dataobj)


def refusal(answer: requests.Response, status: int, *words: str) -> None:
    assert answer.status_code == status, answer.text
    detail = answer.json()["detail"]
    assert all(word in detail for word in words), detail
    assert "\n" not in detail


def make_studies(folder: Path) -> None:
    write_study(folder / "case.nii.gz", label(99).astype(np.int16) * 100, np.diag([1.5, 1.5, 2.0, 1.0]))


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with small_disk(tmp_path_factory.mktemp("disk") / "studies", 2) as place:
        make_studies(place)
        yield place


@pytest.fixture(scope="module")
def server(disk: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    conf = {"labels": "lesion", "score_share": "0"}
    with Server(tmp_path_factory.mktemp("server"), disk, conf) as running:
        yield running


def test_a_full_disk_loses_no_label(server: Server, disk: Path) -> None:
    assert put(server, 1).status_code == 200
    versions = len(list((disk / "label_versions/case/final").glob("*.json")))
    with full(disk):
        refusal(put(server, 2), 507, "free disk space")
        assert np.array_equal(stored(server), label(1))
        assert server.infer({"lesion": [[5, 5, 5]]}).status == 200
    assert len(list((disk / "label_versions/case/final").glob("*.json"))) == versions
    assert not [path for path in disk.rglob(".*") if path.name not in (".identity", ".lock", ".serving")]
    assert put(server, 3).status_code == 200
    assert np.array_equal(stored(server), label(3))


def test_studies_that_become_read_only_are_told(tmp_path: Path) -> None:
    """Without a server, for what holds its lock cannot be made read-only from outside."""
    with small_disk(tmp_path / "studies", 2) as place:
        make_studies(place)
        store, sent = VersionedDatastore(str(place), extensions=("*.nii.gz",)), tmp_path / "label.nii.gz"
        for number in (1, 2, 3):
            sent.write_bytes(nifti(number))
            with read_only(place) if number == 2 else nullcontext():
                try:
                    store.save_label("case", str(sent), "final", dict(NAMES))
                    outcome = "stored"
                except HTTPException as refused:
                    outcome = f"{refused.status_code}: {refused.detail}"
                    assert np.array_equal(nibabel.load(store.get_label_uri("case", "final")).dataobj, label(1))
            assert ("403: labels cannot be stored" in outcome and "(Read-only file system)" in outcome) == (number == 2)
        assert [each.number for each in store.history.versions("case", "final")] == [1, 2]
        assert np.array_equal(nibabel.load(store.get_label_uri("case", "final")).dataobj, label(3))


def test_a_label_deleted_under_the_server_comes_back_from_the_history(server: Server, disk: Path) -> None:
    assert put(server, 7).status_code == 200
    (disk / "labels/final/case.nii.gz").unlink()
    assert np.array_equal(stored(server), label(7))
    assert server.infer({"lesion": [[5, 5, 5]]}).status == 200
    until((disk / "labels/final/case.nii.gz").is_file)
    reply = put(server, 8).json()
    assert reply["version"] == len(list((disk / "label_versions/case/final").glob("*.json")))
    assert np.array_equal(stored(server), label(8))


def test_folders_deleted_under_the_server_are_taken_for_a_drive_that_is_away(server: Server, disk: Path) -> None:
    shutil.rmtree(disk / "labels")
    shutil.rmtree(disk / "label_versions")
    (disk / "datastore_v2.json").unlink()
    time.sleep(1.5)  # the folders are looked at every second
    refused = put(server, 9)
    assert refused.status_code == 503
    assert "cannot be reached" in refused.json()["detail"]
    assert server.infer({"lesion": [[5, 5, 5]]}).status == 200
    for folder in ("labels/final", "labels/original", "label_versions"):
        (disk / folder).mkdir(parents=True)
    until(lambda: put(server, 9).status_code == 200)
    assert np.array_equal(stored(server), label(9))
    assert server.info()["datastore"]["completed"] == 1


def test_no_free_space_stores_half_a_label(tmp_path: Path) -> None:
    """Every amount of room, from none to enough: stored whole, or refused and as before."""
    with small_disk(tmp_path / "studies", 1) as place:
        make_studies(place)
        store, sent = VersionedDatastore(str(place), extensions=("*.nii.gz",)), tmp_path / "label.nii.gz"
        counted, outcomes = 0, []
        sent.write_bytes(nifti(0))
        store.save_label("case", str(sent), "final", dict(NAMES))
        size_kib = len(nifti(0)) // 1024
        for number, but_kib in enumerate(range(0, 2 * size_kib + 40, 4), start=1):
            sent.write_bytes(nifti(number))
            with full(place, but_kib):
                try:
                    store.save_label("case", str(sent), "final", dict(NAMES))
                    outcomes.append("stored")
                    counted = number
                except HTTPException as refused:
                    outcomes.append(refused.status_code)
            newest = store.history.versions("case", "final")[-1]
            for path in (newest.file, Path(store.get_label_uri("case", "final"))):
                assert np.asarray(nibabel.load(path).dataobj).shape == SHAPE, "whole, whichever it is"
            if outcomes[-1] == "stored":
                assert np.array_equal(nibabel.load(newest.file).dataobj, label(counted))
                for old in store.history.versions("case", "final")[:-1]:  # make room again
                    old.file.unlink()
                    old.file.with_name(f"{old.number:04d}.json").unlink()
            json.loads((place / "datastore_v2.json").read_text())
        assert set(outcomes) == {"stored", 507}
        assert outcomes[-1] == "stored"


def test_the_second_server_on_a_folder_says_so_and_only_reads(tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    make_studies(tmp_path / "studies")
    conf = {"labels": "lesion", "score_share": "0"}
    with (
        Server(tmp_path / "one", tmp_path / "studies", conf) as first,
        Server(tmp_path / "two", tmp_path / "studies", conf) as second,
    ):
        assert "only_reads" not in first.info()["datastore"]
        sentence = second.info()["datastore"]["only_reads"]
        assert f"process {first.process.pid} on" in sentence
        assert "only reads" in second.info()["description"]
        assert "another server stores in this folder" in second.log.read_text()
        refusal(put(second, 1), 409, "another server stores in this folder of studies", str(first.process.pid))
        assert second.infer({"lesion": [[5, 5, 5]]}).status == 200
        drafts = second.http.post(
            f"{second.url}/batch/infer/sam3d_auto", params={"run_sync": "true"}, json={"max_workers": 1}, timeout=300
        )
        assert "another server" in json.dumps(drafts.json()), drafts.text
        assert put(first, 2).status_code == 200
        until(lambda: second.info()["datastore"]["completed"] == 1)
        assert np.array_equal(stored(second), label(2))
        batch = first.http.post(
            f"{first.url}/batch/infer/sam3d_auto", params={"run_sync": "true"}, json={"max_workers": 1}, timeout=300
        )
        assert "another server" not in batch.text
        first.process.send_signal(signal.SIGKILL)
        first.process.wait(20)
        assert put(second, 3).json()["version"] == 2
        assert np.array_equal(stored(second), label(3))
        assert "only_reads" not in second.info()["datastore"]


def until(is_so, limit_s: float = 60.0) -> None:
    limit = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < limit, f"not within {limit_s} s"
        time.sleep(0.1)
