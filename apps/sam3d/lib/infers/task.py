"""What both infer tasks share: from a path to a volume, from the volume to a mask, from the mask to a reply."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from lib.images.volumes import Volume, VolumeCache
from lib.infers.failures import as_answers
from lib.infers.images import is_upload
from lib.infers.measurements import measure
from lib.infers.model import SharedPredictor
from lib.infers.reply import ReplyFiles, describe, reply_format
from lib.interactive.predictor import Predictor, Segmentation


class Sam3DTask(InferTask):
    """A task of the shared predictor. Its config is empty: whatever stands there, OHIF sends back for ever after.

    Keys of a request that are not read here or by the prompts mean nothing: no path, file name or device is taken
    from a client.
    """

    def __init__(
        self,
        infer_type: InferType,
        labels: Mapping[str, int],
        description: str,
        model: SharedPredictor,
        volumes: VolumeCache,
        replies: ReplyFiles,
    ) -> None:
        super().__init__(infer_type, dict(labels), dimension=3, description=description)
        self._model = model
        self._volumes = volumes
        self._replies = replies

    def is_valid(self) -> bool:
        """Always: a task whose weights cannot be used says so when asked, instead of vanishing from the viewers."""
        return True

    def info(self) -> dict[str, Any]:
        """The task as the viewers list it, with the state of its weights."""
        return {**super().info(), "description": f"{self.description} ({self._model.status})"}

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """The mask file of `request`, whose `image` is a path, and the reply's params; HTTPException if refused."""
        start = time.perf_counter()
        # From here on nobody scores in the background (lib.activelearning.background).
        with as_answers(), self._model.quiet.busy():
            file_format = reply_format(first_of(request.get("result_extension")), request["image"])
            volume = self._volumes.open(request["image"], is_foreign=is_upload(request["image"]))
            opened = time.perf_counter()
            with self._model.ready() as predictor:
                segmentation = self.segment(predictor, volume, request)
            segmented = time.perf_counter()
            label_map, box = segmentation.label_map, segmentation.box
            label_names, centroids = describe(label_map, box, self._model.settings.labels)
            measurements = measure(label_map, box, volume.affine, label_names)
            measured = time.perf_counter()
            is_compressed = first_of(request.get("result_compress")) is True
            path = self._replies.write(label_map, box, volume.affine, file_format, is_compressed)
        latencies_ms = {
            "open": _ms(opened - start),
            **segmentation.report.latencies_ms,
            "measure": _ms(measured - segmented),
            "write": _ms(time.perf_counter() - measured),
            "total": _ms(time.perf_counter() - start),
        }
        return str(path), {
            **segmentation.report.as_json(),
            "model_version": segmentation.report.weights_version,
            "label_names": label_names,
            "centroids": centroids,
            "measurements": measurements,
            "latencies_ms": latencies_ms,
        }

    @abstractmethod
    def segment(self, predictor: Predictor, volume: Volume, request: Mapping[str, Any]) -> Segmentation:
        """The label map of `volume` that `request` asks for."""


def first_of(value: Any) -> Any:
    """A value, or the first of a list of choices: OHIF sends an option's whole list back until it is changed."""
    if isinstance(value, list):
        return value[0] if value else None
    return value


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
