"""Trainings on workers that die, end or share nothing: the process that asks is this one, the workers are real."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lib.errors import TrainingError
from lib.retraining.progress import ProgressFile
from lib.settings import Settings
from lib.trainers.update_order import cluster_for_training, train_on_worker
from lib.weights.versions import VersionStore, open_served, versions_folder
from network.small_runs import ball_cases, small_settings
from nodes import Node, Nodes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

RUN_LIMIT_S = 1200.0
GONE = "the worker that trained is gone"


class Site:
    """Labelled studies and a model folder, a scheduler, and workers that may train."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.studies, self.nodes = folder / "studies", Nodes(folder / "nodes")
        labels = self.studies / "labels" / "final"
        labels.mkdir(parents=True)
        for case in ball_cases(self.studies, 2):
            case.label.rename(labels / f"{case.id}.nii.gz")
        self.address = self.nodes.scheduler().address
        self.asking = ThreadPoolExecutor(1)

    def settings(self, **conf: str) -> Settings:
        found = small_settings(self.folder, max_epochs="10000", **conf)
        return Settings.from_conf(
            {
                **{"checkpoint": str(found.checkpoint), "model_folder": str(found.model_folder), "labels": "lesion"},
                **{"device": "cpu", "max_epochs": "10000", "steps_per_epoch": "2", "cluster": self.address},
                **{"cluster_wait_s": "60", **conf},
            }
        )

    def worker(self, model: Path) -> Node:
        model.mkdir(exist_ok=True)
        options = ["--model-folder", str(model), "--gpus", "1", "--threads", "1"]
        node = self.nodes.worker(self.address, self.studies, *options)
        assert node.address
        return node

    def ask(self) -> Future[Any]:
        """A training that never ends by itself."""
        settings = self.settings()
        cluster = cluster_for_training(settings)
        assert cluster is not None
        return self.asking.submit(train_on_worker, cluster, settings, str(self.studies))

    @property
    def progress(self) -> ProgressFile:
        return ProgressFile(self.settings().model_folder)

    def is_in_an_epoch(self) -> bool:
        progress = self.progress.read()
        return progress.state == "running" and progress.epoch >= 1

    def check_nothing_changed(self, sentence: str) -> None:
        progress = self.progress.read()
        assert not self.progress.is_running()
        assert (progress.state, progress.sentence) == ("failed", f"failed, nothing was changed: {sentence}")
        settings = self.settings()
        store = VersionStore(versions_folder(settings), open_served(settings).base)
        assert (store.published(), store.candidates()) == ([], {})


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site"))
    with made.nodes:
        yield made
        made.asking.shutdown(wait=False)


def until(is_reached: Callable[[], bool], asked: Future[Any]) -> None:
    limit = time.monotonic() + RUN_LIMIT_S
    while not is_reached():
        assert time.monotonic() < limit, "not reached"
        assert not asked.done(), asked.exception()
        time.sleep(0.2)


def test_a_worker_that_dies_takes_its_training_along_and_one_that_is_asked_to_end_ends_it(site: Site) -> None:
    """Of two, the first is killed; the second does not begin anew what the first died of, and takes the next training,
    until it is asked to end."""
    workers = [site.worker(site.settings().model_folder) for _ in range(2)]
    asked = site.ask()
    until(site.is_in_an_epoch, asked)
    busy, other = sorted(workers, key=lambda worker: worker.told().count("epoch "), reverse=True)
    busy.kill()
    with pytest.raises(TrainingError, match=GONE):
        asked.result(RUN_LIMIT_S)
    site.check_nothing_changed(GONE)
    assert "epoch " not in other.told()

    asked = site.ask()
    until(site.is_in_an_epoch, asked)
    assert "epoch " in other.told()
    other.process.terminate()
    assert other.process.wait(180) == 0, other.told()
    with pytest.raises(TrainingError, match=GONE):
        asked.result(RUN_LIMIT_S)
    site.check_nothing_changed(GONE)


def test_a_worker_with_another_model_folder_refuses(site: Site, tmp_path: Path) -> None:
    worker = site.worker(tmp_path / "other")
    try:
        with pytest.raises(TrainingError, match="this worker's --model-folder is not the server's"):
            site.ask().result(RUN_LIMIT_S)
    finally:
        worker.end()
    progress = site.progress.read()
    assert progress.state == "failed"
    assert progress.sentence.startswith("failed, nothing was changed: this worker's --model-folder is not the server's")
    assert not list((tmp_path / "other").iterdir())
