"""Backup and restore, by doing it: everything that a server had acknowledged is served again elsewhere."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest

from lib.datastore.backups import back_up, restore
from lib.datastore.ownership import Ownership
from lib.datastore.versioned import VersionedDatastore
from lib.errors import BackupError
from lib.settings import Settings
from lib.weights.versions import VersionStore, open_served, versions_folder
from serving import APP, write_study

pytestmark = [pytest.mark.app, pytest.mark.slow]

SHAPE = (20, 18, 16)
NAMES = {"label_info": [{"name": "lesion"}]}


def opened(studies: Path) -> VersionedDatastore:
    return VersionedDatastore(str(studies), extensions=("*.nii.gz",))


def submit(store: VersionedDatastore, folder: Path, seed: int) -> None:
    write_study(folder / "label.nii.gz", np.random.default_rng(seed).integers(0, 2, SHAPE).astype(np.uint8))
    store.save_label("case", str(folder / "label.nii.gz"), "final", dict(NAMES))


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    (tmp_path / "studies").mkdir()
    write_study(tmp_path / "studies/case.nii.gz", np.zeros(SHAPE, np.int16))
    for seed in (1, 2):
        submit(opened(tmp_path / "studies"), tmp_path, seed)
    return tmp_path / "studies"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model folder with a published version, scores and what is not worth keeping."""
    settings = Settings(model_folder=tmp_path / "model")
    served = open_served(settings)
    served.store.publish(served.network, served.card, 5)
    for name in ("scores/ab/1.json", "embeddings/x", "cases/y", "logs/z", "splits.json"):
        (tmp_path / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "model" / name).write_text("{}")
    return tmp_path / "model"


def cli(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(APP / "cli.py"), *map(str, words)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


def test_what_is_backed_up_is_served_elsewhere(studies: Path, model: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved.tar"
    done = cli(tmp_path, "backup", "--studies", studies, "--model-folder", model, "--to", saved)
    assert done.returncode == 0, done.stderr
    elsewhere, other_model = tmp_path / "elsewhere", tmp_path / "other_model"
    elsewhere.mkdir()
    shutil.copy(studies / "case.nii.gz", elsewhere)
    done = cli(tmp_path, "restore", "--studies", elsewhere, "--model-folder", other_model, "--backup", saved)
    assert done.returncode == 0, done.stderr
    before, after = opened(studies), opened(elsewhere)
    for old, new in zip(before.history.versions("case", "final"), after.history.versions("case", "final"), strict=True):
        assert (new.when, new.sha256, new.file.read_bytes()) == (old.when, old.sha256, old.file.read_bytes())
    (case,), (old_case,) = after.annotated_cases(), before.annotated_cases()
    assert case.label.read_bytes() == old_case.label.read_bytes()
    assert case.value_names == old_case.value_names
    settings = Settings(model_folder=other_model)
    assert open_served(settings).name == "v1"
    assert (other_model / "scores/ab/1.json").is_file()
    assert (other_model / "splits.json").is_file()
    assert not any((other_model / name).exists() for name in ("embeddings", "cases", "logs"))
    assert not list(elsewhere.glob(".restored*"))
    submit(after, tmp_path, 3)
    assert [each.number for each in after.history.versions("case", "final")] == [1, 2, 3]
    again = cli(tmp_path, "restore", "--studies", elsewhere, "--model-folder", other_model, "--backup", saved)
    assert (again.returncode, "is there already" in again.stderr) == (2, True)
    assert len(VersionStore(versions_folder(settings), open_served(settings).base).published()) == 1


def test_a_backup_while_labels_are_stored_is_whole(studies: Path, model: Path, tmp_path: Path) -> None:
    store, is_over = opened(studies), threading.Event()

    def annotate() -> None:
        seed = 10
        while not is_over.is_set():
            submit(store, tmp_path, seed)
            seed += 1

    thread = threading.Thread(target=annotate)
    thread.start()
    counts = []
    try:
        for number in range(8):
            acknowledged = len(store.history.versions("case", "final"))
            back_up(studies, model, tmp_path / f"{number}.tar")
            restore(tmp_path / f"{number}.tar", tmp_path / f"s{number}", tmp_path / f"m{number}")
            kept = list((tmp_path / f"s{number}/label_versions/case/final").glob("*.json"))
            assert len(kept) >= acknowledged
            counts.append(len(kept))
    finally:
        is_over.set()
        thread.join()
    assert counts[-1] > counts[0], "labels were stored meanwhile"


def test_what_cannot_be_backed_up_or_restored_is_told(studies: Path, model: Path, tmp_path: Path) -> None:
    saved, nowhere = tmp_path / "saved.tar", tmp_path / "nowhere"
    with pytest.raises(BackupError, match="there is no label"):
        back_up(nowhere, nowhere, saved)
    back_up(studies, model, saved)
    with pytest.raises(BackupError, match="is there already"):
        back_up(studies, model, saved)
    server = Ownership(studies)
    assert server.claim()
    with pytest.raises(BackupError, match="under a server that runs"):
        restore(saved, studies, model)
    server.release()
    whole = saved.read_bytes()
    for bad in (whole[: len(whole) // 2], whole[:1000], b"", b"no tar at all" * 99, damaged(whole)):
        (tmp_path / "bad.tar").write_bytes(bad)
        with pytest.raises(BackupError, match=r"bad\.tar|is damaged"):
            restore(tmp_path / "bad.tar", nowhere / "studies", nowhere / "model")
    for name in ("../x", "/etc/x", "studies/../../x", "elsewhere/x"):
        with tarfile.open(tmp_path / "evil.tar", "w") as archive:
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
        with pytest.raises(BackupError, match=r"evil\.tar"):
            restore(tmp_path / "evil.tar", nowhere / "studies", nowhere / "model")
    assert not [path for path in nowhere.rglob("*") if path.is_file()]
    assert not (tmp_path / "x").exists()


def damaged(tar: bytes) -> bytes:
    """One voxel's byte of a label changed."""
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        name = next(each for each in archive.getmembers() if each.name.endswith("0001.nii.gz"))
    at = name.offset_data + name.size // 2
    return tar[:at] + bytes([tar[at] ^ 1]) + tar[at + 1 :]
