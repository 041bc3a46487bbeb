"""POST /train/ and /batch/infer: the stock contract, for models that there are, with requests that are objects.

The stock endpoints start a process for whatever name they are given, with or without a label, and say that it was
accepted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from fastapi import APIRouter
from monailabel.endpoints import batch_infer, train
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.batch_infer import BatchInferImageType
from monailabel.utils.async_tasks.utils import processes

from lib.datastore.versioned import VersionedDatastore
from lib.infers.failures import answer, as_answers
from lib.naming import check_tag
from lib.settings import REVIEWED
from lib.trainers.sam3d import ROLLBACK, chosen_options


class TaskApp(Protocol):
    """What the routes need of the app."""

    _trainers: Mapping[str, Any]
    _infers: Mapping[str, Any]

    @property
    def train_on(self) -> str: ...

    def datastore(self) -> Datastore: ...


def task_door(app: TaskApp) -> APIRouter:
    """The routes; endpoints that are no coroutines are run in threads."""
    router = APIRouter(include_in_schema=False)

    @router.post("/train/")
    def train_all(params: dict[str, Any] | None = None, run_sync: bool = False) -> Any:
        for name in app._trainers:
            if not isinstance((params or {}).get(name, {}), dict):
                raise answer(422, f"the body's {name!r} is {str((params or {})[name])[:40]!r}: it must be an object")
        _check_training(app, params)
        return train.run(params, run_sync)

    @router.post("/train/{model}")
    def train_one(
        model: str, params: dict[str, Any] | None = None, run_sync: bool = False, enqueue: bool = False
    ) -> Any:
        _check("trainer", model, app._trainers)
        _check_training(app, params)
        return train.run_model(model, params, run_sync, enqueue)

    @router.post("/batch/infer/{model}")
    def infer_all(
        model: str,
        images: BatchInferImageType = BatchInferImageType.IMAGES_ALL,
        params: dict[str, Any] | None = None,
        run_sync: bool = False,
    ) -> Any:
        _check("model", model, app._infers)
        with as_answers():
            check_tag((params or {}).get("label_tag") or "original", "label_tag")
        return batch_infer.run(model, images, params, run_sync)

    return router


def _check_training(app: TaskApp, params: Mapping[str, Any] | None) -> None:
    """HTTPException for what a run would only say in its log: a second run, bad options, and nothing to learn from."""
    if processes("train"):
        raise answer(429, "a training is running already: wait for its end, or stop it first")
    with as_answers():
        is_rollback = chosen_options(params or {}).get(ROLLBACK, False)
    if is_rollback:
        return
    datastore = app.datastore()
    labelled = datastore.get_labeled_images()
    if not labelled:
        raise answer(409, "there is nothing to learn from: no case has a label yet, so submit one first")
    if app.train_on != REVIEWED or not isinstance(datastore, VersionedDatastore):
        return
    if not any(datastore.counting_version(image, REVIEWED) for image in labelled):
        raise answer(
            409, "there is nothing to learn from: train_on is reviewed, and no label is approved yet, so approve one"
        )


def _check(kind: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise answer(404, f"there is no {kind} {name[:80]!r} here: there are {sorted(known)}")
