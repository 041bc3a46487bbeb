"""The interactive task: clicks in, mask out. The thinking is in lib.interactive.predictor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monailabel.interfaces.tasks.infer_v2 import InferType

from lib.errors import PromptError
from lib.images.volumes import Volume, VolumeCache
from lib.infers.drawing import DrawnFiles, read_drawing
from lib.infers.model import SharedPredictor
from lib.infers.reply import ReplyFiles
from lib.infers.task import Sam3DTask
from lib.interactive.predictor import Predictor, Segmentation
from lib.interactive.prompts import drawn_on, prompts_from_request
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
        """A mask of the labels clicked on or drawn; without either an empty one."""
        settings = self._model.settings
        clicks = prompts_from_request(request, settings.labels, volume.array.shape, settings.clicks.max_clicks)
        files = request.get("drawn")
        if isinstance(files, DrawnFiles):  # which the door makes, and no client can
            drawing = read_drawing(files, request, volume, settings.labels)
            clicks = drawn_on(clicks, drawing.masks, drawing.strokes)
        if not clicks.prompts:
            _refuse_unknown(request, settings.labels)
        return predictor.segment(volume, clicks)


def _refuse_unknown(request: Mapping[str, Any], labels: Sequence[str]) -> None:
    """PromptError for a request that asks for nothing but a label that there is not: an empty mask would be taken for
    its answer."""
    known = {*labels, BACKGROUND, "foreground", "points", "null"}
    names = [key for key, value in request.items() if key not in known and _are_clicks(value)]
    if names:
        raise PromptError(f"there is no label {names[0][:40]!r} here: the labels are {list(labels)}")


def _are_clicks(value: Any) -> bool:
    return (
        isinstance(value, list) and bool(value) and all(isinstance(click, list) and len(click) == 3 for click in value)
    )
