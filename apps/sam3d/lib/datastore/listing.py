"""Which files of a studies folder are cases: those that can be opened, at any depth; the others are left out by name.

Folders of labels (MSD's `labelsTr`, a datastore's `labels`) hold no images, and names that begin with a dot are
nobody's cases.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.datastore.contents import State, size_of
from lib.images.files import ITK_ENDINGS, NIFTI_ENDINGS, PAIRED_ENDINGS
from lib.images.itk_files import data_name

PAIRED_DATA = (".img", ".img.gz")
# In the order in which files of one stem get the short id; the longer of two that fit is the ending.
IMAGE_ENDINGS = (*sorted(NIFTI_ENDINGS, key=len, reverse=True), *ITK_ENDINGS)
SEGMENTATION_ENDINGS = (".seg.nrrd", ".seg.nhdr", ".seg.nii", ".seg.nii.gz")
# What the datastore keeps at the top of the folder.
OWN_NAMES = frozenset({"labels", "label_versions", "datastore_v2.json", "datastore_v2.json.damaged"})
LABEL_FOLDERS = ("labels", "labelstr", "labelsts", "label_versions")

NO_IMAGE, SEGMENTATION = "no image of a kind that opens", "a segmentation, not an image"
NO_DATA, NOT_ASKED = "a header whose data file is missing", "not among MONAI_LABEL_DATASTORE_FILE_EXT"
LABELS, BAD_NAME = "a folder of labels, not of images", "its name is not UTF-8: rename it"
UNREADABLE = "it may not be read, or is gone"


@dataclass(frozen=True)
class ImageFile:
    """An image: its `name` below the studies folder, with /, its ending as it is written, and all its files."""

    name: str
    ending: str
    files: tuple[Path, ...]
    state: State

    @property
    def path(self) -> Path:
        return self.files[0]

    @property
    def n_bytes(self) -> int:
        return size_of(self.state)


@dataclass(frozen=True)
class Found:
    """The images, by name, and what is left out: (name, why), by name."""

    images: tuple[ImageFile, ...]
    left_out: tuple[tuple[str, str], ...]


def find_images(root: Path, only: Sequence[str] = ("*",), is_nested: bool = True) -> Found:
    """What lies in a folder and, unless told otherwise, below it; OSError if it cannot be listed.

    `only` are patterns that a file's name must fit one of.
    """
    left_out: list[tuple[str, str]] = []
    return _found({name: (path, state) for name, path, state in _walk(root, left_out, is_nested)}, left_out, only)


def images_among(root: Path, names: Iterable[str]) -> Found:
    """The images among files below a folder that somebody else has listed, and what of them is left out. Files that are
    gone by now are passed over."""
    left_out: list[tuple[str, str]] = []
    files: dict[str, tuple[Path, State]] = {}
    for name in names:
        folders = name.lower().split("/")[:-1]
        if (holding := next((each for each in folders if each in LABEL_FOLDERS), None)) is not None:
            left_out.append((name[: sum(len(each) + 1 for each in folders[: folders.index(holding) + 1])], LABELS))
        elif name not in OWN_NAMES:
            with suppress(OSError):
                files[name] = (root / name, _state_of((root / name).stat()))
    return _found(files, sorted(set(left_out)), ("*",))


def _found(files: Mapping[str, tuple[Path, State]], left_out: list[tuple[str, str]], only: Sequence[str]) -> Found:
    """The images among files by their names, and the rest."""
    any_case = {name.lower(): name for name in files}
    images = []
    for name, (path, state) in sorted(files.items()):
        ending = ending_of(name)
        if ending is None or not _is_asked(path.name, only):
            continue
        beside = {path: state}
        data = _data_names(name, path, state, ending)
        # ITK goes by the name as the header has it.
        paired = [any_case[each.lower()] for each in data if each.lower() in any_case]
        found = paired[:1] if ending.lower() in PAIRED_ENDINGS else [each for each in data if each in files]
        if data and not found:
            continue
        beside |= {files[each][0]: files[each][1] for each in found}
        together: tuple[Any, ...] = tuple(each for states in beside.values() for each in states)
        images.append(ImageFile(name, ending, tuple(beside), together))
    used = {path for image in images for path in image.files}
    left_out += [(name, _why_not(path.name, only)) for name, (path, _) in files.items() if path not in used]
    return Found(tuple(images), tuple(sorted(left_out)))


def ending_of(name: str) -> str | None:
    """The ending of an image's file name, as it is written; None for what is no image."""
    lower = name.lower()
    if lower.endswith(SEGMENTATION_ENDINGS):
        return None
    found = (name[-len(ending) :] for ending in IMAGE_ENDINGS if lower.endswith(ending) and len(name) > len(ending))
    return next(found, None)


def _walk(root: Path, left_out: list[tuple[str, str]], is_nested: bool) -> Iterator[tuple[str, Path, State]]:
    """Every file that may be one of an image, by its name below the root."""
    folders: list[tuple[str, Path]] = [("", root)]
    seen: set[tuple[int, int]] = set()
    while folders:
        prefix, folder = folders.pop()
        known = folder.stat()
        if (known.st_dev, known.st_ino) in seen:  # a link that leads back
            continue
        seen.add((known.st_dev, known.st_ino))
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except PermissionError:
            if folder == root:
                raise
            left_out.append((prefix, UNREADABLE))
            continue
        for entry in entries:
            if entry.name.startswith(".") or (folder == root and entry.name in OWN_NAMES):
                continue
            name = prefix + entry.name
            if not _is_text(entry.name):
                left_out.append((name.encode(errors="surrogateescape").decode(errors="replace"), BAD_NAME))
            elif entry.is_dir():
                if is_nested and entry.name.lower() in LABEL_FOLDERS:
                    left_out.append((f"{name}/", LABELS))
                elif is_nested:
                    folders.append((f"{name}/", Path(entry.path)))
            else:
                try:
                    yield name, Path(entry.path), _state_of(entry.stat())
                except OSError:
                    left_out.append((name, UNREADABLE))


def _state_of(stat: os.stat_result) -> State:
    return ((stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns),)


def _data_names(name: str, path: Path, state: State, ending: str) -> list[str]:
    """Names that the file with a header's voxels may have; none where they follow the header."""
    if ending.lower() in PAIRED_ENDINGS:
        return [name[: -len(ending)] + data for data in PAIRED_DATA]
    named = data_name(path, state) if ending.lower() in ITK_ENDINGS else ""
    return [name[: len(name) - len(path.name)] + named] if named else []


def _is_asked(name: str, only: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name.lower(), pattern.lower()) for pattern in only)


def _why_not(name: str, only: Sequence[str]) -> str:
    if name.lower().endswith(SEGMENTATION_ENDINGS):
        return SEGMENTATION
    if ending_of(name) is None:
        return NO_IMAGE
    return NO_DATA if _is_asked(name, only) else NOT_ASKED


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
