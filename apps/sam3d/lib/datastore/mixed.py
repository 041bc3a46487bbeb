"""A folder of DICOM files with other images among them: series by their UIDs, image files by the ids of their names.

Labels of both are kept in one history. Those of an image file belong to its content, as in a folder without DICOM, and
are no business of the archive.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib.datastore.archive import ArchiveDatastore, LocalFolder
from lib.datastore.contents import Content
from lib.datastore.dicom_folder import VOLUME_MODALITIES, image_files, left_out
from lib.datastore.history import Version
from lib.datastore.left_out import shown_left_out
from lib.datastore.listed import ListedFolder
from lib.datastore.listing import Found
from lib.datastore.versioned import FINAL, VersionedDatastore
from lib.learning.cases import Case
from lib.naming import is_series_image
from lib.settings import SUBMITTED


class MixedDatastore(ArchiveDatastore):
    """The folder that this process serves to itself as an archive, and the image files in it."""

    _local: LocalFolder

    def _is_file(self, image_id: str) -> bool:
        return image_id in self._files and not is_series_image(image_id)

    def _image_ids(self) -> list[str]:
        return [image for image in self._files if self._is_file(image)]

    def _find(self) -> Found:
        """The copies of series, which lie in the state's folder, and the image files."""
        copies, found = super()._find(), image_files(self._local.server.archive)
        return Found((*copies.images, *found.images), ())

    def left_out(self) -> dict[str, Any]:
        modalities = () if self._search_filter else VOLUME_MODALITIES
        return shown_left_out(list(left_out(self._local.server.archive, modalities).items()), self._absent)

    # ----------------------------------------------------------------- images

    def list_images(self) -> list[str]:
        return list(dict.fromkeys([*super().list_images(), *self._image_ids()]))

    def at_hand(self) -> list[str]:
        return [*super().at_hand(), *self._image_ids()]

    def get_image_uri(self, image_id: str) -> str:
        return (
            ListedFolder.get_image_uri(self, image_id) if self._is_file(image_id) else super().get_image_uri(image_id)
        )

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        return (
            ListedFolder.get_image_info(self, image_id) if self._is_file(image_id) else super().get_image_info(image_id)
        )

    def reference(self, image_id: str) -> str:
        if not self._is_file(image_id):
            return super().reference(image_id)
        return ListedFolder.reference(self, image_id)

    def _known_image(self, image_id: str) -> Path:
        if self._is_file(image_id):
            return VersionedDatastore._known_image(self, image_id)
        return super()._known_image(image_id)

    # ----------------------------------------------------------------- labels

    def _content(self, image_id: str) -> Content | None:
        return ListedFolder._content(self, image_id) if self._is_file(image_id) else None

    def _digest(self, image_id: str) -> str:
        return ListedFolder._digest(self, image_id) if self._is_file(image_id) else ""

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        series = [image for image in super().get_labeled_images() if not self._is_file(image)]
        listed = self._objects()
        return [*series, *(image for image in self._image_ids() if image in listed and listed[image].labels.get(FINAL))]

    def newest_case(self, image_id: str, train_on: str = SUBMITTED) -> Case | None:
        if self._is_file(image_id):
            return VersionedDatastore.newest_case(self, image_id, train_on)
        return super().newest_case(image_id, train_on)

    def _know_labels(self, image_id: str) -> None:
        if not self._is_file(image_id):
            super()._know_labels(image_id)

    def series_folder(self, image_id: str) -> Path | None:
        return None if self._is_file(image_id) else super().series_folder(image_id)

    def _store(self, image_id: str, label: Path, tag: str, info: Mapping[str, Any]) -> Version:
        if self._is_file(image_id):
            return VersionedDatastore._store(self, image_id, label, tag, info)
        return super()._store(image_id, label, tag, info)

    def _announce(self, image_id: str, tag: str, number: int) -> None:
        if not self._is_file(image_id):
            super()._announce(image_id, tag, number)
