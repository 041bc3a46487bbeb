"""An archive that is down, slow or refuses, and servers killed at any moment: no label is lost, and all arrive."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
import requests

from archives import DemoArchive
from lib.datastore.history import LabelHistory
from lib.demo import free_port
from lib.images.dicom_writing import SeriesInfo
from lib.images.volumes import open_volume
from lib.labels.masks import read_label
from serving import APP
from studies_in_archive import datastore_at, write_image
from unit.test_dicom_writing import affine_of

pytestmark = [pytest.mark.app, pytest.mark.slow, pytest.mark.timeout(1800)]

INFO = SeriesInfo("P-1", "Müller^Jörg")
SHAPE = (12, 10, 6)
NAMES = [{"name": "liver"}, {"name": "Gefäß"}]
INTERRUPTIONS = 50
# The labels that are stored meanwhile are more than these, on any machine.
MOST_SURELY = 10


def label_map(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, SHAPE).astype(np.uint8)


def submit(store, folder: Path, seed: int) -> dict:
    path = folder / f"{seed}.bin"
    path.write_bytes(label_map(seed).tobytes(order="F"))
    store.save_label(INFO.uid(), str(path), "final", {"label_info": NAMES, "client_id": str(seed)})
    return store.saved_note(INFO.uid())


def wait_until(is_so, limit_s: float = 600.0) -> None:
    limit = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < limit, f"not within {limit_s} s"
        time.sleep(0.1)


def wait_for_the_last(count: Callable[[], int], limit_s: float = 600.0) -> None:
    """Until nothing is left; for as long as it takes, if it grows less within the limit."""
    left, limit = count(), time.monotonic() + limit_s
    while left:
        time.sleep(0.1)
        if (now := count()) < left:
            left, limit = now, time.monotonic() + limit_s
        assert time.monotonic() < limit, f"{left} are left, and none arrived within {limit_s} s"


def arrived(folder: Path) -> Counter[int]:
    """How often each label, by its number, is in the archive's folder; each is compared with what was submitted."""
    found: Counter[int] = Counter()
    volume = open_volume(folder / INFO.study_uid / INFO.uid())
    for path in folder.rglob("*.dcm"):
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["Modality", "ContentCreatorName"])
        if header.Modality == "SEG":
            number = int(str(header.ContentCreatorName))
            masks = read_label(path, volume, ["liver", "Gefäß"]).masks
            assert np.array_equal(masks["liver"] + 2 * masks["Gefäß"].astype(np.uint8), label_map(number))
            found[number] += 1
    return found


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[DemoArchive]:
    write_image(tmp_path / "files", INFO, affine_of("PSL", turn=0.3), SHAPE)
    with DemoArchive(tmp_path / "files", free_port(0)) as running:
        yield running


@pytest.fixture
def store(archive: DemoArchive, tmp_path: Path, monkeypatch):
    """A datastore that has the image already, as it has after a click."""
    opened = datastore_at(archive.url, tmp_path / "cache", monkeypatch)
    opened.get_image_uri(INFO.uid())
    # Until the first attempt has failed, however slow this machine is; the slow archive sets its own.
    monkeypatch.setattr("lib.datastore.archive.SEND_WAIT_S", 600.0)
    yield opened
    opened.close()


def test_an_archive_that_is_down_gets_the_label_when_it_is_back(store, archive, tmp_path) -> None:
    archive.kill()
    reply = submit(store, tmp_path, 1)
    assert reply["archive"] == "waiting"
    assert "stored on this server; the archive has not got it yet (the archive did not answer" in reply["note"]
    (case,) = store.annotated_cases()  # it can be trained on all the same
    masks = read_label(case.label, open_volume(case.image), ["liver", "Gefäß"], case.value_names).masks
    assert np.array_equal(masks["liver"], label_map(1) == 1)
    archive.start()
    wait_until(lambda: not store.waiting())
    assert arrived(archive.folder) == {1: 1}


