"""`cli.py doctor` on installations that are whole, and on ones that are broken for real."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from archives import DemoArchive
from bad_studies import REFUSED, write_bad_studies
from lib.datastore.outbox import Outbox
from lib.datastore.versioned import VersionedDatastore
from lib.demo import free_port
from lib.diagnosis import machine
from lib.diagnosis.findings import Finding, Verdict
from lib.diagnosis.login import login
from lib.images.dicom_writing import SeriesInfo
from serving import APP, write_study
from small_disks import full, read_only, small_disk
from studies_in_archive import write_image
from unit.test_dicom_writing import affine_of

pytestmark = [pytest.mark.app, pytest.mark.slow]


def doctor(folder: Path, *arguments: object, **environment: str) -> tuple[int, str]:
    """Exit status and output of the command, as a user runs it."""
    done = subprocess.run(
        [sys.executable, str(APP / "cli.py"), "doctor", "--port", str(free_port(0)), *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HOME": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return done.returncode, done.stdout


def line(output: str, verdict: str, area: str, *words: str) -> str:
    """The line with a verdict on an area that holds these words."""
    lines = [each for each in output.splitlines() if each.split()[:2] == [verdict, area]]
    found = [each for each in lines if all(word in each for word in words)]
    assert found, f"no {verdict} {area} with {words} in:\n{output}"
    return found[0]


def good_studies(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    write_study(folder / "case.nii.gz", np.zeros((20, 18, 16), np.int16))
    return folder


def test_a_whole_installation_has_nothing_wrong_and_is_left_alone(tmp_path: Path) -> None:
    studies = good_studies(tmp_path / "studies")
    before = sorted(studies.rglob("*"))
    status, output = doctor(tmp_path, "--studies", studies, "--conf", "model_folder", tmp_path / "model")
    assert status == 0, output
    assert output.endswith("nothing wrong\n")
    for area in ("environment", "studies", "labels", "disk", "weights", "port"):
        line(output, "good", area)
    line(output, "note", "login", "this machine only")
    assert sorted(studies.rglob("*")) == before
    assert not (tmp_path / "model").exists()


def test_broken_things_are_named_each_with_a_way_out(tmp_path: Path) -> None:
    studies = good_studies(tmp_path / "studies")
    write_bad_studies(studies)
    store = VersionedDatastore(str(studies), extensions=("*.nii.gz",))
    label = tmp_path / "label.nii.gz"
    write_study(label, np.ones((20, 18, 16), np.uint8))
    for _ in range(3):
        store.save_label("case", str(label), "final", {"label_info": [{"name": "lesion"}]})
    versions = studies / "label_versions" / "case" / "final"
    (versions / "0001.json").write_text("{")
    (versions / "0002.nii.gz").unlink()
    (studies / "datastore_v2.json").write_text('{"objects": ')
    weights = tmp_path / "noise.safetensors"
    weights.write_bytes(bytes(200))
    token = tmp_path / "token"
    token.write_text("short")
    with socket.socket() as taken, (studies / ".serving").open("w") as lock:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        lock.write(json.dumps({"pid": 4711, "host": "elsewhere", "since": "2026-01-01"}))
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        status, output = doctor(
            tmp_path,
            *("--studies", studies, "--port", taken.getsockname()[1], "--conf", "checkpoint", weights),
            *("--conf", "model_folder", tmp_path / "model", "--conf", "device", "cuda:7"),
        )
    assert status == 1
    named = [name for name in REFUSED if f"{name}.nii" in output]
    assert len(named) == 5
    line(output, "note", "studies", "and 3 more")
    line(output, "good", "studies", "12 images", "4 good")
    line(output, "note", "labels", "process 4711 on elsewhere")
    line(output, "wrong", "labels", "datastore_v2.json is damaged")
    line(output, "wrong", "labels", "0001.json")
    line(output, "wrong", "labels", "0002.json")
    line(output, "wrong", "weights", "noise")
    line(output, "note", "port", "in use")
    if "GiB free" not in output.partition(" gpu ")[2].splitlines()[0]:
        line(output, "wrong", "gpu", "cuda:7")
    for each in output.splitlines():
        if each.startswith("wrong"):
            assert output.partition(each)[2].startswith("\n" + " " * 20 + "-> "), f"no way out of: {each}"


@pytest.mark.parametrize(
    ("studies", "conf", "area", "words"),
    [
        ("nowhere", (), "studies", ("there is no folder",)),
        (".", ("labels", "a,,b"), "settings", ("empty name",)),
        (".", ("checkpoint", "/nowhere/x.safetensors"), "weights", ("there is no file x.safetensors",)),
        (".", ("variant", "vit_b"), "weights", ("no weights for variant vit_b",)),
        ("http://127.0.0.1:9/dicom-web", (), "archive", ("did not answer",)),
    ],
    ids=str,
)
def test_one_thing_wrong(
    tmp_path: Path, studies: str, conf: tuple[str, ...], area: str, words: tuple[str, ...]
) -> None:
    words_of_conf = ("--conf", *conf) if conf else ()
    status, output = doctor(tmp_path, "--studies", studies, *words_of_conf)
    assert status == 1
    line(output, "wrong", area, *words)


def test_studies_that_cannot_be_written_and_disks_that_are_full(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 4) as disk:
        studies = good_studies(disk / "studies")
        with full(disk):
            status, output = doctor(tmp_path, "--studies", studies, "--conf", "model_folder", disk / "model")
            assert status == 1
            line(output, "wrong", "disk", "0.0 GiB free for labels")
            line(output, "wrong", "labels", "No space left")
            line(output, "wrong", "weights", "No space left")
        with read_only(disk):
            status, output = doctor(tmp_path, "--studies", studies)
            assert status == 1
            line(output, "wrong", "labels", "Read-only file system")
            line(output, "good", "studies", "1 images")


def test_an_archive_and_the_labels_that_wait_for_it(tmp_path: Path) -> None:
    write_image(tmp_path / "files", SeriesInfo("P-1", "Doe^Ann"), affine_of("LPS"), (9, 8, 6))
    with DemoArchive(tmp_path / "files", free_port(0)) as archive:
        status, output = doctor(tmp_path, "--studies", archive.url)
        assert status == 0, output
        line(output, "good", "archive", "1 series")
        status, output = doctor(tmp_path, "--studies", archive.url.replace("/dicom-web", "/elsewhere"))
        assert status == 1
        line(output, "wrong", "archive", "answered 404")
        status, output = doctor(
            tmp_path, "--studies", archive.url, MONAI_LABEL_DICOMWEB_SEARCH_FILTER='{"Modality": "MR"}'
        )
        line(output, "note", "archive", "0 series")
    from lib.datastore.opening import cache_folder

    outbox = tmp_path / ".cache/monailabel/dicom" / cache_folder(archive.url).name / "outbox"
    Outbox(outbox, lambda _: None).add("1.2.3", "final", 1)
    (outbox / "x.damaged").write_text("{")
    status, output = doctor(tmp_path, "--studies", archive.url)
    assert status == 1
    line(output, "note", "archive", "1 labels wait")
    line(output, "wrong", "archive", "x.damaged")


def test_packages_that_are_missing_or_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "REQUIREMENTS", ("numpy<1", "no-such-package", "torch"))
    monkeypatch.setattr(machine, "LOADED", ("no_such_module",))
    found = "\n".join(map(str, machine.environment()))
    for words in ("numpy is", "no-such-package is not installed", "no_such_module does not load: ModuleNotFoundError"):
        assert words in found
    assert "torch is" not in found


def test_the_packages_are_those_of_the_project() -> None:
    named = (APP.parents[1] / "pyproject.toml").read_text().partition("\ndependencies = [\n")[2].partition("\n]")[0]
    assert list(machine.REQUIREMENTS) == [each.strip(' ",') for each in named.splitlines() if '"' in each[:6]]


@contextmanager
def provider(answers: dict[str, object]) -> Iterator[str]:
    """An HTTP server with JSON at some paths; `BASE` in it stands for its address."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            body = json.dumps(answers.get(self.path)).replace("BASE", base).encode()
            self.send_response(200 if self.path in answers else 404)
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    base = f"http://127.0.0.1:{server.server_port}/realm"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield base
    server.shutdown()
    server.server_close()


