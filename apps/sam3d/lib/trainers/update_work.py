"""The worker's side of Update Model: the training in a process of its own, which ends with the worker, and with whoever
asked for it."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from lib.cluster.carrying import Task
from lib.cluster.orders import Failure, Outcome
from lib.datastore.identity import known_word
from lib.datastore.opening import folder_of_labels, open_datastore
from lib.datastore.versioned import VersionedDatastore
from lib.errors import ClusterError, Sam3DError, WeightsError
from lib.retraining.held import HeldFile
from lib.retraining.retrain import retrain
from lib.settings import Settings
from lib.trainers.annotated import annotated_cases
from lib.trainers.tracking import tracking_handlers
from lib.trainers.update_order import REQUESTS, Request, held_files
from lib.weights.checkpoints import open_network

logger = logging.getLogger(__name__)

# How soon it is noticed that nobody waits for the training any more.
LOOK_S = 0.5


def update(task: Task) -> Outcome:
    """Train as the file in the model folder asks, and publish what is better; a `Result` as JSON. ClusterError, with
    one sentence, where this worker does not share what the server has."""
    place = task.place
    if place.model_folder is None:
        raise ClusterError("this worker takes no trainings: start it with --model-folder, the server's, as it sees it")
    asked, taken = held_files(place.model_folder)
    request = _read(asked, task.order.key)
    if taken.text() == request.word:
        raise ClusterError("the worker that trained is gone")
    if not asked.is_held():
        raise ClusterError(
            "this worker does not see that the server waits for it: either it does not any more, or locks on the model "
            "folder are not shared; mount it by NFS of version 4, without local_lock or nolock"
        )
    if not request.archive and place.root is None:
        raise ClusterError("this worker has no folder of studies: start it with --root, the server's, as it sees it")
    studies = request.archive or str(place.root)
    if known_word(folder_of_labels(studies)) != request.labels_in:
        raise ClusterError(
            "the studies that this worker sees, or their labels, are others than the server's: name the folder that is "
            "served with --root"
        )
    with taken.holding(request.word):
        return _supervised(asked, request, studies, place.model_folder, place.device)


def _read(asked: HeldFile, word: str) -> Request:
    try:
        request: Request | None = REQUESTS.validate_json(asked.text())
    except ValidationError:
        request = None
    if request is None or request.word != word:
        raise ClusterError(
            "this worker's --model-folder is not the server's, for what the server asks is not in it: mount that folder"
        )
    return request


def _supervised(asked: HeldFile, request: Request, studies: str, model_folder: Path, device: str) -> Outcome:
    """Train in another process for as long as whoever asked is there."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    settings = _here(request.settings, model_folder, device)
    given = (sender, request, studies, settings, torch.get_num_threads())
    # A daemon: a worker that is asked to end does not wait for it, but ends it.
    process = context.Process(target=_train, args=given, name="update", daemon=True)
    process.start()
    sender.close()
    try:
        while not receiver.poll(LOOK_S):
            if not asked.is_held():
                return Failure("the training was stopped, for nobody waits for it any more")
        return receiver.recv()
    except EOFError:
        process.join()
        return Failure(f"the worker's training process ended with {process.exitcode}: its log says more")
    finally:
        process.kill()
        process.join()


def _here(settings: Settings, model_folder: Path, device: str) -> Settings:
    """The server's settings as they hold on this machine, with the one device of this worker."""
    return replace(
        settings,
        model_folder=model_folder,
        device=device,
        checkpoint=settings.checkpoint and model_folder / settings.checkpoint,
        sam_checkpoint=settings.sam_checkpoint and model_folder / settings.sam_checkpoint,
        training=replace(settings.training, multi_gpu=False),
    )


def _train(sender: Connection, request: Request, studies: str, settings: Settings, n_threads: int) -> None:
    logging.basicConfig(level=logging.INFO)
    torch.set_num_threads(n_threads)
    threading.Thread(target=_end_with_the_worker, daemon=True).start()
    try:
        outcome: Any = _result(request, studies, settings)
    except Sam3DError as error:
        outcome = Failure(str(error))
    sender.send(outcome)


def _end_with_the_worker() -> None:
    """A worker that is killed takes its training along: nobody would wait for that, and others may begin theirs."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGKILL)


def _result(request: Request, studies: str, settings: Settings) -> dict[str, Any]:
    base = open_network(settings)[1].sha256
    if base != request.base:
        raise WeightsError(
            "the weights that this worker finds are others than the server's: put them into the model folder, and name "
            "them there"
        )
    datastore = open_datastore(studies, settings.labels, lambda: "")
    if datastore is None:
        raise ClusterError(f"only MONAI Label's server knows the way to {studies}: train there")
    try:
        cases = annotated_cases(datastore, settings.training.train_on)
        return retrain(settings, cases, tracking_handlers).as_json()
    finally:
        if isinstance(datastore, VersionedDatastore):
            datastore.close()
