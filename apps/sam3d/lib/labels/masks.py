"""Label files as masks by name on an image's own grid; whatever cannot be trusted is refused in one sentence.

Names come from the file where it has them, then from what was stored beside it, then from the order of the app's
labels. Grids are brought together in physical space: never by index, shape or position in a list.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.boxes import Box, bounding_box
from lib.errors import GeometryError, LabelError, VolumeError
from lib.geometry import map_indices
from lib.images.uploads import shown_name
from lib.images.volumes import DEFAULT_LIMIT_BYTES, Volume
from lib.labels.dicom_seg import is_dicom, newest_seg, read_seg
from lib.labels.files import Layer, read_layers
from lib.labels.grids import LEAST_INSIDE, beyond, grid_note, refuse_beside

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

BACKGROUND = "background"
# Headers are rounded: axes that drift less than this, in voxels over the whole image, are parallel.
DRIFT_TOLERANCE = 0.01
# Values up to this are counted to find out which there are.
MOST_COUNTED = 2**16
# Ties (every second voxel, for labels of twice the image's spacing) all fall to one side. In voxels, and more than the
# rounding of float32 headers far from the origin.
TIE = 1e-3


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
    file, layers, notes = _opened(Path(path), volume, limit_bytes)
    return _masks(file, layers, notes, volume, labels, value_names or dict(enumerate(labels, start=1)))


def read_whole_label(
    path: str | Path, volume: Volume, labels: Sequence[str], value_names: Mapping[int, str] | None = None
) -> LabelMasks:
    """The masks of all names that a label file has, those of `labels` first and in their order, then the others.

    Arguments and errors are those of `read_label`.
    """
    file, layers, notes = _opened(Path(path), volume, DEFAULT_LIMIT_BYTES)
    names = dict(value_names or enumerate(labels, start=1))
    known = {*names.values(), *(name for layer in layers for name in (layer.names or {}).values())} - {BACKGROUND}
    ordered = [*(name for name in labels if name in known), *sorted(known - set(labels))]
    found = _masks(file, layers, notes, volume, ordered, names)
    return LabelMasks({name: found.masks[name] for name in ordered if name in found.masks}, found.notes)


def check_label(
    path: str | Path,
    volume: Volume,
    labels: Sequence[str],
    value_names: Mapping[int, str] | None = None,
    limit_bytes: int = DEFAULT_LIMIT_BYTES,
) -> tuple[str, ...]:
    """What training with `labels` will make of a label file beyond taking it as it is, in sentences.

    Arguments are those of `read_label`. LabelError for a label that lies beside its image, or whose names lack a value;
    names that are none of `labels` are no reason to refuse one, where there are any.
    """
    file, layers, notes = _opened(Path(path), volume, limit_bytes)
    values = {value for layer in layers for value in _values(layer.values)}
    if not values:
        return (*notes, f"{file} labels nothing: training leaves it out")
    names = dict(value_names or enumerate(labels, start=1))
    nameless: list[int] = []
    if not value_names:
        unnamed = {value for layer in layers if layer.names is None for value in _values(layer.values)}
        nameless = sorted(unnamed - set(names))
        names |= {value: f"value {value}" for value in nameless}
    own = {name for layer in layers for name in (layer.names or {}).values()}
    found = _masks(file, layers, notes, volume, sorted({*names.values(), *own}), names)
    if not labels:
        return found.notes
    strangers = sorted(set(found.masks) - set(labels))
    if nameless:
        remark = f"training leaves {file} out: its value {nameless[0]} has no name; submit it with names"
    elif not set(found.masks) & set(labels):
        remark = f"training leaves {file} out: it holds only {', '.join(strangers)}, and {_known(labels)}"
    elif strangers:
        remark = f"training leaves {', '.join(strangers)} of {file} out, for {_known(labels)}"
    else:
        return found.notes
    return (*found.notes, remark)


def read_values(path: Path, volume: Volume, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> tuple[NDArray[Any], list[str]]:
    """The numbers of a label map (I, J, K) on its image's grid, and notes; LabelError for what `read_label` refuses."""
    file, layers, notes = _opened(path, volume, limit_bytes)
    layer, *others = layers
    if others:
        raise LabelError(f"{file} has {len(layers)} layers, which may overlap; save it as one label map")
    values = np.zeros(volume.shape, dtype=layer.values.dtype, order="F")
    found = _values(layer.values)
    refuse_beside(layer, volume, file)
    if found:
        _refuse_elsewhere([(layer, dict.fromkeys(found, ""))], volume, file)
        box, placed = _on_grid(layer, volume)
        values[box] = placed
    return values, notes


