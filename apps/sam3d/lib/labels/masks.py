"""Label files as masks by name on an image's own grid; whatever cannot be trusted is refused in one sentence.

Names come from the file where it has them, then from what was stored beside it, then from the order of the app's
labels. Grids are brought together in physical space: never by index, shape or position in a list.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.boxes import Box, bounding_box
from lib.errors import GeometryError, LabelError, VolumeError
from lib.geometry import map_indices
from lib.images.volumes import DEFAULT_LIMIT_BYTES, Volume
from lib.labels.dicom_seg import is_dicom, newest_seg, read_seg
from lib.labels.files import Layer, read_layers

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

BACKGROUND = "background"
# A label of which less than this lies inside its image belongs to another image, or lost its header.
LEAST_INSIDE = 0.9
# Headers are rounded: axes that drift less than this, in voxels over the whole image, are parallel.
DRIFT_TOLERANCE = 0.01
# Ties (every second voxel, for labels of twice the image's spacing) all fall to one side. In voxels, and more than the
# rounding of float32 headers far from the origin.
TIE = 1e-3
# Samples along each axis of a grid when only its extent matters.
EXTENT_SAMPLES = 50


@dataclass(frozen=True, eq=False)
class LabelMasks:
    """Masks (I, J, K) by label name, none of them empty, and sentences about what was left out."""

    masks: Mapping[str, Mask]
    notes: tuple[str, ...] = ()


def read_label(
    path: str | Path,
    volume: Volume,
    labels: Sequence[str],
    value_names: Mapping[int, str] | None = None,
    limit_bytes: int = DEFAULT_LIMIT_BYTES,
) -> LabelMasks:
    """The masks of `labels` in a label file, on the grid of `volume`, by nearest neighbour in physical space.

    `value_names` names the values of files that do not do so themselves; without either, value 1 is the first of
    `labels`. The path may be a folder of DICOM SEGs, of which the newest counts. LabelError says what is wrong.
    """
    path = Path(path)
    try:
        layers, notes = _read(path, volume, limit_bytes)
    except (VolumeError, GeometryError) as error:
        raise LabelError(f"the label {path.name} cannot be used: {error}") from error
    named = _by_name(layers, value_names or dict(enumerate(labels, start=1)), path.name)
    strangers = sorted({name for _, names in named for name in names.values()} - {*labels, BACKGROUND})
    if strangers:
        notes.append(f"{path.name} also holds {', '.join(strangers)}, which the app does not know, and left it out")
    wanted = [
        (layer, {value: name for value, name in names.items() if name in labels and name != BACKGROUND})
        for layer, names in named
    ]
    wanted = [(layer, names) for layer, names in wanted if names]
    if not wanted:
        held = f", only {', '.join(strangers)}" if strangers else ""
        raise LabelError(f"{path.name} holds no voxel of {', '.join(labels)}{held}; draw the label, or rename it")
    _refuse_elsewhere(wanted, volume, path.name)
    return _gathered(wanted, volume, path.name, notes)


def names_by_order(label_info: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """Names by voxel value from a submitted `label_info`: by its order, for its `idx` counts unsaved segments too."""
    return {value: str(info["name"]) for value, info in enumerate(label_info, start=1)}


def _read(path: Path, volume: Volume, limit_bytes: int) -> tuple[list[Layer], list[str]]:
    notes: list[str] = []
    if not path.exists():
        raise LabelError(f"the label {path.name} does not exist; submit it again")
    if path.is_dir():
        path, notes = newest_seg(path)
    if is_dicom(path):
        return read_seg(path, volume.affine, limit_bytes), notes
    return read_layers(path, limit_bytes), notes


def _by_name(layers: list[Layer], others: Mapping[int, str], file: str) -> list[tuple[Layer, dict[int, str]]]:
    """Each layer with the names of the values that occur in it; LabelError where one has none."""
    named = []
    for layer in layers:
        names = others if layer.names is None else layer.names
        values = _values(layer.values)
        if nameless := sorted(values - set(names)):
            known = ", ".join(f"{value} is {name}" for value, name in sorted(names.items()))
            raise LabelError(f"{file} holds the value {nameless[0]}, which has no name ({known}); submit it with names")
        named.append((layer, {value: names[value] for value in sorted(values)}))
    return named


def _values(array: NDArray[Any]) -> set[int]:
    """The values above 0 of whole numbers (I, J, K)."""
    found: set[int] = set()
    for k in range(array.shape[2]):
        found.update(int(value) for value in np.unique(array[..., k]))
    return found - {0}


def _refuse_elsewhere(wanted: list[tuple[Layer, dict[int, str]]], volume: Volume, file: str) -> None:
    """LabelError for a label whose voxels, or whose like-sized grid, lie outside of the image."""
    n_inside = n_voxels = 0
    for layer, names in wanted:
        if sorted(layer.values.shape) == sorted(volume.shape):
            share = _extent_inside(layer, volume)
            if share < LEAST_INSIDE:
                raise LabelError(
                    f"{file} has its image's size, but only {share:.0%} of its extent lies within the image; its "
                    "header was lost or is another image's: save it again from the image"
                )
        for points in _voxels(layer.values, list(names)):
            n_inside += int(_is_inside(points, layer, volume).sum())
            n_voxels += len(points)
    if n_inside < LEAST_INSIDE * n_voxels:
        raise LabelError(
            f"only {n_inside / n_voxels:.0%} of what {file} labels lies within the image (at least {LEAST_INSIDE:.0%} "
            "must); it belongs to another image, or its header is wrong"
        )


def _extent_inside(layer: Layer, volume: Volume) -> float:
    """How much of a layer's box, in mm, lies within the image's."""
    axes = [(np.arange(EXTENT_SAMPLES) + 0.5) / EXTENT_SAMPLES * n - 0.5 for n in layer.values.shape]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    return float(_is_inside(points, layer, volume).mean())


def _voxels(values: NDArray[Any], wanted: list[int]) -> Iterator[NDArray[np.int64]]:
    """The voxels (N, 3) of some values, slice by slice."""
    for k in range(values.shape[2]):
        found = np.argwhere(np.isin(values[..., k], wanted))
        yield np.concatenate([found, np.full((len(found), 1), k)], axis=1)


def _is_inside(points: NDArray[Any], layer: Layer, volume: Volume) -> NDArray[np.bool_]:
    return _nearest(map_indices(points, layer.affine, volume.affine), volume.shape)[1]


def _gathered(wanted: list[tuple[Layer, dict[int, str]]], volume: Volume, file: str, notes: list[str]) -> LabelMasks:
    masks: dict[str, Mask] = {}
    for layer, names in wanted:
        box, values = _on_grid(layer, volume)
        for value, name in names.items():
            mask = masks.setdefault(name, np.zeros(volume.shape, dtype=np.bool_, order="F"))
            mask[box] |= values == value
    lost = sorted(name for name, mask in masks.items() if not mask.any())
    notes += [f"{name} of {file} is smaller than a voxel of the image and left out" for name in lost]
    if len(lost) == len(masks):
        raise LabelError(f"{file} labels nothing as large as a voxel of its image: {', '.join(lost)}")
    return LabelMasks({name: mask for name, mask in masks.items() if name not in lost}, tuple(notes))


def _on_grid(layer: Layer, volume: Volume) -> tuple[Box, NDArray[Any]]:
    """A box of the image that holds all the layer labels, and the layer's nearest values at its voxel centres."""
    labelled = bounding_box(layer.values != 0)
    assert labelled is not None, "a layer without a value has no names and is not asked for"
    corners = np.array([[part.start - 0.5, part.stop - 0.5] for part in labelled])
    points = np.stack(np.meshgrid(*corners, indexing="ij"), axis=-1).reshape(-1, 3)
    ends = map_indices(points, layer.affine, volume.affine)
    low = np.clip(np.floor(ends.min(axis=0)), 0, np.array(volume.shape) - 1).astype(int)
    high = np.clip(np.ceil(ends.max(axis=0)), 0, np.array(volume.shape) - 1).astype(int)
    box = (slice(low[0], high[0] + 1), slice(low[1], high[1] + 1), slice(low[2], high[2] + 1))
    ranges = [np.arange(part.start, part.stop) for part in box]
    separable = _separable(ranges, layer, volume)
    if separable is not None:
        return box, separable
    values = np.zeros([len(indices) for indices in ranges], dtype=layer.values.dtype, order="F")
    for number, k in enumerate(ranges[2]):  # by slices, for every voxel needs three float64
        centres = np.stack(np.meshgrid(ranges[0], ranges[1], [k], indexing="ij"), axis=-1).reshape(-1, 3)
        nearest, inside = _nearest(map_indices(centres, volume.affine, layer.affine), layer.values.shape)
        plane = np.zeros(len(centres), dtype=values.dtype)
        plane[inside] = layer.values[tuple(nearest[inside].T)]
        values[..., number] = plane.reshape(values.shape[:2])
    return box, values


