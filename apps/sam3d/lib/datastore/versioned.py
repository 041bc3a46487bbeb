"""A folder datastore whose labels are checked, kept in versions and written whole or not at all."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock
from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore
from monailabel.interfaces.datastore import DefaultLabelTag

from lib.datastore.history import FOUND, LabelHistory, Version, copy_atomically, digest
from lib.datastore.intake import ENDINGS, accepted, value_names
from lib.datastore.watching import Watch
from lib.images.volumes import open_volume
from lib.infers.failures import answer, as_answers
from lib.learning.cases import Case
from lib.network.weights import write_atomically

logger = logging.getLogger(__name__)

FINAL = DefaultLabelTag.FINAL.value
# A tag becomes a folder's name.
LABEL_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
HISTORY_FOLDER = "label_versions"


class VersionedDatastore(LocalDatastore):
    """`served` names the model version that clicks get while a label is submitted."""

    def __init__(
        self, *args: Any, served: Callable[[], str] = lambda: "", auto_reload: bool = False, **kwargs: Any
    ) -> None:
        # One thread of this process at a time; the lock file is for other processes. Both before the stock
        # constructor, which already reads and writes.
        self._guard = threading.RLock()
        self._served = served
        self._notes: dict[str, dict[str, Any]] = {}
        # Without the stock's own watcher: see lib/datastore/watching.py.
        super().__init__(*args, auto_reload=False, **kwargs)
        self.history = LabelHistory(Path(self._datastore_path) / HISTORY_FOLDER)
        self._watch: Watch | None = None
        if auto_reload:
            self._watch = Watch(self._files, self.refresh)
            self._watch.start()

    def close(self) -> None:
        """End the thread that looks for new files; for those who open more than one datastore."""
        if self._watch is not None:
            self._watch.stop()

    def _files(self) -> Hashable:
        """What must be read again when it changes: the names of images and labels, and the list's own file."""
        labels = Path(self._datastore.label_path(None))
        folders = [Path(self._datastore.image_path()), *(path for path in sorted(labels.iterdir()) if path.is_dir())]
        names = [(folder.name, *sorted(self._list_files(folder, self._extensions))) for folder in folders]
        config = Path(self._datastore_config_path)
        return (config.stat().st_mtime_ns if config.exists() else None, *names)

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """As the stock method, with the two locks always taken in one order."""
        with self._guard:
            added: str = super().add_image(image_id, image_filename, image_info)
        return added

    # -------------------------------------------------------------- labels in

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any], label_id: str = ""
    ) -> str:
        """Store a new version; HTTPException, with a sentence, for a label that cannot be this image's."""
        tag = str(getattr(label_tag, "value", label_tag))
        if not LABEL_TAG.fullmatch(tag):
            raise answer(422, f"the tag is {tag[:80]!r}: a tag has up to 64 letters, digits, - and _")
        self._store(image_id, Path(label_filename), tag, label_info or {})
        return image_id

    def _store(self, image_id: str, label: Path, tag: str, info: Mapping[str, Any]) -> Version:
        image = self._known_image(image_id)
        with as_answers(), accepted(label, open_volume(image), image_id, info) as (path, ending), self._locked():
            self._keep_stray(image_id, tag)
            version = self.history.add(
                *(image_id, tag, path, ending, info),
                served=self._served(),
                announce=lambda number: self._announce(image_id, tag, number),
            )
            self._make_current(version)
        self._notes[image_id] = {"version": version.number, "note": f"It is version {version.number} of this label."}
        return version

    def _announce(self, image_id: str, tag: str, number: int) -> None:
        """Called before a submitted version is stored."""

    def saved_note(self, image_id: str) -> dict[str, Any]:
        """What to add to the reply to the client that stored the last label of an image."""
        return self._notes.get(image_id, {})

    def _known_image(self, image_id: str) -> Path:
        if image_id not in self._datastore.objects:
            raise answer(404, f"there is no image {image_id[:80]!r} here: name one that /datastore/ lists")
        return Path(LocalDatastore.get_image_uri(self, image_id))

    def _keep_stray(self, image_id: str, tag: str) -> None:
        """Take a label that somebody put into the folder into the history, before it is replaced."""
        path = self._current_file(image_id, tag)
        if path is None:
            return
        versions = self.history.versions(image_id, tag)
        content = digest(path)
        if all(content not in (each.sha256, each.info.get("current_sha256")) for each in versions):
            ending = path.name.removeprefix(image_id)
            info = LocalDatastore.get_label_info(self, image_id, tag)
            self.history.add(image_id, tag, path, ending, info, source=FOUND)

    def _make_current(self, version: Version, file: Path | None = None, ending: str = "") -> None:
        """Put a version (or `file`, made of it) where clients of MONAI Label look for the image's label."""
        source = file or version.file
        ending = ending or version.file.name[4:]
        folder = Path(self._datastore.label_path(version.tag))
        name = self._filename(version.image, ending)
        copy_atomically(source, folder / name)
        info = {**version.info, "ts": _seconds(version.when), "name": name, "version": version.number}
        self._datastore.objects[version.image].labels[version.tag] = DataModel(info=info, ext=ending)
        self._update_datastore_file(lock=False)
        for other in ENDINGS:  # a label of another format would count again at the next start
            if other != ending:
                (folder / self._filename(version.image, other)).unlink(missing_ok=True)

    # ------------------------------------------------------------- labels out

    def annotated_cases(self) -> list[Case]:
        """Every image with a final label, by id, with the newest version of the label."""
        cases = (self.newest_case(image) for image in sorted(set(self.get_labeled_images())))
        return [case for case in cases if case is not None]

    def drafts(self) -> list[str]:
        """The images that have a draft, made by a network, and no final label."""
        labelled, tag = set(self.get_labeled_images()), DefaultLabelTag.ORIGINAL.value
        return [image for image, each in self._objects().items() if tag in each.labels and image not in labelled]

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        return [image for image, each in self._objects().items() if each.labels.get(FINAL)]

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        return [image for image, each in self._objects().items() if not each.labels.get(FINAL)]

    def status(self) -> dict[str, Any]:
        """As the stock method."""
        tags = Counter(tag for each in self._objects().values() for tag in each.labels)
        return {
            "total": len(self.list_images()),
            "completed": len(self.get_labeled_images()),
            "label_tags": dict(tags),
        }

    def _objects(self) -> dict[str, ImageLabelModel]:
        """What is listed, as it stands: the stock methods fail where an image is added while they read."""
        return dict(self._datastore.objects)

    def newest_case(self, image_id: str) -> Case | None:
        """An image with the label that counts; None if it has none or cannot be had."""
        image = self._known_image(image_id)
        version, current = self.history.newest(image_id, FINAL), self._current_file(image_id, FINAL)
        if current is None:
            return None  # removed by somebody who may
        if version and digest(current) in (version.sha256, version.info.get("current_sha256")):
            return Case(image_id, image, version.file, value_names(version.info) or None)
        # Somebody put another file there.
        return Case(image_id, image, current, value_names(LocalDatastore.get_label_info(self, image_id, FINAL)) or None)

    def _current_file(self, image_id: str, tag: str) -> Path | None:
        path = Path(LocalDatastore.get_label_uri(self, image_id, tag) or "/")
        return path if path.is_file() else None

    # -------------------------------------------------------- the stock's state

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """No other thread or process changes what is stored; must not be entered twice."""
        with self._guard, FileLock(self._lock_file):
            yield

    def _update_datastore_file(self, lock: bool = True) -> None:
        """As the stock method, but readers and a crash find the whole file."""
        with self._guard, FileLock(self._lock_file) if lock else nullcontext():
            content = json.dumps(self._datastore.model_dump(exclude={"base_path"}), indent=2, default=str)
            path = Path(self._datastore_config_path)
            write_atomically(path, content.encode())
            self._config_ts = path.stat().st_mtime

    def _init_from_datastore_file(self, throw_exception: bool = False) -> None:
        with self._guard:
            super()._init_from_datastore_file(throw_exception)

    def _reconcile_datastore(self) -> None:
        with self._guard:
            super()._reconcile_datastore()

    def _remove_non_existing(self) -> int:
        """As the stock method, but nobody ever sees the list of images empty."""
        self._init_from_datastore_file()
        images, removed = Path(self._datastore.image_path()), 0
        objects: dict[str, ImageLabelModel] = {}
        for image_id, each in self._datastore.objects.items():
            if not (images / self._filename(image_id, each.image.ext)).exists():
                removed += 1
                continue
            labels = {
                tag: label
                for tag, label in each.labels.items()
                if (Path(self._datastore.label_path(tag)) / self._filename(image_id, label.ext)).exists()
            }
            removed += len(each.labels) - len(labels)
            objects[image_id] = ImageLabelModel(image=each.image, labels=labels)
        if removed:
            self._datastore.objects = objects
        return removed


def _seconds(when: str) -> int:
    return int(datetime.fromisoformat(when).timestamp())
