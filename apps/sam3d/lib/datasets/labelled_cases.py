"""Labelled cases to evaluate on: pairs of files in a folder, a folder as of the Medical Segmentation Decathlon, or our
own held-out phantoms."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.datasets.listing import labelled_cases
from lib.errors import LabelError, VolumeError
from lib.images.volumes import Volume, make_volume, open_volume
from lib.labels.masks import read_values
from lib.learning.cases import Case as FilePair
from lib.synthesis.phantoms import held_out_cases

logger = logging.getLogger(__name__)

Labelled = tuple[Volume, NDArray[Any]]


@dataclass(frozen=True)
class Case:
    """A volume with its label map (I, J, K); neither is read before `load`. `label_names` names values of the map."""

    name: str
    load: Callable[[], Labelled]
    label_names: Mapping[int, str] = field(default_factory=dict)
    # Its two files, and the one value that is sought; none of a case that lies in memory.
    files: tuple[Path, Path] | None = None
    value: int | None = None


def cases_in(folder: Path) -> list[Case]:
    """The cases of a folder or datalist, by name (lib.datasets.listing). Raises VolumeError where there is none."""
    return [opened_later(case) for case in labelled_cases(folder).cases]


def opened_later(case: FilePair) -> Case:
    """A case on disk."""
    return Case(case.id, partial(read_pair, case.image, case.label), case.value_names or {}, (case.image, case.label))


def opened(cases: Iterable[Case]) -> Iterator[tuple[Case, Volume, NDArray[Any]] | str]:
    """The cases, read one after another; a sentence for each that cannot be read."""
    for case in cases:
        try:
            volume, label_map = case.load()
        except (VolumeError, LabelError) as error:
            yield f"{case.name} was left out: {error}"
        else:
            yield case, volume, label_map


def with_value(case: Case, value: int) -> Case:
    """The case with one value of its label map alone."""

    def load() -> Labelled:
        volume, label_map = case.load()
        return volume, np.where(label_map == value, label_map, 0)

    return replace(case, load=load, value=value)


def phantom_cases(count: int, family: str, seed: int = 0) -> Iterator[Case]:
    """`count` held-out phantoms of a family, `ct` or `mr`, none of them ever trained on."""
    for number, (array, affine, label) in enumerate(held_out_cases(count, seed, family)):
        name = f"phantom_{family}_{number:03}"
        yield Case(name, _kept(make_volume(array, affine, name), label.astype(np.uint8)))


def read_pair(image: Path, label: Path) -> Labelled:
    """An image and its label map on the image's grid. Raises VolumeError or LabelError where one cannot be read, or the
    label lies elsewhere; what was mended or placed is logged."""
    volume = open_volume(image)
    label_map, notes = read_values(label, volume)
    for note in (*volume.notes, *notes):
        logger.warning("%s", note)
    return volume, label_map


def _kept(volume: Volume, label_map: NDArray[Any]) -> Callable[[], Labelled]:
    return lambda: (volume, label_map)
