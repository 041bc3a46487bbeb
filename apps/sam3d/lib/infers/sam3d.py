"""The interactive task: clicks in, mask out. The thinking is in lib.interactive.predictor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monailabel.interfaces.tasks.infer_v2 import InferType

from lib.images.volumes import Volume, VolumeCache
from lib.infers.model import SharedPredictor
from lib.infers.reply import ReplyFiles
from lib.infers.task import Sam3DTask
from lib.interactive.predictor import Predictor, Segmentation
from lib.interactive.prompts import prompts_from_request
from lib.settings import BACKGROUND


class Sam3DInfer(Sam3DTask):
    """`deepedit`, the one type that both OHIF's and Slicer's click panels list."""

    def __init__(self, model: SharedPredictor, volumes: VolumeCache, replies: ReplyFiles) -> None:
        names = [*model.settings.labels, *([BACKGROUND] if model.settings.lists_background else [])]
        super().__init__(
            InferType.DEEPEDIT,
            {name: value for value, name in enumerate(names, 1)},
            "Clicks on a label grow its mask; clicks on another label or on background shrink it",
            model,
            volumes,
            replies,
        )

    def segment(self, predictor: Predictor, volume: Volume, request: Mapping[str, Any]) -> Segmentation:
        """A mask of the labels clicked on; without clicks an empty one."""
        settings = self._model.settings
        clicks = prompts_from_request(request, settings.labels, volume.array.shape, settings.clicks.max_clicks)
        return predictor.segment(volume, clicks)
