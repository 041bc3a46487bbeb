"""From MONAI Label's datastore to cases with names: which images are annotated, and what the values of labels mean."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag

from lib.cases import Case
from lib.labels import names_by_order

FINAL = DefaultLabelTag.FINAL


def annotated_cases(datastore: Datastore) -> list[Case]:
    """Every image with a label that somebody submitted, by id."""
    datastore.datalist()  # a DICOM archive's images and labels are fetched by this
    # The archive's own list is two hours old at worst, and names a series once for each of its SEGs.
    local = LocalDatastore if isinstance(datastore, LocalDatastore) else type(datastore)
    return [
        _case(image, datastore, Path(local.get_label_uri(datastore, image, FINAL)), _info(local, datastore, image))
        for image in sorted(set(local.get_labeled_images(datastore)))
    ]


def _case(image: str, datastore: Datastore, label: Path, info: Mapping[str, Any]) -> Case:
    names = value_names(info)
    seg = label.parent / str(info.get("SeriesInstanceUID", ""))
    # The server's copy of a SEG has lost its names; the SEG itself lies beside it.
    if not names and info.get("SeriesInstanceUID") and seg.is_dir():
        label = seg
    return Case(image, Path(datastore.get_image_uri(image)), label, names or None)


def value_names(info: Mapping[str, Any]) -> dict[int, str]:
    """Names by voxel value from what was stored with a label; empty where nothing was."""
    submitted = info.get("label_info")
    if isinstance(submitted, list) and all(isinstance(each, Mapping) and "name" in each for each in submitted):
        return names_by_order(submitted)
    params = info.get("params")
    answered = params.get("label_names") if isinstance(params, Mapping) else None
    if isinstance(answered, Mapping):  # an infer task's own answer, saved as a label
        return {int(value): str(name) for name, value in answered.items()}
    return {}


def _info(local: type[Datastore], datastore: Datastore, image: str) -> Mapping[str, Any]:
    info = local.get_label_info(datastore, image, FINAL)
    return info if isinstance(info, Mapping) else {}
