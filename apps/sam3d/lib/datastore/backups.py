"""Labels, trained versions and scores as one archive file, and back: what cannot be made again from the images.

A server may run meanwhile. Whatever names another file is read before it: a card of a label or a version is written
after what it describes, so that everything a card in the archive names is in the archive, too.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from lib.datastore.history import digest
from lib.datastore.listed import HISTORY_FOLDER
from lib.datastore.outbox import OUTBOX_FOLDER
from lib.datastore.ownership import Ownership
from lib.errors import BackupError
from lib.network.weights import sync_folder

FORMAT = 1
MANIFEST = "sam3d-backup.json"
STUDIES, MODEL = "studies", "model"
LABELS = (HISTORY_FOLDER, "labels", "datastore_v2.json", OUTBOX_FOLDER)
# Made anew when it is needed.
LEFT_OUT = ("embeddings", "cases", "logs")


def back_up(studies: Path, model_folder: Path, target: Path) -> int:
    """Write what is kept beside the images in `studies`, and in `model_folder`, to a tar file; the number of files.

    Raises BackupError if there is nothing, or the file is there already. `target` is whole or absent.
    """
    if target.exists():
        raise BackupError(f"{target} is there already: name a file that is not")
    files = [*_of_studies(studies), *_of_model(model_folder)]
    if not files:
        raise BackupError(f"there is no label in {studies} and no version in {model_folder}: check the two folders")
    unfinished = target.with_name(f".{target.name}.{uuid4().hex}")
    try:
        with unfinished.open("xb") as file:
            with tarfile.open(fileobj=file, mode="w") as archive:
                count = sum(_add(archive, name, path) for name, path in sorted(files, key=_cards_first))
                _add_text(archive, MANIFEST, json.dumps({"format": FORMAT, "files": count}))
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(target)
        sync_folder(target.parent)
    finally:
        unfinished.unlink(missing_ok=True)
    return count


def restore(source: Path, studies: Path, model_folder: Path) -> int:
    """Put a backup back where it came from, or elsewhere; the number of files.

    Raises BackupError if the file is not whole, a server runs on the studies, or labels or versions are there already.
    """
    owner = Ownership(studies).other()
    if owner:
        raise BackupError(f"nothing is restored under a server that runs: {owner}")
    targets = {STUDIES: studies, MODEL: model_folder}
    taken = [path for path in (studies / HISTORY_FOLDER, model_folder / "versions") if path.exists()]
    if taken:
        raise BackupError(f"{taken[0]} is there already: move it away first, for nothing is overwritten")
    studies.mkdir(parents=True, exist_ok=True)
    place = studies / f".restored-{uuid4().hex}"
    try:
        count = _unpack(source, place)
        _check_labels(place / STUDIES / HISTORY_FOLDER)
        for name, target in targets.items():
            for path in sorted((place / name).rglob("*")) if (place / name).is_dir() else ():
                if path.is_file():
                    _move(path, target / path.relative_to(place / name))
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return count


def _of_studies(studies: Path) -> Iterator[tuple[str, Path]]:
    for top in LABELS:
        yield from _files(studies / top, f"{STUDIES}/{top}")


def _of_model(folder: Path) -> Iterator[tuple[str, Path]]:
    for top in sorted(folder.glob("[!.]*")):
        if top.name not in LEFT_OUT:
            yield from _files(top, f"{MODEL}/{top.name}")


def _files(top: Path, name: str) -> Iterator[tuple[str, Path]]:
    """A file, or those below a folder, with their names in the archive; no hidden ones: locks, or unfinished."""
    if top.is_file():
        yield name, top
    for path in sorted(top.rglob("*")):
        inside = path.relative_to(top)
        if path.is_file() and not path.is_symlink() and not any(part.startswith(".") for part in inside.parts):
            yield f"{name}/{inside.as_posix()}", path


def _cards_first(named: tuple[str, Path]) -> tuple[bool, str]:
    return named[1].suffix != ".json", named[0]


def _add(archive: tarfile.TarFile, name: str, path: Path) -> bool:
    """False for a file that a running server has removed meanwhile, as it does with old versions."""
    try:
        with path.open("rb") as file:
            about = archive.gettarinfo(arcname=name, fileobj=file)
            archive.addfile(about, file)
    except FileNotFoundError:
        return False
    return True


def _add_text(archive: tarfile.TarFile, name: str, text: str) -> None:
    about = tarfile.TarInfo(name)
    about.size, about.mtime = len(text.encode()), int(time.time())
    archive.addfile(about, io.BytesIO(text.encode()))


def _unpack(source: Path, place: Path) -> int:
    """The files of a backup below a new folder; the last of them says how many there are."""
    try:
        with tarfile.open(source) as archive:
            members = archive.getmembers()
            strange = [each.name for each in members if not each.isfile() or not _is_ours(each.name)]
            if strange:
                raise BackupError(f"{source} holds {strange[0][:80]!r}, which no backup does")
            archive.extractall(place, filter="data")
    except (OSError, tarfile.TarError, EOFError) as error:
        raise BackupError(f"{source} cannot be read: {error}") from error
    try:
        manifest = json.loads((place / MANIFEST).read_bytes())
        is_whole = manifest == {"format": FORMAT, "files": len(members) - 1}
    except (OSError, ValueError):
        is_whole = False
    if not is_whole:
        raise BackupError(f"{source} is no whole backup of this version: take another one")
    return len(members) - 1


def _is_ours(name: str) -> bool:
    return name == MANIFEST or name.partition("/")[0] in (STUDIES, MODEL)


def _check_labels(history: Path) -> None:
    for card in sorted(history.glob("*/*/[0-9]*.json")):
        said = json.loads(card.read_bytes())
        label = card.parent / Path(said["file"]).name
        if not label.is_file() or digest(label) != said["sha256"]:
            raise BackupError(f"the label {label.relative_to(history)} of the backup is damaged: take another one")


def _move(path: Path, target: Path) -> None:
    """Into place, whole or not at all, also on another file system."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.{uuid4().hex}")
    shutil.move(path, unfinished)
    unfinished.replace(target)
