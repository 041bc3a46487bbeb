"""Labelled cases to evaluate on: pairs of files in a folder, a folder as of the Medical Segmentation Decathlon, or our
own held-out phantoms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.datasets.listing import labelled_cases
from lib.errors import VolumeError
from lib.images.volumes import Volume, make_volume, open_volume
from lib.learning.cases import Case as FilePair
from lib.synthesis.phantoms import held_out_cases

Labelled = tuple[Volume, NDArray[Any]]


@dataclass(frozen=True)
class Case:
    """A volume with its label map (I, J, K); neither is read before `load`. `label_names` names values of the map."""

    name: str
    load: Callable[[], Labelled]
    label_names: Mapping[int, str] = field(default_factory=dict)


def cases_in(folder: Path) -> list[Case]:
    """The cases of a folder or datalist, by name (lib.datasets.listing). Raises VolumeError where there is none."""
    return [opened_later(case) for case in labelled_cases(folder).cases]


def opened_later(case: FilePair) -> Case:
    """A case on disk, whose label must lie on its image's grid."""
    return Case(case.id, partial(read_pair, case.image, case.label), case.value_names or {})


def opened(cases: Iterable[Case]) -> Iterator[tuple[Case, Volume, NDArray[Any]] | str]:
    """The cases, read one after another; a sentence for each that cannot be read."""
    for case in cases:
        try:
            volume, label_map = case.load()
        except VolumeError as error:
            yield f"{case.name} was left out: {error}"
        else:
            yield case, volume, label_map


def with_value(case: Case, value: int) -> Case:
    """The case with one value of its label map alone."""

    def load() -> Labelled:
        volume, label_map = case.load()
        return volume, np.where(label_map == value, label_map, 0)

    return Case(case.name, load, case.label_names)


def phantom_cases(count: int, family: str, seed: int = 0) -> Iterator[Case]:
    """`count` held-out phantoms of a family, `ct` or `mr`, none of them ever trained on."""
    for number, (array, affine, label) in enumerate(held_out_cases(count, seed, family)):
        name = f"phantom_{family}_{number:03}"
        yield Case(name, _kept(make_volume(array, affine, name), label.astype(np.uint8)))


def read_pair(image: Path, label: Path) -> Labelled:
    """An image and its label map. Raises VolumeError where one cannot be read, or lies elsewhere than the other."""
    volume, truth = open_volume(image), open_volume(label)
    if truth.shape != volume.shape:
        raise VolumeError(f"{label.name} has shape {truth.shape}, its image {volume.shape}: they must lie on one grid")
    corners = np.array(list(product(*((0, length) for length in volume.shape))))
    shift = (truth.affine - volume.affine)[:3]
    apart_mm = float(np.abs(corners @ shift[:, :3].T + shift[:, 3]).max())
    if apart_mm > volume.spacing.min() / 2:
        raise VolumeError(f"{label.name} lies {apart_mm:.1f} mm off its image: they must lie on one grid")
    return volume, truth.array


def _kept(volume: Volume, label_map: NDArray[Any]) -> Callable[[], Labelled]:
    return lambda: (volume, label_map)
