"""The app as MONAI Label loads it: settings from --conf, tasks from lib.configs, and a door that checks requests.

Everything is imported at the top: the server takes this folder off `sys.path` once this file has run.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import ExitStack
from contextvars import copy_context
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monailabel.config import settings as server_settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask

from lib.activelearning.case_states import counts as state_counts
from lib.activelearning.case_states import rejected
from lib.activelearning.drafts import Drafts
from lib.activelearning.presence import CLICKED_S
from lib.activelearning.strategies import next_case
from lib.configs.sam3d import Sam3DConfig
from lib.datastore.archive import ArchiveDatastore
from lib.datastore.opening import folder_of_labels, open_datastore
from lib.datastore.versioned import VersionedDatastore
from lib.infers.failures import answer, as_answers
from lib.infers.images import find_image
from lib.infers.task import first_of
from lib.locks import fault_of_locks
from lib.naming import check_tag
from lib.serving.cases_door import cases_door
from lib.serving.cases_page import cases_page
from lib.serving.closing import close_doors
from lib.serving.datastore_door import datastore_door
from lib.serving.infer_door import infer_door
from lib.serving.mounting import put_first
from lib.serving.next_sample import next_sample_door
from lib.serving.places import Places
from lib.serving.scoring_door import ScoringTasks, progress_door, scoring_door
from lib.serving.session_door import session_door
from lib.serving.task_door import task_door
from lib.serving.threaded import threaded_doors
from lib.settings import Settings
from lib.viewer.routes import viewer_routes

logger = logging.getLogger(__name__)

DICOM_SEG_TOOL = "itkimage2segimage"
NICENESS = 5
# Of the cases that do not open, /info/ names so many.
NAMED = 20


class MyApp(MONAILabelApp):
    """Derives from MONAILabelApp directly: the server finds the class by the name of its base."""

    _is_server = False

    def __init__(self, app_dir: str, studies: str, conf: dict[str, Any]) -> None:
        self.config = Sam3DConfig(Settings.from_conf(conf), studies)
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name="sam3d",
            description="Clicks in a viewer become a 3D mask (3DSAM-adapter)",
            version="0.1.0",
            labels=self.config.labels,
        )

    def init_datastore(self) -> Datastore:
        own = open_datastore(self.studies, self.config.labels, lambda: self.config.model.served_name)
        return own or super().init_datastore()

    def init_infers(self) -> dict[str, InferTask]:
        return self.config.infers()

    def init_trainers(self) -> dict[str, TrainTask]:
        return self.config.trainers()

    def init_batch_infer(self) -> Drafts:
        return self.config.drafts()

    def init_strategies(self) -> dict[str, Strategy]:
        return self.config.strategies()

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        return self.config.scoring_methods()

    def async_scoring(self, method: str | None, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Called by the stock app at the start and after training. The server's own thread sees by itself what is new;
        the stock method sends a request to this server, which does not listen yet at its start."""
        self.config.background.wake()
        return {}

    def on_init_complete(self) -> None:
        """Called in the server's process only, not in those that train or infer in batches."""
        super().on_init_complete()
        self._is_server = True
        settings = self.config.settings
        limit_volume_bytes = settings.volume_cache_mib * 2**20
        put_first(threaded_doors())
        put_first(task_door(self))
        put_first(datastore_door(self, limit_volume_bytes))
        put_first(session_door(self, limit_volume_bytes))
        put_first(next_sample_door(self))
        put_first(scoring_door(ScoringTasks(self, self.config.background, self._scoring_methods)))
        put_first(progress_door(self.config.background))
        put_first(cases_door(self, self.config.states, self.config.leases))
        put_first(cases_page(self, self.config.states))
        put_first(infer_door(self, Places(settings.serving.max_requests), self._on_click))
        datastore = self.datastore()
        own = datastore.own_address if isinstance(datastore, ArchiveDatastore) else None
        put_first(viewer_routes(settings.viewer_fixes, own))
        close_doors(settings)
        self._claim_studies()
        self.config.model.warm_up()
        self.config.background.start(self.datastore())

    @property
    def train_on(self) -> str:
        """Which labels count for training."""
        return self.config.settings.training.train_on

    def _on_click(self, image: str, client: str, name: str) -> list[str]:
        """A client, whom others know by a name, clicked on an image: who else has it open."""
        self.config.leases.renew(image, client)
        self.config.presence.note(image, client, name, CLICKED_S)
        return self.config.presence.others(image, client)

    def _claim_studies(self) -> None:
        for folder in (folder_of_labels(self.studies), self.config.settings.model_folder):
            if fault := fault_of_locks(folder):
                logger.warning("%s", fault)
        datastore = self.datastore()
        if isinstance(datastore, VersionedDatastore) and (other := datastore.claim()):
            logger.warning("%s", other)

    def info(self) -> dict[str, Any]:
        """What the stock app says, how many cases are labelled, skipped, or have a draft to begin with, how many are in
        each state, which were sent back, and what of the studies cannot be used."""
        info: dict[str, Any] = super().info()
        datastore = self.datastore()
        labelled = set(datastore.get_labeled_images())
        is_ours = isinstance(datastore, VersionedDatastore)
        counts: dict[str, Any] = {
            "labeled": len(labelled),
            "skipped": len(set(self.config.leases.skipped()) - labelled),
            "pre-annotated": len(datastore.drafts()) if is_ours else 0,
            "states": state_counts(self.config.states.all(datastore)),
            "rejected": dict(list(rejected(datastore).items())[:NAMED]),
        }
        unopened = self.config.unopened.known(datastore)
        unused: dict[str, Any] = {"unopened": {"count": len(unopened), "reasons": dict(list(unopened.items())[:NAMED])}}
        if isinstance(datastore, VersionedDatastore):
            unused |= {**datastore.left_out(), "refusal": datastore.refusal}
            if reason := datastore.only_reads():
                unused["only_reads"] = reason
                info["description"] = f"{info['description']}. {reason[0].upper()}{reason[1:]}."
        shown = datastore.shown() if isinstance(datastore, ArchiveDatastore) else {}
        return {**info, "datastore": {**info["datastore"], **counts, **unused, **shown}}

    def infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """The reply to `request`; whatever is wrong with it is an HTTPException with one sentence.

        Unlike the stock method this opens no path of the client's choice, and leaves no mask behind when it fails.
        """
        datastore = datastore or self.datastore()
        task = self._infer_task(request.get("model"))
        tag = _label_tag(request)
        path = find_image(request.get("image"), datastore, (self.sessions() or {}).values())
        mask_file, params = self._run(task, {**request, "image": path})
        if isinstance(datastore, ArchiveDatastore) and request["image"] != path:
            params["notes"] = [*datastore.image_notes(request["image"]), *params.get("notes", [])]
        label: str = mask_file
        with ExitStack() as on_failure:
            on_failure.callback(Path(mask_file).unlink, missing_ok=True)
            if tag and request["image"] != path:
                with as_answers():
                    info = {"model": request["model"], "params": params}
                    label = datastore.save_label(request["image"], mask_file, tag, info)
            on_failure.pop_all()
        return {"label": label, "tag": tag or DefaultLabelTag.ORIGINAL, "file": mask_file, "params": params}

    def batch_infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """A draft of every image of the request in turn, tagged `original` unless another tag is named; one that is
        refused, as those that have a final label are, is logged and does not stop the others. HTTPException for
        `final`, which is for what somebody looked at."""
        if _label_tag({**request, "save_label": True}) == DefaultLabelTag.FINAL.value:
            raise answer(422, "label_tag is 'final': masks that nobody looked at are drafts, so use 'original'")
        if not self._is_server:  # a process of its own, which must not make clicks wait
            os.nice(NICENESS)
        # The stock task shares images out over GPUs and divides by their number, which may be 0; ours has one device.
        request = {**request, "multi_gpu": False}
        return self._batch_infer(request, datastore or self.datastore(), self._infer_or_skip)

    def _infer_or_skip(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        try:
            # Asked for each image, for somebody may finish one meanwhile.
            if request.get("image") in set(datastore.get_labeled_images()):
                raise answer(409, f"{request['image']} has a final label, and gets no draft")
            return self.infer(request, datastore)
        except HTTPException as refusal:
            logger.warning("skipped %s: %s", request.get("image"), refusal.detail)
            return {"error": refusal.detail}

    def next_sample(self, request: dict[str, Any]) -> dict[str, Any]:
        """Id and path of a case that opens and that nobody else works on, by a strategy, and why; only a sentence, in
        `detail`, if there is none."""
        with self.config.model.quiet.busy():
            return next_case(self._strategies, request, self.datastore(), self.config.unopened)

    def on_save_label(self, image_id: str, label_id: str) -> dict[str, Any]:
        """Called by the server once the datastore has a label that a client sent; what the reply says beside its id."""
        super().on_save_label(image_id, label_id)
        self.config.leases.end(image_id)
        datastore = self.datastore()
        return datastore.saved_note(image_id) if isinstance(datastore, VersionedDatastore) else {}

    def _infer_task(self, model: object) -> InferTask:
        task = self._infers.get(model) if isinstance(model, str) else None
        if task is None:
            raise answer(404, f"there is no model {str(model)[:80]!r} here: the models are {sorted(self._infers)}")
        return task

    def _run(self, task: InferTask, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        if self._infers_threadpool is None:
            return task(request)
        limit_s = server_settings.MONAI_LABEL_INFER_TIMEOUT
        try:
            return self._infers_threadpool.submit(copy_context().run, task, request).result(limit_s)
        except FutureTimeoutError as error:
            raise answer(504, f"no mask within {limit_s} s: try again when the server is less busy") from error

    def _download_dcmqi_tools(self) -> None:
        """Look for the tool instead: the stock method downloads one at every start on a machine without it."""
        beside_python = Path(sys.executable).parent
        if not shutil.which(DICOM_SEG_TOOL) and (beside_python / DICOM_SEG_TOOL).exists():
            os.environ["PATH"] += os.pathsep + str(beside_python)
        if not shutil.which(DICOM_SEG_TOOL):
            logger.warning("no %s on PATH: labels cannot be stored as DICOM SEG; install dcmqi", DICOM_SEG_TOOL)


def _label_tag(request: dict[str, Any]) -> str:
    """The tag to save the mask under; empty if it is not to be saved."""
    if first_of(request.get("save_label")) not in (True, "true", "True", 1):
        return ""
    with as_answers():
        return check_tag(first_of(request.get("label_tag")) or DefaultLabelTag.ORIGINAL.value, "label_tag")
