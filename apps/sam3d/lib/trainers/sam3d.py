"""The trainer behind "Update Model": a request in, a run of lib.retraining, its result out. The thinking is there.

MONAI Label calls the task in a process of its own, and asks `stats` and `info` in the server's: what they know of a
run they read from its progress file and from the versions on disk.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.train import TrainTask

from lib.errors import SettingsError
from lib.infers.failures import as_answers
from lib.infers.model import SharedPredictor
from lib.infers.task import first_of
from lib.retraining.progress import DONE, ProgressFile
from lib.retraining.retrain import retrain
from lib.settings import CONF_KEYS, Settings
from lib.trainers.annotated import annotated_cases
from lib.trainers.tracking import tracking_handlers
from lib.trainers.update_order import cluster_for_training, train_on_worker
from lib.weights.versions import roll_back

logger = logging.getLogger(__name__)

NAME = "sam3d"
# What a client may choose; any other key of a request, paths and file names above all, means nothing.
NUMBERS = ("max_epochs", "train_seed")
ROLLBACK = "rollback"
NICENESS = 5


class Sam3DTrainer(TrainTask):
    """Fine-tunes the adapters on what was annotated, and publishes what is better."""

    def __init__(self, model: SharedPredictor, studies: str) -> None:
        super().__init__("Learns from submitted labels; what it learned is used only if it is better")
        self._model, self._studies = model, studies
        self._progress = ProgressFile(model.settings.model_folder)

    def info(self) -> dict[str, Any]:
        """The task as the viewers list it, with what is served and how the last run ended."""
        progress = self._progress.read()
        about = f"{self.description} (serves {self._model.served_name}; last run: {progress.sentence})"
        return {**super().info(), "description": about, "labels": list(self._model.settings.labels)}

    def config(self) -> dict[str, Any]:
        """The viewers' options: few, for OHIF sends back whatever stands here."""
        return {"max_epochs": self._model.settings.training.max_epochs, ROLLBACK: False}

    def stats(self) -> dict[str, Any]:
        """The viewers' bars: how far the run is, and what the served version reaches. Finite numbers only."""
        progress, served = self._progress.read(), self._model.served_name
        stats: dict[str, Any] = {
            "epoch": progress.epoch,
            "total_epochs": progress.epochs,
            "best_metric": progress.score_of(served, self._model.parent),
            "served": served,
            "state": progress.state,
            "message": progress.sentence,
        }
        if progress.loss is not None:
            stats |= {"loss": round(progress.loss, 4), "train_dice": round(progress.dice or 0.0, 4)}
        if progress.state == DONE and progress.epoch:
            stats["total_time"] = f"{progress.seconds:.0f} s"  # only at the end: with it OHIF shows no more progress
        return stats

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train, or roll back; what was done and why, as JSON. HTTPException, with a sentence, when it cannot be."""
        if "local_rank" in request:  # a process of its own, which must not make clicks wait
            make_room_for_clicks()
        with as_answers():
            chosen = chosen_options(request)
            if chosen.pop(ROLLBACK, False):
                sentence = roll_back(self._model.settings)
                logger.info("%s", sentence)
                return {"message": sentence}
            settings = self._model.settings
            settings = replace(settings, training=replace(settings.training, **chosen))
            result = self._trained(settings, datastore)
        return {**result, "best_metric": result["score_after" if result["is_published"] else "score_before"]}

    def _trained(self, settings: Settings, datastore: Datastore) -> Mapping[str, Any]:
        """The result of a run on a worker, where there is one that can what this machine cannot, or here."""
        cluster = cluster_for_training(settings)
        if cluster is None:
            cases = annotated_cases(datastore, settings.training.train_on)
            return retrain(settings, cases, tracking_handlers).as_json()
        try:
            return train_on_worker(cluster, settings, self._studies)
        finally:
            cluster.close()


def make_room_for_clicks() -> None:
    """Be second to the server's process, and leave a core to it. Threads of one step wait for each other, busily: with
    one on every core, a click on one of them would hold up all, and be held up by all."""
    os.nice(NICENESS)
    torch.set_num_threads(max(1, torch.get_num_threads() - 1))


def chosen_options(request: Mapping[str, Any]) -> dict[str, Any]:
    """What a request asks for, flat or below the trainer's name, as POST /train/ sends it; else SettingsError."""
    nested = request.get(NAME)
    values = {**request, **(nested if isinstance(nested, Mapping) else {})}
    asked = {key: first_of(values[key]) for key in (*NUMBERS, ROLLBACK) if values.get(key) not in (None, "", [])}
    chosen: dict[str, Any] = {key: CONF_KEYS[key].parse(key, _text(asked[key])) for key in NUMBERS if key in asked}
    if ROLLBACK in asked:
        text = str(asked[ROLLBACK]).lower()
        if text not in ("true", "false"):
            raise SettingsError(f"{ROLLBACK} is {text[:40]!r}: it must be true or false")
        chosen[ROLLBACK] = text == "true"
    return chosen


def _text(value: Any) -> str:
    """A number of JSON as conf would hold it: viewers send 3.0 for 3."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