def _separable(ranges: list[NDArray[np.int_]], layer: Layer, volume: Volume) -> NDArray[Any] | None:
    """The nearest values where the layer's axes are the image's in another order or direction; None elsewhere."""
    first = np.array([float(indices[0]) for indices in ranges])
    steps = map_indices(np.concatenate([[first], first + np.eye(3)]), volume.affine, layer.affine)
    start, linear = steps[0], steps[1:] - steps[0]
    axes = [int(axis) for axis in np.abs(linear).argmax(axis=1)]  # the layer's axis along each of the image's
    lengths = np.array([len(indices) for indices in ranges])
    beside = np.abs(linear)
    beside[range(3), axes] = 0.0
    if sorted(axes) != [0, 1, 2] or (beside * lengths[:, None]).sum(axis=0).max() > DRIFT_TOLERANCE:
        return None
    known, sources = [], []
    for own, axis in enumerate(axes):
        indices = (start[axis] + linear[own, axis] * np.arange(lengths[own]))[:, None]
        nearest, inside = _nearest(indices, layer.values.shape[axis : axis + 1])
        known.append(np.flatnonzero(inside))
        sources.append(nearest[inside, 0])
    values = np.zeros(lengths, dtype=layer.values.dtype, order="F")
    values[np.ix_(*known)] = layer.values.transpose(axes)[np.ix_(*sources)]
    return values


def _nearest(indices: Floats, shape: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The voxels (N, axes) nearest to float indices, and which of them a grid of `shape` has, (N,)."""
    nearest = np.floor(indices + 0.5 + TIE).astype(np.int64)
    inside: NDArray[np.bool_] = ((nearest >= 0) & (nearest < np.asarray(shape))).all(axis=1)
    return nearest, inside
