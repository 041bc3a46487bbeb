"""From MONAI Label's datastore to cases with names: which images are annotated, and what the values of labels mean."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore, DefaultLabelTag

from lib.datastore.intake import value_names
from lib.datastore.versioned import VersionedDatastore
from lib.errors import SettingsError
from lib.learning.cases import Case
from lib.settings import SUBMITTED

FINAL = DefaultLabelTag.FINAL


def annotated_cases(datastore: Datastore, train_on: str = SUBMITTED) -> list[Case]:
    """Every image with a label that counts for training, by id: submitted and not sent back, or approved. Other
    datastores than ours know of no reviews."""
    if isinstance(datastore, VersionedDatastore):
        return datastore.annotated_cases(train_on)
    if train_on != SUBMITTED:
        raise SettingsError(f"train_on is {train_on}: this datastore keeps no reviews, so leave the setting away")
    return [_case(image, datastore) for image in sorted(set(datastore.get_labeled_images()))]


def _case(image: str, datastore: Datastore) -> Case:
    """A case of a datastore that is none of ours (XNAT, DSA)."""
    info: Any = datastore.get_label_info(image, FINAL)
    names = value_names(info) if isinstance(info, Mapping) else {}
    label = Path(datastore.get_label_uri(image, FINAL))
    return Case(image, Path(datastore.get_image_uri(image)), label, names or None)
