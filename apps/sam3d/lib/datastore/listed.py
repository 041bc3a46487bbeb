"""The list of a studies folder: its images by their ids, with the labels that count for them.

What is listed follows from two things alone: the image files that are there, and the history of the labels. The list
that MONAI Label keeps, `datastore_v2.json`, is written for other readers and says which file has which id; without it,
nothing is lost.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from filelock import FileLock
from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore, LocalDatastoreModel
from monailabel.interfaces.datastore import DefaultLabelTag

from lib.datastore.contents import Content, Digests, is_settled, size_of, state_of
from lib.datastore.current import CurrentLabels, ending_of
from lib.datastore.history import FOUND, LabelHistory, Version
from lib.datastore.image_ids import assign_ids
from lib.datastore.left_out import listed_briefly, shown_left_out
from lib.datastore.listing import Found, ImageFile, find_images
from lib.datastore.read_back import trusted
from lib.datastore.rights import Rights
from lib.datastore.watching import Watch
from lib.infers.failures import answer
from lib.network.weights import write_atomically

logger = logging.getLogger(__name__)

FINAL = DefaultLabelTag.FINAL.value
HISTORY_FOLDER, DIGESTS_FILE = "label_versions", "digests.json"
# What the list says of an image's file.
OURS = ("name", "path")
# What tells one label's entry in the list from another's.
IDENTITY = ("ts", "name", "version", "drawn_on", "sha256")
# Labels found in the folder, and cards without a digest, that become versions in one look.
SETTLED_AT_ONCE = 20


class ListedFolder(LocalDatastore):
    """`extensions` are patterns of which a file's name must fit one."""

    # Whether images lie in folders below, too, and count by their content.
    IS_NESTED = True

    def __init__(
        self,
        datastore_path: str,
        images_dir: str = ".",
        labels_dir: str = "labels",
        datastore_config: str = "datastore_v2.json",
        extensions: Sequence[str] = ("*",),
        auto_reload: bool = False,
        read_only: bool = False,
    ) -> None:
        # Not the stock constructor, which writes into the folder whether it may or not.
        logging.getLogger("filelock").setLevel(logging.ERROR)
        self._datastore_path = datastore_path
        self._datastore_config_path = str(Path(datastore_path) / datastore_config)
        self._lock_file = str(Path(datastore_path) / ".lock")
        self._extensions = extensions
        self._config_ts: float = 0
        self._auto_reload = False  # the stock's own watcher: see lib/datastore/watching.py
        self._datastore = LocalDatastoreModel(
            name="new-dataset",
            description="New Dataset",
            images_dir=images_dir,
            labels_dir=labels_dir,
            base_path=datastore_path,
        )
        # One thread of this process at a time; the lock file is for other processes.
        self._guard = threading.RLock()
        self._rights, self._away = Rights(Path(datastore_path), read_only), ""
        self._files: dict[str, ImageFile] = {}
        self._left_out: tuple[tuple[str, str], ...] = ()
        self._absent: list[str] = []
        self._drawn_on: Mapping[int, frozenset[str]] = {}
        self._waiting: set[tuple[str, str]] = set()
        self._is_unsettled = True
        self.history = LabelHistory(Path(datastore_path) / HISTORY_FOLDER)
        self.digests = Digests(self.history.folder / DIGESTS_FILE)
        self.current = CurrentLabels(Path(datastore_path) / labels_dir, self.history, self.digests)
        self._open()
        self._watch: Watch | None = None
        if auto_reload:
            self._watch = Watch(self._look, self.refresh)
            self._watch.start()

    def _open(self) -> None:
        """List what is there, for the first time. What cannot be listed is said, and looked for again by the watch."""
        with self._said():
            # Here only: where a drive is away later, nothing may be put in its place.
            Path(self._datastore_path).mkdir(parents=True, exist_ok=True)
            for tag in (DefaultLabelTag.FINAL, DefaultLabelTag.ORIGINAL) if self._rights.may_store() else ():
                (self.current.folder / tag.value).mkdir(parents=True, exist_ok=True)
            self._reconcile_datastore()

    @contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            name = Path(self._datastore_path).resolve().name
            self._away = f"the folder {name} cannot be listed ({error.strerror or error}): name one that can be read"
            logger.error("%s", self._away)

    def close(self) -> None:
        """End the thread that looks for new files; for those who open more than one datastore."""
        if self._watch is not None:
            self._watch.stop()

    # --------------------------------------------------------- what is there

    def _look(self) -> Hashable:
        """What must be read again when it changes: images, labels, the list's own file; OSError if they are away."""
        states = []
        for path in (Path(tag) / name for tag, names in self._label_names().items() for name in sorted(names)):
            if not path.name.startswith("."):  # else it is being written
                with suppress(FileNotFoundError):
                    states.append((str(path), state_of([self.current.folder / path])))
        config = Path(self._datastore_config_path)
        is_new = object() if self._is_unsettled else None
        return (config.stat().st_mtime_ns if config.exists() else None, self._find(), tuple(states), is_new)

    def _label_names(self) -> dict[str, frozenset[str]]:
        if self._rights.refusal and not self.current.folder.exists():
            return {}
        return self.current.names()

    def _find(self) -> Found:
        return find_images(Path(self._datastore.image_path()), self._extensions, self.IS_NESTED)

    def get_image_uri(self, image_id: str) -> str:
        file = self._files.get(image_id)
        return os.path.realpath(file.path) if file else ""

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        known = self._datastore.objects.get(image_id)
        return {**known.image.info, "path": self.get_image_uri(image_id)} if known else {}

    def reference(self, image_id: str) -> str:
        """What names the content of an image without opening it, under whatever path the studies are: the file's name
        below them, and sizes and times as they were listed last."""
        file = self._files.get(image_id)
        return json.dumps([file.name, *((size, written) for size, written, _ in file.state)] if file else [image_id])

    def left_out(self) -> dict[str, Any]:
        """How many files of the folder are no cases, and which, and labels whose images are not here: for /info/."""
        return shown_left_out(self._left_out, self._absent)

    @property
    def refusal(self) -> str:
        """Why no label can be stored, or nothing be listed, in a sentence; empty if that is not so."""
        return self._away or self._rights.refusal

    def _without_image(self) -> list[str]:
        """The files that labels were drawn on that are not here, by the names that they had."""
        here = {self._digest(image) for image in self._files}
        cards = (each for each in self.history.all_cards() if each.image_digest and each.tag == FINAL)
        last = {each.image_digest: each for each in cards}
        return sorted({each.image_file for of, each in last.items() if each.is_label and of not in here})

    # -------------------------------------------------------- what is listed

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        tag = str(getattr(label_tag, "value", label_tag))
        label = self._datastore.label(label_id, tag)
        path = self.current.folder / tag / f"{label_id}{label.ext}" if label else Path()
        if label and not path.is_file():  # not copied where nothing may be written
            version = self.history.newest(label_id, tag, self._digest(label_id))
            return os.path.realpath(version.file) if version else ""
        return os.path.realpath(path) if label else ""

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

    # ----------------------------------------------- what a label belongs to

    def _content(self, image_id: str) -> Content | None:
        """What a label of an image is drawn on at this moment; None where its id says that, OSError if it is away."""
        file = self._files.get(image_id)
        if file is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), image_id)
        digest, sample = self.digests.of(file.name, file.files), self.digests.sample(file.name, file.files)
        return Content(digest, size_of(state_of(file.files)), file.name, sample)

    def _digest(self, image_id: str) -> str:
        """The digest of an image that may have labels; of one that differs from all that labels were drawn on, what no
        digest is, without reading it to its end."""
        file = self._files.get(image_id)
        try:
            found = self._digest_of(file) if file else ""
            return found or f"nothing was drawn on {image_id}"
        except FileNotFoundError:
            logger.info("%s goes away", image_id)
            return f"{image_id} is away"

    def _digest_of(self, file: ImageFile) -> str:
        samples = self._drawn_on.get(size_of(state_of(file.files)), frozenset())
        if not samples or self.digests.sample(file.name, file.files) not in samples:
            return ""
        return self.digests.of(file.name, file.files)

    def _is_drawn_on(self, image_id: str, version: Version) -> bool:
        if image_id not in self._files or not version.image_digest:
            return False
        file = self._files[image_id]
        try:
            return self.digests.known(file.name, file.files) == version.image_digest
        except OSError:
            return False

    def _keep_stray(self, image_id: str, tag: str, content: Content | None = None) -> None:
        """Take a label that somebody put into the folder into the history, before it is replaced."""
        files = self.current.files(image_id, tag)
        stray = self.current.standing(image_id, tag, content.digest if content else "", files).stray
        if stray is not None:
            info = self.get_label_info(image_id, tag)
            ending = stray.name.removeprefix(image_id)
            self.history.add(image_id, tag, stray, ending, info, of=content, source=FOUND)

    def _bind(self, image_id: str, tag: str, content: Content | None) -> None:
        """Say of cards that are older than digests what they were drawn on: what has the image's id now."""
        for card in self.history.under(image_id, tag):
            if content is not None and not card.image_digest:
                self.history.bind(card, content)

    # ------------------------------------------------------- making the list

    def refresh(self) -> None:
        """Bring the list up to date with the files, and make versions of what was put into the labels' folder."""
        self._reconcile_datastore()
        if not self._rights.refusal and self._settle():
            self._reconcile_datastore()

    def _reconcile_datastore(self) -> None:
        self._rights.may_store()
        found = self._find()
        self.history.refresh()
        # Outside of the lock, for it may take long after many images came.
        self._drawn_on = self.history.drawn_on()
        for file in found.images:
            with suppress(FileNotFoundError):
                self._digest_of(file)
        with self._guard, self._lock_for_reading():
            self._list_again()
        self._away = ""

    def _list_again(self) -> None:
        """Make the list anew, of files and history; whoever calls holds the locks."""
        self._init_from_datastore_file()
        found, names = self._find(), self._label_names()
        self.history.refresh()
        self._drawn_on = self.history.drawn_on()
        before = self._datastore.objects
        known = {image: str(each.image.info.get("name") or image + each.image.ext) for image, each in before.items()}
        known |= {image: file.name for image, file in self._files.items()}
        self._files = assign_ids(found.images, known, self.history.claims())
        self._note_left_out(found.left_out)
        self._datastore.objects = {
            image: before[image].model_copy()
            if image in before and before[image].image.info.get("name") == file.name
            else ImageLabelModel(image=_described(file))
            for image, file in self._files.items()
        }
        self._list_labels(self._files, names)
        self._absent = self._without_image()
        if self._rights.refusal:
            return
        self.digests.forget({file.name for file in found.images} | _paths(names, self.current.folder.name))
        self.digests.save()
        if self._datastore.objects != before or not Path(self._datastore_config_path).exists():
            self._update_datastore_file(lock=False)

    def _list_labels(self, images: Iterable[str], names: Mapping[str, frozenset[str]] | None = None) -> None:
        """Say of images which labels they have, as files and history are now."""
        names = self._label_names() if names is None else names
        found = {}
        for image in images:
            known = self._datastore.objects[image]
            try:
                digest = self._digest(image)
                tags = sorted({*names, *self.history.tags(image, digest)})
                labels = {tag: self._label_of(image, tag, digest, names.get(tag, frozenset()), known) for tag in tags}
            except OSError as error:  # it goes away just now, and the next look finds out
                logger.warning("image %s cannot be read: %s", image, error)
                labels = dict(known.labels)
            found[image] = ImageLabelModel(
                image=known.image, labels={tag: label for tag, label in labels.items() if label is not None}
            )
        self._datastore.objects = {**self._datastore.objects, **found}

    def _label_of(
        self, image: str, tag: str, digest: str, names: frozenset[str], known: ImageLabelModel
    ) -> DataModel | None:
        standing = self.current.standing(image, tag, digest, self.current.files(image, tag, names))
        version = standing.newest if standing.stray is None else None
        if self._rights.refusal:
            file = standing.stray or next(iter(standing.copies), None) or (version.file if version else None)
            file = file if version or standing.stray else None
        else:
            file = self.current.bring(image, tag, standing)
        if file is None:
            return None
        self._is_unsettled |= standing.stray is not None
        ending = ending_of(version) if version and file == version.file else file.name.removeprefix(image)
        info = _label_info(version, f"{image}{ending}", file)
        listed = known.labels.get(tag)
        # What clients changed in the same label's entry stays.
        is_same = listed is not None and all(listed.info.get(key) == info.get(key) for key in IDENTITY)
        return DataModel(info={**info, **listed.info} if listed is not None and is_same else info, ext=ending)

    def _settle(self) -> bool:
        """Make versions of labels that were put into the folder, once they are no longer being written, and say of
        cards that are older than digests what they were drawn on. True if there was something to do."""
        if not self.IS_NESTED:
            self._is_unsettled = False
            return False
        waiting = [
            (image, tag)
            for image, each in self._objects().items()
            for tag in each.labels
            if self._is_unbound(image, tag)
        ]
        ready = waiting[:SETTLED_AT_ONCE]
        done = [self._settled(image, tag) for image, tag in ready]
        self._is_unsettled = len(waiting) > done.count(True)
        return any(done)

    def _is_unbound(self, image: str, tag: str) -> bool:
        label = self._datastore.objects[image].labels[tag]
        return "version" not in label.info or label.info.get("drawn_on") == ""

    def _settled(self, image: str, tag: str) -> bool:
        try:
            content = self._content(image)
            if content is None:
                return False
            with self._rights.storing(), self._locked():
                files = self.current.files(image, tag)
                stray = self.current.standing(image, tag, content.digest, files).stray
                if stray is not None and not is_settled(state_of([stray]), time.time()):
                    return False
                if self._content(image) != content:
                    return False
                self._bind(image, tag, content)
                self._keep_stray(image, tag, content)
            return True
        except (OSError, HTTPException) as error:
            if (image, tag) not in self._waiting:
                logger.warning("the label of %s that was found in the folder waits: %s", image, error)
            self._waiting.add((image, tag))
            return False

    def _note_left_out(self, left_out: tuple[tuple[str, str], ...]) -> None:
        """Say once, and again when more comes, what is no case."""
        if set(left_out) - set(self._left_out):
            logger.warning("%s", listed_briefly(left_out))
        self._left_out = left_out

    # ------------------------------------------------------- locks and files

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """No other thread or process changes what is stored; must not be entered twice."""
        with self._guard, FileLock(self._lock_file):
            yield

    @contextmanager
    def _lock_for_reading(self) -> Iterator[None]:
        if self._rights.refusal:
            yield
            return
        with FileLock(self._lock_file):
            yield

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """As the stock method; what says which file it is stays. HTTPException for an unknown image."""
        with self._rights.storing():
            if image_id not in self._datastore.objects:
                raise answer(404, f"there is no image {image_id[:80]!r} here: name one that /datastore/ lists")
            super().update_image_info(image_id, {key: value for key, value in info.items() if key not in OURS})

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        with self._rights.storing():
            if not self.get_label_uri(label_id, label_tag):
                raise answer(404, f"there is no label {label_tag[:64]!r} of {label_id[:80]!r} here: store one first")
            super().update_label_info(label_id, label_tag, info)

    def _update_datastore_file(self, lock: bool = True) -> None:
        """As the stock method, but readers and a crash find the whole file."""
        with self._guard, self._lock_for_writing(lock):
            content = json.dumps(self._datastore.model_dump(exclude={"base_path"}), indent=2, default=str)
            path = Path(self._datastore_config_path)
            write_atomically(path, content.encode())
            self._config_ts = path.stat().st_mtime

    @contextmanager
    def _lock_for_writing(self, lock: bool) -> Iterator[None]:
        if not lock:
            yield
            return
        with FileLock(self._lock_file):
            yield

    def _init_from_datastore_file(self, throw_exception: bool = False) -> None:
        """Read the list if another process wrote it. One that is damaged is put aside, for it can be made again."""
        path = Path(self._datastore_config_path)
        with self._guard:
            try:
                written = path.stat().st_mtime
                if written == self._config_ts:
                    return
                self._datastore = LocalDatastoreModel.model_validate_json(path.read_bytes())
                self._datastore.base_path = self._datastore_path
                self._datastore.objects = trusted(self._datastore.objects)
                self._config_ts = written
            except FileNotFoundError:
                return
            except ValueError as error:
                logger.error("%s is damaged, and made anew of images and history: %s", path.name, error)
                if not self._rights.refusal:
                    path.replace(path.with_name(f"{path.name}.damaged"))


def _described(file: ImageFile) -> DataModel:
    return DataModel(info={"ts": int(time.time()), "name": file.name}, ext=file.ending)


def _label_info(version: Version | None, name: str, file: Path) -> dict[str, Any]:
    """What the list says of a label: all that its card does that clients know how to read."""
    if version is None:
        return {"ts": int(file.stat().st_mtime), "name": name}
    ours = {"ts": _seconds(version.when), "name": name, "version": version.number, "drawn_on": version.image_digest}
    return {**version.info, **ours, "annotator": version.client, "sha256": version.sha256}


def _paths(names: Mapping[str, Iterable[str]], folder: str) -> set[str]:
    return {f"{folder}/{tag}/{name}" for tag, files in names.items() for name in files}


def _seconds(when: str) -> int:
    return int(datetime.fromisoformat(when).timestamp())
