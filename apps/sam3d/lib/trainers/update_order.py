"""Update Model asked of a worker that has a GPU, by a server that has none: one order, one training, one publication.

Server and worker share the model folder and the studies. What is asked lies in the model folder, in a file that the
asking process holds: the order itself carries only the word that is in it, and the worker stops when the hold ends, as
it does when that process is killed. A second file is held by the worker while it works: so each knows that the other is
there, whatever the engine between them says.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from pydantic import TypeAdapter

from lib.cluster.orders import Failure, Order
from lib.cluster.security import Access, check_installed
from lib.datastore.identity import word_in
from lib.datastore.opening import folder_of_labels, is_archive
from lib.errors import ClusterError, TrainingError
from lib.network.devices import device_named
from lib.retraining.held import HeldFile
from lib.retraining.progress import FAILED, RUNNING, Progress, ProgressFile, bar
from lib.settings import ClusterSettings, ServingSettings, Settings
from lib.weights.checkpoints import open_network

if TYPE_CHECKING:
    from lib.cluster.dask_client import DaskCluster

logger = logging.getLogger(__name__)

NAME = "update"
ASKED, TAKEN = ".training.asked", ".training.taken"
# A worker declares the second where it has the first and was told a model folder.
RESOURCES = {"GPU": 1.0, "training": 1.0}
# A worker whose hold ended, and from which nothing came, is gone; so long a run that was stopped may take to end.
GONE_S, END_S = 10.0, 15.0


@dataclass(frozen=True)
class Request:
    """What is asked of a worker. `archive` is the URL of the studies, empty for a folder; `labels_in` names the folder
    of their labels, `base` the weights that versions are made of. Paths of `settings` are below the model folder where
    they are relative."""

    word: str
    archive: str
    labels_in: str
    base: str
    settings: Settings


REQUESTS = TypeAdapter(Request)


def cluster_for_training(settings: Settings) -> DaskCluster | None:
    """The cluster that should train for this machine: None where this one has a GPU or names no cluster, or, with a
    warning, where no worker can."""
    if not settings.cluster.cluster or device_named(settings.device).type != "cpu":
        return None
    named = settings.cluster
    check_installed()
    access = Access(named.cluster, named.cluster_ca, named.cluster_cert, named.cluster_key)

    from lib.cluster.dask_client import DaskCluster

    try:
        cluster = DaskCluster(access, named.cluster_wait_s)
    except ClusterError as error:
        logger.warning("%s: this machine trains", error)
        return None
    if _takes_trainings(cluster):
        return cluster
    cluster.close()
    logger.warning("no worker has a GPU and was started with --model-folder: this machine trains")
    return None


def train_on_worker(cluster: DaskCluster, settings: Settings, studies: str) -> Mapping[str, Any]:
    """Have a worker train and publish, and log how far it is; its `Result` as JSON. TrainingError with one sentence
    where it cannot, or is gone: then the served version stays served, and the progress file says so."""
    request = _request(settings, studies)
    file = ProgressFile(settings.model_folder)
    asked, taken = held_files(settings.model_folder)
    logger.info("a worker of %s is asked to train", settings.cluster.cluster)
    with asked.holding(REQUESTS.dump_json(request).decode()):
        watch = _Watch(cluster, file, taken, request.word)
        outcome: Any = None
        try:
            orders = cluster.executor(resources=RESOURCES).stream([Order(NAME, request.word)], watch)
            with closing(orders):
                outcome = next((outcome for _, outcome in orders), None)
        except ClusterError as error:
            watch.problem = str(error)
    failure = outcome if isinstance(outcome, Failure) else Failure(watch.problem) if outcome is None else None
    if failure is None:
        logger.info("%s", outcome["sentence"])
        return dict(outcome)
    _tell_failed(file, failure.sentence)
    raise TrainingError(failure.sentence)


def held_files(model_folder: Path) -> tuple[HeldFile, HeldFile]:
    """What is asked, held by the server that asks, and what is begun, held by the worker."""
    busy = "another training is asked for: wait for its end, or stop it"
    return HeldFile(model_folder / ASKED, busy), HeldFile(model_folder / TAKEN, busy)


class _Watch:
    """Asked again and again while an order is on its way: logs what the run says, and notices when nobody works on it.
    `problem` says why nothing more is waited for."""

    def __init__(self, cluster: DaskCluster, file: ProgressFile, taken: HeldFile, word: str) -> None:
        self._cluster, self._file, self._taken, self._word = cluster, file, taken, word
        self._said: Progress | None = None
        self._well = time.monotonic()
        self.problem = ""

    def __call__(self) -> bool:
        self._say(self._file.read())
        is_begun = self._taken.text() == self._word
        if self._taken.is_held() if is_begun else _takes_trainings(self._cluster):
            self._well = time.monotonic()
        elif time.monotonic() - self._well > (GONE_S if is_begun else self._cluster.patience_s):
            self.problem = "the worker that trained is gone" if is_begun else "the workers that could train are gone"
        return bool(self.problem)

    def _say(self, progress: Progress) -> None:
        if progress.state == RUNNING and progress != self._said:
            done = f"epoch {progress.epoch} of {progress.epochs} {bar(progress.epoch, progress.epochs)}"
            logger.info("%s, %s, %.0f s", progress.sentence, done, progress.seconds)
            self._said = progress


def _takes_trainings(cluster: DaskCluster) -> bool:
    resources = cluster.resources
    return all(resources.get(name, 0.0) >= amount for name, amount in RESOURCES.items())


def _request(settings: Settings, studies: str) -> Request:
    labels_in = word_in(folder_of_labels(studies))
    if not labels_in:
        raise TrainingError(
            "the folder of labels may only be read, so that no worker can tell it from another: train on this machine, "
            "with device cpu and no cluster, or by `cli.py update`"
        )
    base = open_network(settings)[1].sha256
    assert base is not None, "open_network gives a hash to all weights"
    folder = settings.model_folder
    sent = replace(
        settings,
        serving=ServingSettings(),
        cluster=ClusterSettings(),
        checkpoint=_shared(settings.checkpoint, folder),
        sam_checkpoint=_shared(settings.sam_checkpoint, folder),
    )
    return Request(uuid4().hex, studies if is_archive(studies) else "", labels_in, base, sent)


def _shared(path: Path | None, model_folder: Path) -> Path | None:
    """A file as workers find it: below the model folder, wherever they have that, or at the same place."""
    with suppress(ValueError):
        return path and path.resolve().relative_to(model_folder.resolve())
    return path and path.resolve()


def _tell_failed(file: ProgressFile, sentence: str) -> None:
    """Write down how it ended, unless the run itself did: a worker that was stopped takes a moment to end it."""
    limit = time.monotonic() + END_S
    while file.is_running() and time.monotonic() < limit:
        time.sleep(0.2)
    with suppress(TrainingError, OSError), file.locked():
        known = file.read()
        told = f"failed, nothing was changed: {sentence}"
        if known.sentence != told:
            file.write(replace(known, state=FAILED, sentence=told))
