"""An export as a folder: images linked or copied, labels as label maps with one list of names, and what they are.

Two forms: that of the Medical Segmentation Decathlon (MSD), which nnU-Net converts, and a MONAI datalist.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lib.datastore.versioned import VersionedDatastore
from lib.errors import LabelError, SettingsError, VolumeError
from lib.exporting.pinned import TEST, TRAINING, PinnedCase, parts_of, pinned_cases
from lib.images.nifti import is_packed
from lib.images.nifti_writing import save_nifti
from lib.images.volumes import Volume, open_volume
from lib.labels.label_maps import label_map
from lib.network.weights import write_atomically

logger = logging.getLogger(__name__)

MSD, DATALIST = "msd", "datalist"
NIFTI = ".nii.gz"
VERSIONS_FILE = "versions.json"
# The folders of images and labels, by the part of the split.
FOLDERS = {
    MSD: {TRAINING: ("imagesTr", "labelsTr"), TEST: ("imagesTs", "labelsTs")},
    DATALIST: {TRAINING: ("images", "labels"), TEST: ("images", "labels")},
}


@dataclass(frozen=True)
class ExportPlan:
    """What is exported and how. No `labels`: all that there are, by name. No `modality`: as DICOM headers say."""

    form: str
    train_on: str
    labels: tuple[str, ...] = ()
    modality: str = ""
    is_copied: bool = False
    test_share: float = 0.2
    seed: int = 0


def export(store: VersionedDatastore, target: Path, plan: ExportPlan) -> str:
    """Write the cases of a datastore to a new folder; a sentence of what is in it. SettingsError where it is not new,
    or nothing can be written."""
    if target.exists() and any(target.iterdir()):
        raise SettingsError(f"{target} is not empty: name a folder that is new")
    cases = pinned_cases(store, plan.train_on)
    labels = plan.labels or _names_in(store, cases)
    parts = parts_of(cases, plan.test_share, plan.seed)
    for folder in {folder for pair in FOLDERS[plan.form].values() for folder in pair}:
        (target / folder).mkdir(parents=True, exist_ok=True)
    entries = {part: list[dict[str, str]]() for part in (TRAINING, TEST)}
    versions: dict[str, Any] = {}
    for each in cases:
        part = parts[each.name]
        if entry := _write_case(store, each, target, FOLDERS[plan.form][part], labels, plan):
            entries[part].append(entry)
            versions[each.name] = {**each.as_json(), "part": part}
    if not entries[TRAINING]:
        raise SettingsError(f"no case has a label that can be exported ({plan.train_on} ones count): see the log")
    kept = [each for each in cases if each.name in versions]
    described = {MSD: _msd, DATALIST: _datalist}[plan.form](target.name, labels, _modality(kept, plan), entries)
    _write_json(target / ("dataset.json" if plan.form == MSD else "datalist.json"), described)
    rule = f"{plan.test_share:g} of the patients are for tests, drawn with seed {plan.seed}"
    _write_json(target / VERSIONS_FILE, {"labels": plan.train_on, "split": rule, "cases": versions})
    return (
        f"{len(entries[TRAINING])} cases to train on and {len(entries[TEST])} to test with are in {target}, with the "
        f"labels {', '.join(labels)}"
    )


def _names_in(store: VersionedDatastore, cases: Sequence[PinnedCase]) -> tuple[str, ...]:
    """All names of labels, in the order of the alphabet: that of the cases may change with every one that comes."""
    found = set[str]()
    for each in cases:
        try:
            found |= set(store.label_masks(each.case).masks)
        except (LabelError, VolumeError) as error:
            logger.debug("%s names no label: %s", each.case.id, error)  # said when it is written
    return tuple(sorted(found))


def _write_case(
    store: VersionedDatastore,
    pinned: PinnedCase,
    target: Path,
    folders: tuple[str, str],
    labels: Sequence[str],
    plan: ExportPlan,
) -> dict[str, str]:
    """A case's two files, as a list names them; empty, logged, if it cannot be used."""
    case = pinned.case
    try:
        volume = open_volume(case.image)
        masks = store.label_masks(case).masks
        if strangers := sorted(set(masks) - set(labels)):
            logger.warning("%s: %s is left out", case.id, ", ".join(strangers))
        if not set(masks) & set(labels):
            raise LabelError(f"its label holds only {', '.join(strangers)}")
        nothing = np.zeros(volume.shape, dtype=np.bool_)
        values = label_map({name: masks.get(name, nothing) for name in labels})
    except (LabelError, VolumeError) as error:
        logger.warning("%s is left out: %s", case.id, error)
        return {}
    images, maps = folders
    label = target / maps / f"{pinned.name}{NIFTI}"
    save_nifti(label, values, volume.affine)
    _place_image(case.image, volume, target / images / label.name, plan.is_copied)
    return {"image": f"./{images}/{label.name}", "label": f"./{maps}/{label.name}"}


def _place_image(source: Path, volume: Volume, place: Path, is_copied: bool) -> None:
    """The file of an image: linked where it is packed NIfTI that all readers put at one place, else written anew."""
    is_plain = source.is_file() and source.name.endswith(NIFTI) and is_packed(source) and not volume.notes
    if not is_plain:
        save_nifti(place, volume.array, volume.affine)
    elif is_copied:
        shutil.copyfile(source, place)
    else:
        place.symlink_to(source.resolve())


def _modality(cases: Sequence[PinnedCase], plan: ExportPlan) -> str:
    """nnU-Net normalises CT by another rule than all else, and goes by this word."""
    found = {each.modality for each in cases}
    return plan.modality or (found.pop() if len(found) == 1 else "") or "unknown"


def _msd(name: str, labels: Sequence[str], modality: str, entries: Mapping[str, Sequence[dict[str, str]]]) -> Any:
    return {
        "name": name,
        "description": "exported by sam3d",
        "tensorImageSize": "3D",
        "modality": {"0": modality},
        "labels": _numbered(labels),
        "numTraining": len(entries[TRAINING]),
        "numTest": len(entries[TEST]),
        "training": entries[TRAINING],
        "test": [entry["image"] for entry in entries[TEST]],
    }


def _datalist(name: str, labels: Sequence[str], modality: str, entries: Mapping[str, Sequence[dict[str, str]]]) -> Any:
    return {"name": name, "modality": {"0": modality}, "labels": _numbered(labels), **entries}


def _numbered(labels: Sequence[str]) -> dict[str, str]:
    return {str(value): name for value, name in enumerate(("background", *labels))}


def _write_json(path: Path, content: Any) -> None:
    write_atomically(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
