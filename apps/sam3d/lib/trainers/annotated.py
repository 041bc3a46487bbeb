"""From MONAI Label's datastore to cases with names: which images are annotated, and what the values of labels mean."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore, DefaultLabelTag

from lib.datastore.intake import value_names
from lib.datastore.versioned import VersionedDatastore
from lib.learning.cases import Case

FINAL = DefaultLabelTag.FINAL


def annotated_cases(datastore: Datastore) -> list[Case]:
    """Every image with a label that somebody submitted, by id, with the newest version of that label."""
    if isinstance(datastore, VersionedDatastore):
        return datastore.annotated_cases()
    return [_case(image, datastore) for image in sorted(set(datastore.get_labeled_images()))]


def _case(image: str, datastore: Datastore) -> Case:
    """A case of a datastore that is none of ours (XNAT, DSA)."""
    info: Any = datastore.get_label_info(image, FINAL)
    names = value_names(info) if isinstance(info, Mapping) else {}
    label = Path(datastore.get_label_uri(image, FINAL))
    return Case(image, Path(datastore.get_image_uri(image)), label, names or None)
