"""What a client draws and sends along with a request: the mask so far and strokes, as files beside the clicks.

- `label`: the mask so far. Values are named by the file itself, by `label_info` in params, or by their number (1 is the
  first label). Segments named foreground_scribbles and background_scribbles, as 3D Slicer's scribbles have them, are
  strokes for the label that `selected_label_name` or `label` names.
- `strokes`: what was painted since the last answer, numbered likewise; 255 is what was erased, of any label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.images.volumes import Volume
from lib.labels.files import limit_bytes_on, read_layers
from lib.labels.masks import names_by_order, read_label
from lib.labels.raw import RAW, read_raw

FOREGROUND_SCRIBBLES, BACKGROUND_SCRIBBLES = "foreground_scribbles", "background_scribbles"
ERASED = 255
ERASED_NAME = "erased"


@dataclass(frozen=True)
class DrawnFiles:
    """Temporary files of a request; the endings say what they are, `.bin` for raw voxels on the image's grid."""

    label: Path | None = None
    strokes: Path | None = None


@dataclass
class Drawing:
    """By label name: masks (I, J, K) bool, and strokes (I, J, K) int8, 1 painted and -1 erased."""

    masks: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    strokes: dict[str, NDArray[np.int8]] = field(default_factory=dict)

    def paint(self, name: str, mask: NDArray[np.bool_], value: int) -> None:
        self.strokes.setdefault(name, np.zeros(mask.shape, np.int8))[mask] = value


def read_drawing(files: DrawnFiles, request: Mapping[str, Any], volume: Volume, labels: Sequence[str]) -> Drawing:
    """What was drawn, on the volume's grid. LabelError for a file that does not belong to the image."""
    drawing = Drawing()
    names = _names(request.get("label_info"), labels)
    if files.label is not None:
        for name, mask in _masks(files.label, volume, names).items():
            if name.lower() in (FOREGROUND_SCRIBBLES, BACKGROUND_SCRIBBLES):
                drawing.paint(_selected(request, labels), mask, 1 if name.lower() == FOREGROUND_SCRIBBLES else -1)
            elif name in labels:
                drawing.masks[name] = mask
    if files.strokes is not None:
        for name, mask in _masks(files.strokes, volume, {**names, ERASED: ERASED_NAME}).items():
            if name == ERASED_NAME:
                for other in labels:
                    drawing.paint(other, mask, -1)
            elif name in labels:
                drawing.paint(name, mask, 1)
    return drawing


def _masks(path: Path, volume: Volume, names: Mapping[int, str]) -> Mapping[str, NDArray[np.bool_]]:
    """Masks by name; none for a file without a voxel."""
    if path.name.endswith(RAW):
        values = read_raw(path, volume, "of this request")
        return {name: values == value for value, name in names.items() if (values == value).any()}
    layers = read_layers(path, limit_bytes_on(volume.shape))
    if not any((layer.values != 0).any() for layer in layers):
        return {}
    own = {name for layer in layers for name in (layer.names or {}).values()}
    return read_label(path, volume, sorted({*names.values(), *own}), names).masks


def _names(label_info: Any, labels: Sequence[str]) -> dict[int, str]:
    if isinstance(label_info, list) and all(isinstance(info, Mapping) and "name" in info for info in label_info):
        numbered = {info.get("id"): str(info["name"]) for info in label_info}
        if all(isinstance(number, int) and not isinstance(number, bool) for number in numbered):
            return {int(number): name for number, name in numbered.items() if number is not None}
        return names_by_order(label_info)
    return dict(enumerate(labels, start=1))


def _selected(request: Mapping[str, Any], labels: Sequence[str]) -> str:
    for key in ("selected_label_name", "label"):
        if request.get(key) in labels:
            return str(request[key])
    return labels[0]
