"""Labelled cases to evaluate on: pairs of files in a folder, a folder as of the Medical Segmentation Decathlon, or our
own held-out phantoms."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.errors import VolumeError
from lib.synthesis.phantoms import held_out_cases
from lib.volumes import Volume, make_volume, open_volume

IMAGE_ENDING, LABEL_ENDING = "_image.nii.gz", "_label.nii.gz"
NIFTI_ENDING = ".nii.gz"

Labelled = tuple[Volume, NDArray[Any]]


@dataclass(frozen=True)
class Case:
    """A volume with its label map (I, J, K); neither is read before `load`. `label_names` names values of the map."""

    name: str
    load: Callable[[], Labelled]
    label_names: Mapping[int, str] = field(default_factory=dict)


def cases_in(folder: Path) -> list[Case]:
    """The cases of a folder, by name: `*_image.nii.gz` beside `*_label.nii.gz` at any depth, or imagesTr and labelsTr.

    Raises VolumeError where there is none.
    """
    cases = _decathlon_cases(folder) if (folder / "labelsTr").is_dir() else _paired_cases(folder)
    if not cases:
        raise VolumeError(
            f"{folder.name} holds no labelled case: put *{IMAGE_ENDING} beside *{LABEL_ENDING}, or imagesTr, labelsTr"
        )
    return cases


def phantom_cases(count: int, family: str, seed: int = 0) -> Iterator[Case]:
    """`count` held-out phantoms of a family, `ct` or `mr`, none of them ever trained on."""
    for number, (array, affine, label) in enumerate(held_out_cases(count, seed, family)):
        name = f"phantom_{family}_{number:03}"
        yield Case(name, _kept(make_volume(array, affine, name), label.astype(np.uint8)))


def _paired_cases(folder: Path) -> list[Case]:
    cases = []
    for image in sorted(folder.rglob(f"[!.]*{IMAGE_ENDING}")):
        name = image.name.removesuffix(IMAGE_ENDING)
        label = image.with_name(name + LABEL_ENDING)
        if label.is_file():
            cases.append(Case(image.with_name(name).relative_to(folder).as_posix(), _read(image, label)))
    return cases


def _decathlon_cases(folder: Path) -> list[Case]:
    names = _label_names(folder / "dataset.json")
    cases = []
    for label in sorted((folder / "labelsTr").glob(f"[!.]*{NIFTI_ENDING}")):
        name = label.name.removesuffix(NIFTI_ENDING)
        # The second name is that of nnU-Net, which numbers the channels of an image.
        images = [folder / "imagesTr" / f"{name}{end}" for end in (NIFTI_ENDING, f"_0000{NIFTI_ENDING}")]
        cases += [Case(name, _read(image, label), names) for image in images if image.is_file()]
    return cases


def _label_names(path: Path) -> dict[int, str]:
    """Names by value from `dataset.json`, written as {"1": "tumour"} or {"tumour": 1}; empty without that file."""
    if not path.is_file():
        return {}
    try:
        pairs = json.loads(path.read_text()).get("labels", {}).items()
        return {int(value): str(name) for value, name in map(_value_first, pairs)}
    except (ValueError, AttributeError, TypeError) as error:
        raise VolumeError(f"{path.name} does not name labels by their values: {error}") from error


def _value_first(pair: tuple[str, Any]) -> tuple[Any, Any]:
    return pair if pair[0].isdecimal() else (pair[1], pair[0])


def _read(image: Path, label: Path) -> Callable[[], Labelled]:
    def load() -> Labelled:
        volume, truth = open_volume(image), open_volume(label)
        if truth.shape != volume.shape:
            raise VolumeError(
                f"{label.name} has shape {truth.shape}, its image {volume.shape}: they must lie on one grid"
            )
        corners = np.array(list(product(*((0, length) for length in volume.shape))))
        shift = (truth.affine - volume.affine)[:3]
        apart_mm = float(np.abs(corners @ shift[:, :3].T + shift[:, 3]).max())
        if apart_mm > volume.spacing.min() / 2:
            raise VolumeError(f"{label.name} lies {apart_mm:.1f} mm off its image: they must lie on one grid")
        return volume, truth.array

    return load


def _kept(volume: Volume, label_map: NDArray[Any]) -> Callable[[], Labelled]:
    return lambda: (volume, label_map)
