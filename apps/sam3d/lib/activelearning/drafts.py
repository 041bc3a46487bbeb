"""Drafts of many images: masks without a click, made by the workers of a cluster or here.

A draft is never made for an image that has a final label, which is asked when its turn comes and again before it is
stored. None is made again that is stored for the same content, weights and settings: whoever asks again after a restart
goes on with what is missing. This process alone stores.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fastapi import HTTPException
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.batch_infer import BatchInferTask

from lib.activelearning.background import image_reference
from lib.activelearning.pace import Pace, in_words
from lib.activelearning.references import travelling
from lib.cluster.going_on import Asked, carried
from lib.cluster.link import Link
from lib.cluster.orders import Failure, Outcome
from lib.cluster.travelling import Weights
from lib.datastore.versioned import VersionedDatastore
from lib.images.volumes import DEFAULT_LIMIT_BYTES
from lib.infers.failures import answer, as_answers
from lib.infers.images import find_image
from lib.infers.model import SharedPredictor
from lib.infers.sam3d_auto import Sam3DAutoInfer
from lib.network.weights import Card
from lib.works.draft import ENDING, Draft, draft_key, draft_order

logger = logging.getLogger(__name__)

MODEL = "sam3d_auto"
KEY = "draft_key"
# How often the log says how far they are.
TELL_S = 10.0

Reply = dict[str, Any]


class Drafts(BatchInferTask):
    """What POST /batch/infer of the automatic task does; other tasks go the stock's way."""

    def __init__(self, model: SharedPredictor, task: Sam3DAutoInfer, link: Link, root: Path | None) -> None:
        super().__init__()
        self._model, self._task, self._link, self._root = model, task, link, root
        self._weights: Weights | None = None

    def __call__(self, request: dict[str, Any], datastore: Datastore, infer: Any) -> dict[str, Any]:
        """Image id to what came of it: `label` and `tag`, or `error`."""
        if request.get("model") != MODEL:
            replies: dict[str, Any] = super().__call__(request, datastore, infer)
            return replies
        images = sorted(self.get_images(request, datastore))[: request.get("max_batch_size") or None]
        return dict(self.make(images, datastore, request.get("label_tag") or "original"))

    def make(self, images: Sequence[str], datastore: Datastore, tag: str) -> Iterator[tuple[str, Reply]]:
        """A draft of each image, and what came of it. HTTPException where there are no weights that could make one."""
        pace, told = Pace(), time.monotonic()
        stream = carried(
            images,
            lambda image: self._asked(image, datastore, tag),
            lambda image: self._made_here(image, datastore, tag),
            self._link,
            self._sent_weights,
        )
        for n_done, (image, outcome) in enumerate(stream, start=1):
            reply = self._stored(image, datastore, tag, outcome)
            pace.note()
            if time.monotonic() - told > TELL_S or n_done == len(images):
                told = time.monotonic()
                logger.info("%s", _sentence(n_done, len(images), self._link.places, pace))
            yield image, reply

    def _asked(self, image: str, datastore: Datastore, tag: str) -> Asked:
        """The order of an image whose turn it is; a refusal where it needs or can get no draft."""
        try:
            with as_answers():
                assert self._weights is not None, "orders need weights"
                key = self._needed(image, datastore, tag, self._weights.card)
                reference = travelling(image, datastore, self._root)
        except HTTPException as refusal:
            return Failure(str(refusal.detail), is_lasting=True)
        limit_mib = DEFAULT_LIMIT_BYTES // 2**20
        return draft_order(key, reference, self._model.settings, limit_mib) if reference is not None else None

    def _made_here(self, image: str, datastore: Datastore, tag: str) -> Outcome:
        try:
            with as_answers(), self._model.ready() as predictor:
                key = self._needed(image, datastore, tag, predictor.card)
            file, params = self._task({"image": find_image(image, datastore, ())})
        except HTTPException as refusal:
            return Failure(str(refusal.detail), is_lasting=True)
        return Path(file), {"model": MODEL, "params": params, KEY: key}

    def _needed(self, image: str, datastore: Datastore, tag: str, card: Card) -> str:
        """The key of the draft by weights with this card; HTTPException where none is needed."""
        _refuse_labelled(image, datastore)
        key = draft_key(image_reference(image, datastore), card, self._model.settings)
        if isinstance(datastore, VersionedDatastore):
            known = datastore.newest_version(image, tag)
            if known is not None and known.info.get(KEY) == key:
                raise answer(409, f"{image} has this draft already: it is version {known.number}")
        return key

    def _stored(self, image: str, datastore: Datastore, tag: str, outcome: Outcome) -> Reply:
        if isinstance(outcome, Failure):
            logger.warning("no draft of %s: %s", image, outcome.sentence)
            return {"error": outcome.sentence}
        with TemporaryDirectory(prefix="sam3d-draft-") as folder:
            try:
                path, info = self._unpacked(outcome, Path(folder))
                # Asked again, for somebody may have finished the image while its draft was made.
                _refuse_labelled(image, datastore)
                with as_answers():
                    label = datastore.save_label(image, str(path), tag, info)
            except HTTPException as refusal:
                logger.warning("no draft of %s: %s", image, refusal.detail)
                return {"error": str(refusal.detail)}
            finally:
                if isinstance(outcome, tuple):
                    outcome[0].unlink(missing_ok=True)
        return {"label": label, "tag": tag}

    def _unpacked(self, outcome: Outcome, folder: Path) -> tuple[Path, Mapping[str, Any]]:
        """A draft as a file, and what is kept with it; made here it is that already."""
        if isinstance(outcome, tuple):
            return outcome
        found = Draft(**outcome)
        path = folder / f"draft{ENDING}"
        path.write_bytes(found.file)
        version = found.report["weights_version"]
        names = {self._model.settings.labels[0]: 1} if found.n_voxels else {}
        params = {**found.report, "model_version": version, "label_names": names}
        return path, {"model": MODEL, "params": params, KEY: found.key}

    def _sent_weights(self) -> Weights:
        """Those of the version that is served now, for all orders until workers are lost."""
        with as_answers(), self._model.ready() as predictor:
            if self._weights is None or self._weights.card.sha256 != predictor.card.sha256:
                self._weights = Weights.served(self._model.settings)
        return self._weights


def _refuse_labelled(image: str, datastore: Datastore) -> None:
    if image in set(datastore.get_labeled_images()):
        raise answer(409, f"{image} has a final label, and gets no draft")


def _sentence(n_done: int, total: int, places: int, pace: Pace) -> str:
    on = f" on {places} places" if places else ""
    left = 3600 * (total - n_done) / pace.per_hour if pace.per_hour else 0.0
    return f"drafts: {n_done} of {total}{on}, {round(pace.per_hour)} an hour" + (
        f", about {in_words(left)} left" if left else ""
    )
