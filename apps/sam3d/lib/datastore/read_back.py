"""What a folder's list of images says, read back from its file: names that stay in the folder, and true JSON.

The file is beside the images, and anybody who may write there, an older version of a server included, may have left in
it what no client could send today.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from monailabel.datastore.local import DataModel, ImageLabelModel

from lib.naming import is_ending, is_image_id, is_tag
from lib.strict_json import finite

logger = logging.getLogger(__name__)


def trusted(objects: Mapping[str, ImageLabelModel]) -> dict[str, ImageLabelModel]:
    """The images and labels whose names are fit to be files' names; the others are named in the log."""
    kept: dict[str, ImageLabelModel] = {}
    for image_id, each in objects.items():
        if not is_image_id(image_id) or not is_ending(each.image.ext):
            logger.warning("image %.80r is left out: its name cannot be that of an image", image_id)
            continue
        labels = {tag: _told(label) for tag, label in each.labels.items() if is_tag(tag) and is_ending(label.ext)}
        kept[image_id] = ImageLabelModel(image=_told(each.image), labels=labels)
    return kept


def _told(model: DataModel) -> DataModel:
    return DataModel(ext=model.ext, info=finite(model.info))