def _known(labels: Sequence[str]) -> str:
    return f"this server's labels are {', '.join(labels)}: rename it, or add the name to the server's labels"


def names_by_order(label_info: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """Names by voxel value from a submitted `label_info`: by its order, for its `idx` counts unsaved segments too."""
    return {value: str(info["name"]) for value, info in enumerate(label_info, start=1)}


def _opened(path: Path, volume: Volume, limit_bytes: int) -> tuple[str, list[Layer], list[str]]:
    """What messages call a label, its layers, and notes about the file."""
    file = shown_name(path)
    try:
        layers, notes = _read(path, file, volume, limit_bytes)
    except (VolumeError, GeometryError) as error:
        raise LabelError(f"the label {file} cannot be used: {error}") from error
    return file, layers, notes


def _read(path: Path, file: str, volume: Volume, limit_bytes: int) -> tuple[list[Layer], list[str]]:
    notes: list[str] = []
    if not path.exists():
        raise LabelError(f"the label {file} does not exist; submit it again")
    if path.is_dir():
        path, notes = newest_seg(path)
    if is_dicom(path):
        return read_seg(path, volume.affine, limit_bytes), notes
    layers = read_layers(path, limit_bytes)
    first, *_ = layers  # the layers of one file have one grid
    note = grid_note(first, volume, file)
    return layers, [*first.notes, *([note] if note else [])]


def _masks(
    file: str, layers: list[Layer], notes: list[str], volume: Volume, labels: Sequence[str], others: Mapping[int, str]
) -> LabelMasks:
    named = _by_name(layers, others, file)
    strangers = sorted({name for _, names in named for name in names.values()} - {*labels, BACKGROUND})
    if strangers:
        notes = [*notes, f"{file} also holds {', '.join(strangers)}, which the app does not know, and left it out"]
    wanted = [
        (layer, {value: name for value, name in names.items() if name in labels and name != BACKGROUND})
        for layer, names in named
    ]
    wanted = [(layer, names) for layer, names in wanted if names]
    if not wanted:
        held = f", only {', '.join(strangers)}" if strangers else ""
        raise LabelError(f"{file} holds no voxel of {', '.join(labels)}{held}; draw the label, or rename it")
    _refuse_elsewhere(wanted, volume, file)
    return _gathered(wanted, volume, file, notes)


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
        plane = array[..., k].ravel(order="K")
        # Counted, which takes a tenth of the time that sorting does, but room for the largest value.
        values = np.flatnonzero(np.bincount(plane)) if plane.max(initial=0) <= MOST_COUNTED else np.unique(plane)
        found.update(int(value) for value in values)
    return found - {0}


def _refuse_elsewhere(wanted: list[tuple[Layer, dict[int, str]]], volume: Volume, file: str) -> None:
    """LabelError for a label that does not lie where its image does."""
    n_inside = n_voxels = 0
    farthest = 0.0
    for layer, names in wanted:
        refuse_beside(layer, volume, file)
        if _lies_inside(layer, volume):
            n_labelled = int(np.isin(layer.values, list(names)).sum())
            n_inside, n_voxels = n_inside + n_labelled, n_voxels + n_labelled
            continue
        for points in _voxels(layer.values, list(names)):
            outside = beyond(points, layer, volume)
            n_inside += int((outside == 0).sum())
            n_voxels += len(points)
            farthest = max(farthest, float(outside.max(initial=0.0)))
    if n_inside < LEAST_INSIDE * n_voxels:
        raise LabelError(
            f"only {n_inside / n_voxels:.0%} of what {file} labels lies within the image (at least {LEAST_INSIDE:.0%} "
            f"must), and some of it {farthest:.3g} mm beyond; it belongs to another image, or its header is wrong"
        )


def _lies_inside(layer: Layer, volume: Volume) -> bool:
    """Whether the box around all that a layer labels lies within the image."""
    box = bounding_box(layer.values != 0)
    if box is None:
        return True
    corners = np.array(list(product(*((edge.start, edge.stop - 1) for edge in box))))
    return not beyond(corners, layer, volume).any()


def _voxels(values: NDArray[Any], wanted: list[int]) -> Iterator[NDArray[np.int64]]:
    """The voxels (N, 3) of some values, slice by slice."""
    for k in range(values.shape[2]):
        found = np.argwhere(np.isin(values[..., k], wanted))
        yield np.concatenate([found, np.full((len(found), 1), k)], axis=1)


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
