"""Two servers on one folder of studies: one stores, the other says so, only reads, and takes over in the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from fastapi import HTTPException

from lib.datastore.ownership import LOCK_NAME, TOKEN_VARIABLE, Ownership
from lib.datastore.versioned import VersionedDatastore

APP = Path(__file__).parents[2] / "apps" / "sam3d"
SHAPE = (7, 6, 5)
NAMES = {"label_info": [{"name": "liver", "idx": 1}]}
# A server that owns the folder, and asks a child whether that may store.
OWNER = """
import subprocess, sys, time
from pathlib import Path
from lib.datastore.ownership import Ownership
own = Ownership(Path(sys.argv[1]))
assert own.claim()
child = "import sys; from pathlib import Path; from lib.datastore.ownership import Ownership;"
child += "print(repr(Ownership(Path(sys.argv[1])).other()))"
print(subprocess.check_output([sys.executable, "-c", child, sys.argv[1]], text=True), end="", flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _no_token_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    studies = tmp_path / "studies"
    studies.mkdir()
    nibabel.save(nibabel.Nifti1Image(np.zeros(SHAPE, np.int16), np.eye(4)), studies / "a.nii.gz")
    return studies


@pytest.fixture
def label(tmp_path: Path) -> Path:
    path = tmp_path / "label.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.ones(SHAPE, np.uint8), np.eye(4)), path)
    return path


def opened(folder: Path) -> VersionedDatastore:
    return VersionedDatastore(str(folder), extensions=("*.nii.gz",))


def test_the_second_server_only_reads_until_the_first_has_ended(folder: Path, label: Path) -> None:
    first, second = opened(folder), opened(folder)
    assert first.claim() == ""
    assert f"process {os.getpid()} on" in second.claim()
    listed = (folder / "datastore_v2.json").read_bytes()
    changes = (
        lambda: second.save_label("a", str(label), "final", dict(NAMES)),
        lambda: second.add_image("b", str(label), {}),
        lambda: second.remove_image("a"),
        lambda: second.remove_label("a", "final"),
        lambda: second.update_image_info("a", {"x": 1}),
        lambda: second.update_label_info("a", "final", {"x": 1}),
    )
    for change in changes:
        with pytest.raises(HTTPException) as refusal:
            change()
        assert refusal.value.status_code == 409
        assert "another server stores in this folder of studies" in refusal.value.detail
    second.refresh()
    assert (folder / "datastore_v2.json").read_bytes() == listed
    first.save_label("a", str(label), "final", dict(NAMES))
    second.refresh()
    assert second.get_labeled_images() == ["a"]
    assert "another server" in second.only_reads()
    first.close()
    assert second.only_reads() == ""
    second.save_label("a", str(label), "final", dict(NAMES))
    assert [each.number for each in second.history.versions("a", "final")] == [1, 2]
    assert "another server" in opened(folder).claim()
    second.close()


def test_what_is_not_there_is_named(folder: Path) -> None:
    store = opened(folder)
    for change in (
        lambda: store.remove_image("x"),
        lambda: store.update_image_info("x", {}),
        lambda: store.update_label_info("a", "final", {}),
        lambda: store.get_dataset_archive(None),
    ):
        with pytest.raises(HTTPException) as refusal:
            change()
        assert refusal.value.status_code == 404
        assert refusal.value.detail.startswith(("there is no", "no image has a final label"))


def test_what_a_server_starts_may_store_and_a_killed_one_holds_nothing(folder: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(APP)}
    with subprocess.Popen([sys.executable, "-c", OWNER, folder], env=env, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "''\n"
        own = Ownership(folder)
        assert f"process {owner.pid} on" in own.other()
        assert not own.claim()
        owner.send_signal(signal.SIGKILL)
        owner.wait(20)
    assert own.claim()
    assert json.loads((folder / LOCK_NAME).read_text())["pid"] == os.getpid()
    own.release()


def test_the_owner_removes_what_killed_processes_left(folder: Path, label: Path) -> None:
    store = opened(folder)
    store.save_label("a", str(label), "final", dict(NAMES))
    ours = [folder / "labels" / "final", folder / "label_versions" / "a" / "final"]
    left = [place / f".a.nii.gz.{'0' * 32}" for place in ours]
    left.append(folder / f".datastore_v2.json.{'0' * 32}")
    kept = [place / ".keep" for place in ours]
    for path in (*left, *kept):
        path.write_bytes(b"half")
    assert store.claim() == ""
    assert [path.exists() for path in (*left, *kept)] == [False, False, False, True, True]
    store.close()


def test_a_folder_that_cannot_be_written_belongs_to_nobody(tmp_path: Path) -> None:
    own = Ownership(tmp_path / "absent")
    assert not own.claim()
    assert own.other() == ""


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}'])
def test_an_owner_that_wrote_nothing_down_is_an_owner_all_the_same(folder: Path, content: str) -> None:
    own = Ownership(folder)
    assert own.claim()
    (folder / LOCK_NAME).write_text(content)
    assert "an unknown process" in Ownership(folder).other()
    own.release()