KEYS = {"keys": [{"kid": "1"}]}
ABOUT = "/realm/.well-known/openid-configuration"


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({ABOUT: {"issuer": "BASE", "jwks_uri": "BASE/keys"}, "/realm/keys": KEYS}, "with 1 keys"),
        ({ABOUT: {"issuer": "BASE", "jwks_uri": "BASE/keys"}, "/realm/keys": {"keys": []}}, "has no keys"),
        ({ABOUT: {"issuer": "http://x", "jwks_uri": "BASE/keys"}, "/realm/keys": KEYS}, "calls itself http://x"),
        ({ABOUT: {"issuer": "BASE"}}, "is no OpenID provider (KeyError)"),
        ({ABOUT: [1]}, "is no OpenID provider (TypeError)"),
        ({}, "is no OpenID provider"),
    ],
    ids=str,
)
def test_a_provider(answers: dict[str, object], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with provider(answers) as realm:
        monkeypatch.setattr("monailabel.config.settings.MONAI_LABEL_AUTH_ENABLE", True)
        monkeypatch.setattr("monailabel.config.settings.MONAI_LABEL_AUTH_REALM_URI", realm)
        (finding,) = login({})
    assert words in finding.sentence
    assert (finding.verdict is Verdict.GOOD) == ("with 1 keys" in words)


def token_finding(path: Path) -> Finding:
    (finding,) = login({"access_token_file": str(path)})
    return finding


def test_a_token_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    assert "cannot be read" in token_finding(path).sentence
    for text in ("", "short", "one " * 40, "ü" * 40):
        path.write_text(text)
        path.chmod(0o600)
        assert token_finding(path).verdict is Verdict.WRONG
    path.write_text("a" * 64 + "\n")
    assert token_finding(path).verdict is Verdict.GOOD
    path.chmod(0o640)
    assert "mode 640" in token_finding(path).sentence
    assert token_finding(path).mend == f"chmod 600 {path}"
    (anonymous,) = login({"allow_anonymous": "true"})
    assert "whoever reaches this machine" in anonymous.sentence