def test_a_slow_archive_does_not_keep_the_client_waiting(store, archive, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("lib.datastore.archive.SEND_WAIT_S", 0.5)
    os.kill(archive.process.pid, signal.SIGSTOP)  # connections are taken, and nothing is answered until SIGCONT
    reply = submit(store, tmp_path, 2)
    assert (reply["archive"], "the archive takes long" in reply["note"]) == ("waiting", True)
    assert store.list_images() == [INFO.uid()]
    os.kill(archive.process.pid, signal.SIGCONT)
    wait_until(lambda: not store.waiting())
    assert arrived(archive.folder) == {2: 1}


def test_a_refusing_archive_gets_the_label_when_it_takes_it(store, archive, tmp_path) -> None:
    # Room for nothing: every store ends in status 500.
    resource.prlimit(archive.process.pid, resource.RLIMIT_FSIZE, (1000, 1000))
    reply = submit(store, tmp_path, 3)
    assert (reply["archive"], "the archive answered 500" in reply["note"]) == ("waiting", True)
    archive.kill()
    archive.start()
    wait_until(lambda: not store.waiting())
    assert arrived(archive.folder) == {3: 1}


def test_a_label_that_waits_is_sent_at_the_next_start(store, archive, tmp_path, monkeypatch) -> None:
    archive.kill()
    submit(store, tmp_path, 4)
    store.close()
    archive.start()
    time.sleep(3)
    assert arrived(archive.folder) == {}
    again = datastore_at(archive.url, tmp_path / "cache", monkeypatch)
    wait_until(lambda: not again.waiting())
    again.close()
    assert arrived(archive.folder) == {4: 1}


# Both servers are children of this process, which has imported what they need: so they start, and can be killed, often.
PARENT = """
import os, random, signal, sys, time
import numpy as np
from pathlib import Path
from monailabel.config import settings
from lib.datastore import archive, archive_client
from lib.datastore.opening import open_datastore
from lib.dicomweb.server import serve

archive.SEND_WAIT_S = 0.2  # so that there are many labels to lose
archive_client.ANSWER_LIMIT_S = 0.5  # so that an archive that is halted is given up
files, port, cache, image = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
settings.MONAI_LABEL_DICOMWEB_CACHE_PATH = cache
signal.signal(signal.SIGCHLD, signal.SIG_IGN)

def annotate(first):
    store = open_datastore(f"http://127.0.0.1:{port}/dicom-web", ["liver", "Gefäß"], lambda: "")
    said = os.open(sys.argv[5], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for seed in range(first, first + 1000):
        path = Path(cache) / f"{seed}.bin"
        label = np.random.default_rng(seed).integers(0, 3, (12, 10, 6)).astype(np.uint8)
        path.write_bytes(label.tobytes(order="F"))
        names = [{"name": "liver"}, {"name": "Gefäß"}]
        store.save_label(image, str(path), "final", {"label_info": names, "client_id": str(seed)})
        os.write(said, f"{seed}\\n".encode())
        time.sleep(random.uniform(0.0, 1.5))  # an archive that is away delays nobody: there would be hundreds

for line in sys.stdin:
    what, number = line.split()
    child = os.fork()
    if child == 0:
        serve(files, port) if what == "archive" else annotate(int(number))
    print(child, flush=True)
"""


def test_nothing_is_lost_in_fifty_random_interruptions(tmp_path: Path, monkeypatch, capsys) -> None:
    write_image(tmp_path / "files", INFO, affine_of("PSL", turn=0.3), SHAPE)
    (tmp_path / "cache").mkdir()
    port, said = free_port(0), tmp_path / "said"
    said.touch()
    url = f"http://127.0.0.1:{port}/dicom-web"
    log = (tmp_path / "log").open("wb")
    with (
        log,
        subprocess.Popen(
            [sys.executable, "-c", PARENT, tmp_path / "files", str(port), tmp_path / "cache", INFO.uid(), said],
            env={**os.environ, "PYTHONPATH": str(APP), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            bufsize=1,
        ) as parent,
    ):

        def start(what: str, number: int = 0) -> int:
            parent.stdin.write(f"{what} {number}\n")
            return int(parent.stdout.readline())

        rng = np.random.default_rng(11)
        running = {"archive": start("archive")}
        wait_until(lambda: answers(url))
        first = datastore_at(url, tmp_path / "cache", monkeypatch)
        first.get_image_uri(INFO.uid())
        first.close()
        running["annotator"] = start("annotator", 1000)
        interruptions: Counter[str] = Counter()
        for interruption in range(1, INTERRUPTIONS + 1):
            time.sleep(float(rng.uniform(0.05, 2.5)))
            kind = str(rng.choice(["archive killed", "annotator killed", "archive halted", "archive without room"]))
            interruptions[kind] += 1
            victim, how = kind.split(" ", 1)
            if how == "killed":
                os.kill(running[victim], signal.SIGKILL)
                time.sleep(float(rng.uniform(0.0, 0.5)))
                running[victim] = start(victim, 1000 * (interruption + 1))
            elif how == "halted":
                os.kill(running[victim], signal.SIGSTOP)
                time.sleep(float(rng.uniform(0.0, 2.0)))
                os.kill(running[victim], signal.SIGCONT)
            else:  # it answers every store with status 500
                resource.prlimit(running[victim], resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
                time.sleep(float(rng.uniform(0.0, 2.0)))
                resource.prlimit(running[victim], resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        wait_until(lambda: len(said.read_text().split()) > MOST_SURELY)
        os.kill(running["annotator"], signal.SIGKILL)
        wait_until(lambda: answers(url))
        last = datastore_at(url, tmp_path / "cache", monkeypatch)
        wait_for_the_last(lambda: len(last.waiting()))
        last.close()
        os.kill(running["archive"], signal.SIGKILL)
        parent.stdin.close()

    stored = {int(line) for line in said.read_text().split()}
    versions = LabelHistory(Path(last.history.folder)).versions(INFO.uid(), "final")
    in_history, in_archive = {int(each.client) for each in versions}, arrived(tmp_path / "files")
    with capsys.disabled():
        print(
            f"\n{interruptions.total()} interruptions, {dict(interruptions)}: {len(in_history)} labels stored, "
            f"{len(stored)} of them said to be, {len(stored - in_history)} lost here, "
            f"{len(stored - set(in_archive))} lost on the way, {sum(in_archive.values()) - len(in_archive)} sent twice"
        )
    assert interruptions.total() == INTERRUPTIONS
    assert len(stored) > MOST_SURELY
    assert stored <= in_history
    assert set(in_archive) == in_history
    assert set(in_archive.values()) == {1}


def answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/studies", timeout=5).ok
    except requests.RequestException:
        return False
