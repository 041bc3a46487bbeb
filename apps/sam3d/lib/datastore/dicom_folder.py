"""A folder of DICOM files as studies: whether it is one, and where what belongs to it is kept."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from lib.datastore.listing import NO_IMAGE, Found, images_among
from lib.dicomweb.archive import Archive
from lib.dicomweb.headers import MODALITY, SIGNATURE, SIGNATURE_AT, first_value
from lib.dicomweb.server import LocalServer
from lib.images.files import ITK_ENDINGS, NIFTI_ENDINGS
from lib.naming import is_series_image

logger = logging.getLogger(__name__)

# Labels, fetched images and the index lie here, in the folder itself unless it is read-only.
STATE_FOLDER = ".monailabel"
RECEIVED, INDEX = "received", "dicom_index.sqlite"
# A folder that was served as one of image files, and its folders of labels.
LIST_FILE, LABEL_FOLDERS = "datastore_v2.json", ("labels", "label_versions")
# What is listed of a folder of everything.
VOLUME_MODALITIES = ("CT", "MR", "PT")
SEGMENTATION_MODALITY = "SEG"
# So many files are looked at before a folder counts as one without DICOM.
MOST_FILES = 20_000
# More names than this help nobody.
NAMED = 20


def is_dicom_folder(folder: Path, state: Path) -> bool:
    """Whether a folder holds DICOM files, at any depth, and was not served as a folder of image files before. One that
    was served as DICOM stays that, for its labels lie in `state`."""
    if (state / LIST_FILE).exists():
        return True
    return not (folder / LIST_FILE).exists() and any(_is_dicom(path) for path in _first_files(folder))


def serve_folder(folder: Path, state: Path, modalities: Sequence[str]) -> LocalServer:
    """A DICOMweb server of a folder in this process; what is stored and what is known of files is kept in `state`.
    `modalities` are those whose series are cases, for the log."""
    state.mkdir(parents=True, exist_ok=True)
    with suppress(OSError):  # not every file system knows rights
        state.chmod(0o700)  # names of patients are in the index
    served = LocalServer(Archive(folder, state / RECEIVED, state / INDEX))
    logger.info("%d DICOM series in %s, labels and index in %s", len(served.archive.series()), folder, state)
    given = (served.archive, modalities)
    threading.Thread(target=_say_what_is_left_out, args=given, daemon=True, name="left-out").start()
    return served


def _say_what_is_left_out(archive: Archive, modalities: Sequence[str]) -> None:
    archive.wait()
    reasons = left_out(archive, modalities)
    if reasons:
        listed = "; ".join(f"{name}: {reason}" for name, reason in list(reasons.items())[:NAMED])
        logger.warning("%d files or series of %s are left out: %s", len(reasons), archive.folder, listed)


def left_out(archive: Archive, modalities: Sequence[str]) -> dict[str, str]:
    """What of a folder is no case, and why: damaged DICOM files, segmentations, headers without voxels, and, by their
    UIDs, series of other modalities; of none if there are no `modalities` to go by."""
    others = {name: reason for name, reason in image_files(archive).left_out if reason != NO_IMAGE}
    found = {each.uid: str(first_value(each.fields, MODALITY) or "none") for each in archive.series() if modalities}
    listed = ", ".join(modalities)
    series = {
        f"series {uid}": f"its modality is {its[:16]}, and {listed} are listed unless others are asked for"
        for uid, its in found.items()
        if its not in (*modalities, SEGMENTATION_MODALITY)
    }
    return {**archive.left_out(), **others, **series}


def image_files(archive: Archive) -> Found:
    """The images of a folder that are no DICOM."""
    found = images_among(archive.folder, (name for name in archive.others() if not name.startswith("/")))
    # What is called by an UID is a series, a phase of one, or a copy of either.
    is_series = [image for image in found.images if is_series_image(image.name[: -len(image.ending)])]
    named = tuple((image.name, "its name is that of a series: rename it") for image in is_series)
    return Found(tuple(image for image in found.images if image not in is_series), (*found.left_out, *named))


def state_folder(folder: Path, chosen: str = "") -> Path:
    """Where labels and index of a folder are kept: below `chosen`, in the folder, or, if that is read-only, at home."""
    mark = sha256(str(folder.resolve()).encode(errors="surrogateescape")).hexdigest()[:32]
    if chosen:
        return Path(chosen) / mark
    if os.access(folder, os.W_OK):
        return folder / STATE_FOLDER
    return Path.home() / ".cache" / "monailabel" / "dicom" / mark


def _first_files(folder: Path) -> Iterator[Path]:
    """Files at any depth, shallow ones first, hidden ones and labels left out."""
    folders, n_files = [folder], 0
    while folders and n_files < MOST_FILES:
        place = folders.pop(0)
        try:
            entries = sorted(os.scandir(place), key=lambda each: each.name)
        except OSError:
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                if place != folder or entry.name not in LABEL_FOLDERS:
                    folders.append(Path(entry.path))
                continue
            n_files += 1
            yield Path(entry.path)


def _is_dicom(path: Path) -> bool:
    if _is_image(path.name):
        return False
    try:
        with path.open("rb") as file:
            start = file.read(SIGNATURE_AT + 4)
    except OSError:
        return False
    return start[SIGNATURE_AT:] == SIGNATURE


def _is_image(name: str) -> bool:
    return name.lower().endswith((*NIFTI_ENDINGS, *ITK_ENDINGS, ".hdr", ".img"))
