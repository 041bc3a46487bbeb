"""Update Model on a worker: a server, a scheduler and workers that see its folders by other paths, all on loopback."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lib.retraining.progress import ProgressFile
from lib.weights.versions import VersionStore, open_served, versions_folder
from network.small_runs import ball_cases, small_settings
from nodes import Node, Nodes
from serving import REQUEST_LIMIT_S, Server

pytestmark = [pytest.mark.app, pytest.mark.slow, pytest.mark.timeout(1800)]

RUN_LIMIT_S = 1200.0
# Enough steps for the gate to find the version better than weights that know nothing.
TRAINING = {
    **{"steps_per_epoch": "10", "learning_rate": "0.005"},
    **{"publish_margin": "0", "max_label_drop": "1", "trust_labels": "true"},
}
LONG = {"max_epochs": 10_000}
CLICK = {"lesion": [[10, 10, 10]], "background": []}


class Site:
    """What the server has, and the same as other machines see it."""

    def __init__(self, folder: Path) -> None:
        self.folder, settings = folder, small_settings(folder)
        self.studies, self.model = folder / "studies", folder / "model"
        self.labels = {}
        for case in ball_cases(self.studies, 5):
            self.labels[case.id] = case.label.rename(folder / case.label.name)
        self.model.mkdir()
        checkpoint = self.model / "base.safetensors"
        for path in (settings.checkpoint, settings.checkpoint.with_suffix(".json")):
            shutil.copy(path, checkpoint.with_suffix(path.suffix))
        self.conf = {"checkpoint": str(checkpoint), "model_folder": str(self.model), "labels": "lesion", **TRAINING}
        (folder / "mnt").mkdir()
        for name in ("studies", "model"):
            (folder / "mnt" / name).symlink_to(folder / name)
        self.nodes = Nodes(folder / "nodes")
        self.scheduler = self.nodes.scheduler()
        self.server = Server(
            folder / "server",
            self.studies,
            {
                **self.conf,
                "device": "cpu",
                "cluster": self.scheduler.address,
                "cluster_wait_s": "5",
                "score_share": "0",
            },
        )
        self.started: list[Node] = []

    def workers(self, count: int) -> list[Node]:
        """So many that run, each with a GPU to declare; those that are missing are started."""
        running = [node for node in self.started if node.process.poll() is None]
        mounted = self.folder / "mnt"
        options = ["--model-folder", str(mounted / "model"), "--gpus", "1", "--threads", "1"]
        while len(running) < count:
            running.append(self.nodes.worker(self.scheduler.address, mounted / "studies", *options))
            self.started.append(running[-1])
        assert all(node.address for node in running)
        return running

    @property
    def store(self) -> VersionStore:
        settings = small_settings(self.folder)
        return VersionStore(versions_folder(settings), open_served(settings).base)

    def versions(self) -> list[str]:
        return sorted(path.name for path in self.store.folder.glob("v*.safetensors"))

    def is_training(self) -> bool:
        return ProgressFile(self.model).is_running()

    def train(self, body: dict[str, Any]) -> None:
        answer = self.server.http.post(f"{self.server.url}/train/sam3d", json=body, timeout=REQUEST_LIMIT_S)
        assert answer.ok, answer.text

    def status(self) -> dict[str, Any]:
        return self.server.http.get(f"{self.server.url}/train/", timeout=REQUEST_LIMIT_S).json()

    def stats(self) -> dict[str, Any]:
        return self.server.info()["train_stats"]["sam3d"]

    def until(self, is_reached: Callable[[], bool]) -> None:
        limit = time.monotonic() + RUN_LIMIT_S
        while not is_reached():
            assert time.monotonic() < limit, f"{self.status()}\n{self.server.log_tail()}"
            time.sleep(0.3)

    def finished(self) -> dict[str, Any]:
        self.until(lambda: self.status()["status"] not in ("SUBMITTED", "RUNNING"))
        return self.status()

    def is_in_an_epoch(self) -> bool:
        stats = self.stats()
        return stats["state"] == "running" and stats["total_epochs"] == LONG["max_epochs"] and stats["epoch"] >= 1

    def click(self) -> str:
        reply = self.server.infer(CLICK, image="case_0")
        assert reply.status == 200, reply.detail
        return str(reply.params["model_version"])

    def submit(self) -> None:
        for image, label in self.labels.items():
            params = {"label_info": [{"name": "lesion", "idx": 1}], "model": "sam3d", "client_id": "test"}
            answer = self.server.http.put(
                f"{self.server.url}/datastore/label",
                params={"image": image, "tag": "final"},
                data={"params": json.dumps(params)},
                files={"label": (f"{image}.nii.gz", label.read_bytes())},
                timeout=REQUEST_LIMIT_S,
            )
            assert answer.ok, answer.text


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site"))
    with made.nodes, made.server:
        made.submit()
        yield made


def check_nothing_changed(site: Site, before: tuple[str, list[str]]) -> None:
    site.until(lambda: not site.is_training())
    assert (site.click(), site.versions()) == before
    assert not list(site.model.rglob(".*.safetensors.*"))


def test_a_worker_trains_publishes_once_and_is_seen_to(site: Site) -> None:
    assert site.click() == "small"
    [worker] = site.workers(1)
    epochs, pointers = set[int](), set[bytes]()
    pointer = site.store.folder / "served.json"

    def is_over() -> bool:
        stats = site.stats()
        if stats["state"] == "running":
            epochs.add(stats["epoch"])
        pointers.add(pointer.read_bytes() if pointer.exists() else b"")
        return site.status()["status"] not in ("SUBMITTED", "RUNNING")

    site.train({"max_epochs": 6})
    site.until(is_over)
    ended = site.status()
    assert ended["status"] == "DONE", ended
    said = "\n".join(ended["details"])
    print(f"epochs seen from the server while the worker trained: {sorted(epochs)}")
    assert len(epochs & {1, 2, 3, 4, 5, 6}) >= 2
    assert "epoch   6 of 6 [####################]" in worker.told()
    assert "a worker of tcp://127.0.0.1:" in site.server.log.read_text()
    assert "this machine trains" not in site.server.log.read_text()
    assert "v1 published" in said
    assert (site.store.published(), site.versions()) == (["v1"], ["v1.safetensors"])
    print(f"contents of the pointer file seen: {len(pointers - {b''})}")
    assert len(pointers) == 2  # none, and the one
    stats = site.stats()
    assert stats["state"] == "done"
    assert stats["message"].startswith("v1 published")
    assert site.click() == "small+v1"


def test_a_training_that_is_stopped_ends_on_the_worker_which_takes_the_next_one(site: Site) -> None:
    before, [worker] = (site.click(), site.versions()), site.workers(1)
    site.train(LONG)
    site.until(site.is_in_an_epoch)
    assert site.is_training()
    stopped = site.server.http.delete(f"{site.server.url}/train/", timeout=REQUEST_LIMIT_S).json()
    assert stopped["status"] == "STOPPED"
    check_nothing_changed(site, before)
    stats = site.stats()
    assert stats["state"] == "stopped"
    assert stats["message"].startswith("stopped in epoch ")
    site.train({"max_epochs": 1})
    ended = site.finished()
    assert ended["status"] == "DONE", ended
    assert "epoch   1 of 1 [####################]" in worker.told()


def test_without_workers_this_machine_trains_and_says_so(site: Site) -> None:
    for worker in site.workers(0):
        worker.end()
    site.train({"max_epochs": 1})
    ended = site.finished()
    assert ended["status"] == "DONE"
    assert "this machine trains" in site.server.log.read_text()
    assert "epoch   1 of 1 [####################]" in "\n".join(ended["details"])
