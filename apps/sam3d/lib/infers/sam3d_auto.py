"""The automatic task: a mask of the whole volume without any click, for OHIF's second tab and for batch inference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monailabel.interfaces.tasks.infer_v2 import InferType

from lib.images.volumes import Volume, VolumeCache
from lib.infers.model import SharedPredictor
from lib.infers.reply import ReplyFiles
from lib.infers.task import Sam3DTask
from lib.interactive.predictor import Predictor, Segmentation


class Sam3DAutoInfer(Sam3DTask):
    """`segmentation` of the first label, the only one that a network without clicks can name."""

    def __init__(self, model: SharedPredictor, volumes: VolumeCache, replies: ReplyFiles) -> None:
        super().__init__(
            InferType.SEGMENTATION,
            {model.settings.labels[0]: 1},
            f"A first mask of {model.settings.labels[0]} in the whole volume, without clicks",
            model,
            volumes,
            replies,
        )

    def segment(self, predictor: Predictor, volume: Volume, request: Mapping[str, Any]) -> Segmentation:
        """A mask of the first label; the request's clicks, if any, are not looked at."""
        return predictor.segment_automatically(volume)
