"""Which labelled cases a place on disk holds; no voxel is read.

A place is a folder of the Medical Segmentation Decathlon, a folder of pairs in one of the usual ways to name them, or
a datalist of MONAI (JSON). A label whose image is missing is an error and not a smaller set.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib.errors import VolumeError
from lib.learning.cases import Case

NIFTI_ENDING = ".nii.gz"
# Endings of an image's and its label's name: ours first, then those of KiTS21 and KiTS23, which name folders by case.
PAIRS = (
    ("_image.nii.gz", "_label.nii.gz"),
    ("/imaging.nii.gz", "/aggregated_MAJ_seg.nii.gz"),
    ("/imaging.nii.gz", "/segmentation.nii.gz"),
)
# LiTS puts what the two names differ in before the number of the case.
BEGINNINGS = ("volume-", "segmentation-")
# Lists of a datalist whose entries have labels, by the part of a split that they are.
PARTS = {"training": "training", "validation": "validation", "test": "test", "testing": "test"}


@dataclass(frozen=True)
class Listing:
    """Cases by name, what values of their labels mean, and the part of a split that the place itself names."""

    cases: list[Case]
    value_names: Mapping[int, str] = field(default_factory=dict)
    parts: Mapping[str, str] = field(default_factory=dict)


def labelled_cases(place: Path) -> Listing:
    """What a folder or datalist holds. Raises VolumeError where that is nothing, or half of a case."""
    if place.is_file():
        return _datalist(place)
    listing = _decathlon(place) if (place / "labelsTr").is_dir() else Listing(_pairs(place))
    if not listing.cases:
        image, label = PAIRS[0]
        raise VolumeError(
            f"{place.name} holds no labelled case: put *{image} beside *{label}, or imagesTr, labelsTr, or name a "
            "MONAI datalist"
        )
    return listing


def _pairs(folder: Path) -> list[Case]:
    found: dict[str, Case] = {}
    for image, label in sorted(_named_pairs(folder)):
        name = _pair_name(image.relative_to(folder).as_posix())
        found.setdefault(name, Case(name, image, label))
    return [found[name] for name in sorted(found)]


def _named_pairs(folder: Path) -> set[tuple[Path, Path]]:
    pairs = set()
    for image_ending, label_ending in PAIRS:
        for image in folder.rglob(f"*{image_ending.removeprefix('/')}"):
            label = Path(f"{image.as_posix().removesuffix(image_ending)}{label_ending}")
            if not image.name.startswith(".") and label.is_file():
                pairs.add((image, label))
    image_beginning, label_beginning = BEGINNINGS
    for image in folder.rglob(f"{image_beginning}*.nii*"):
        label = image.with_name(label_beginning + image.name.removeprefix(image_beginning))
        if label.is_file():
            pairs.add((image, label))
    return pairs


def _pair_name(path: str) -> str:
    for ending, _ in PAIRS:
        path = path.removesuffix(ending)
    return path.removesuffix(".gz").removesuffix(".nii")


def _decathlon(folder: Path) -> Listing:
    described = folder / "dataset.json"
    names = _value_names(described) if described.is_file() else {}
    images = {_decathlon_name(path): path for path in sorted((folder / "imagesTr").glob(f"[!.]*{NIFTI_ENDING}"))}
    labels = sorted((folder / "labelsTr").glob(f"[!.]*{NIFTI_ENDING}"))
    named = [(label.name.removesuffix(NIFTI_ENDING), label) for label in labels]
    return Listing([Case(name, images[name], label, names) for name, label in named if name in images], names)


def without_images(folder: Path) -> list[str]:
    """Names of labels, and of cases that `dataset.json` lists, whose image is not there."""
    if not (folder / "labelsTr").is_dir():
        return sorted(
            label.name
            for image_ending, label_ending in PAIRS[:1]
            for label in folder.rglob(f"[!.]*{label_ending}")
            if not label.with_name(label.name.removesuffix(label_ending) + image_ending).is_file()
        )
    present = {_decathlon_name(path) for path in (folder / "imagesTr").glob(f"[!.]*{NIFTI_ENDING}")}
    labels = {path.name.removesuffix(NIFTI_ENDING) for path in (folder / "labelsTr").glob(f"[!.]*{NIFTI_ENDING}")}
    described = folder / "dataset.json"
    content = _json(described) if described.is_file() else {}
    listed = content.get("training", []) if isinstance(content, dict) else []
    names = {_decathlon_name(Path(each["image"])) for each in listed if isinstance(each, dict) and "image" in each}
    return sorted(((labels | names) - present) | (names - labels))


def _decathlon_name(path: Path) -> str:
    # nnU-Net numbers the channels of an image.
    return path.name.removesuffix(NIFTI_ENDING).removesuffix("_0000")


def _datalist(path: Path) -> Listing:
    content = _json(path)
    lists = {"training": content} if isinstance(content, list) else content
    if not isinstance(lists, dict) or not isinstance(lists.get("training"), list):
        raise VolumeError(f'{path.name} is no datalist: it needs a list "training" of {{"image": ..., "label": ...}}')
    names = _value_names(path) if "labels" in lists else {}
    cases: dict[str, Case] = {}
    parts: dict[str, str] = {}
    for key, part in PARTS.items():
        for entry in lists.get(key, []):
            case = _entry(entry, path, names)
            if case is None and part != "training":
                continue  # a list to predict on has no labels
            if case is None or case.id in cases:
                raise VolumeError(f"{path.name} lists {str(entry)[:80]} twice or without a label: mend the list")
            cases[case.id] = case
            parts[case.id] = part
    own_split = parts if set(parts.values()) > {"training"} else {}
    return Listing([cases[name] for name in sorted(cases)], names, own_split)


def _entry(entry: Any, path: Path, names: Mapping[int, str]) -> Case | None:
    if not (isinstance(entry, Mapping) and isinstance(entry.get("image"), str) and isinstance(entry.get("label"), str)):
        return None
    image, label = (path.parent / str(entry[key]).removeprefix("./") for key in ("image", "label"))
    return Case(_decathlon_name(Path(str(entry["image"]))), image, label, names or None)


def _value_names(path: Path) -> dict[int, str]:
    """Names by value from `labels`, written as {"1": "tumour"} or {"tumour": 1}."""
    try:
        pairs = _json(path).get("labels", {}).items()
        return {int(value): str(name) for value, name in map(_value_first, pairs)}
    except (ValueError, AttributeError, TypeError) as error:
        raise VolumeError(f"{path.name} does not name labels by their values: {error}") from error


def _value_first(pair: Sequence[Any]) -> Sequence[Any]:
    return pair if str(pair[0]).isdecimal() else (pair[1], pair[0])


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VolumeError(f"{path.name} cannot be read as JSON ({error}): mend it, or fetch it again") from error
