"""The folder or the archive that images come from, and the labels that are kept of them. Nothing is changed there."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

from monailabel.config import settings as server_settings
from requests import RequestException

from lib.datastore.archive_client import ArchiveClient, sentence_of
from lib.datastore.listed import HISTORY_FOLDER
from lib.datastore.listing import IMAGE_ENDINGS, find_images
from lib.datastore.opening import archive_at, cache_folder
from lib.datastore.outbox import OUTBOX_FOLDER, ArchiveError
from lib.datastore.ownership import Ownership
from lib.diagnosis.findings import Finding, good, note, wrong
from lib.diagnosis.folders import refusal_to_write
from lib.errors import Sam3DError
from lib.images.volumes import open_volume

MOST_NAMED = 5
LIST_FILE = "datastore_v2.json"


def folder(studies: Path, labels: Path, most_images: int) -> Iterator[Finding]:
    """Images of a folder, each opened as a click would open it, up to so many; `labels` are kept elsewhere than there
    if it holds DICOM files, of which only that is said."""
    if not studies.is_dir():
        yield wrong("studies", f"there is no folder {studies}", "make it, or name the one that holds the images")
        return
    found = find_images(studies)
    if labels != studies:
        others = f" and {len(found.images)} image files" if found.images else ""
        yield good("studies", f"a folder of DICOM files{others}; labels are in {labels}")
        return
    images = [image.path for image in found.images]
    if not images:
        yield note("studies", f"no image in {studies}", f"put files there that end in {', '.join(IMAGE_ENDINGS)}")
        return
    bad = [f"{path.name}: {refusal}" for path in images[:most_images] if (refusal := _refusal_to_open(path))]
    for sentence in bad[:MOST_NAMED]:
        yield note("studies", sentence, "this image cannot be annotated: replace it, or take it away")
    if len(bad) > MOST_NAMED:
        yield note("studies", f"and {len(bad) - MOST_NAMED} more that cannot be opened")
    tried = min(len(images), most_images)
    if len(bad) == tried:
        yield wrong("studies", f"none of the {tried} images tried can be opened", "look at the sentences above")
    else:
        yield good("studies", f"{len(images)} images, {tried} tried, {tried - len(bad)} good")


def _refusal_to_open(image: Path) -> str:
    try:
        open_volume(image)
    except Sam3DError as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def labels(folder: Path) -> Iterator[Finding]:
    """Whether labels can be stored in a folder, and those that are there are whole."""
    refusal = refusal_to_write(folder)
    if refusal:
        mend = "let the server's user write there; without it images are served and no label is stored"
        yield wrong("labels", f"nothing can be written to {folder}: {refusal}", mend)
    owner = Ownership(folder).other()
    if owner:
        yield note("labels", owner, "start no second server on these studies while it runs")
    listed = folder / LIST_FILE
    if listed.is_file() and not _is_json(listed):
        yield wrong(
            "labels", f"{listed} is damaged: no server starts on it", "move it away: it is made anew from the files"
        )
    cards = sorted((folder / HISTORY_FOLDER).glob("*/*/[0-9]*.json"))
    damaged = [path for path in cards if not _is_whole(path)]
    for path in damaged[:MOST_NAMED]:
        name = path.relative_to(folder)
        yield wrong("labels", f"the version {name} is damaged, or its label is gone", "restore it from a backup")
    if len(damaged) > MOST_NAMED:
        yield wrong("labels", f"and {len(damaged) - MOST_NAMED} more damaged versions", "restore them from a backup")
    if not damaged:
        yield good("labels", f"{len(cards)} versions of labels, all there")


def _is_json(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_bytes()), dict)
    except (OSError, ValueError):
        return False


def _is_whole(card: Path) -> bool:
    try:
        return (card.parent / Path(json.loads(card.read_bytes())["file"]).name).is_file()
    except (OSError, ValueError, TypeError, KeyError):
        return False


def archive(url: str) -> Iterator[Finding]:
    """Whether a DICOMweb archive lists its series, and takes the labels that wait for it."""
    filters, start = server_settings.MONAI_LABEL_DICOMWEB_SEARCH_FILTER, time.monotonic()
    try:
        series = ArchiveClient(archive_at(url)).series_like(filters)
    except RequestException as error:
        yield wrong("archive", f"{sentence_of(error)} at {url}", "start it, or mend the URL, its name and its password")
    except ArchiveError as error:
        yield wrong("archive", f"{error} at {url}", "name its DICOMweb service, as in http://127.0.0.1:8042/dicom-web")
    else:
        sentence = f"{len(series)} series like {filters} listed in {time.monotonic() - start:.1f} s by {url}"
        if series:
            yield good("archive", sentence)
        else:
            yield note("archive", sentence, "MONAI_LABEL_DICOMWEB_SEARCH_FILTER says which series are served")
    outbox = cache_folder(url) / OUTBOX_FOLDER
    waiting = list(outbox.glob("*.json"))
    if waiting:
        reasons = {str(json.loads(path.read_bytes()).get("error")) for path in waiting if _is_json(path)} - {"", "None"}
        why = f" ({'; '.join(sorted(reasons)[:3])})" if reasons else ""
        yield note(
            "archive", f"{len(waiting)} labels wait for it{why}", "a running server sends them until they arrive"
        )
    for path in outbox.glob("*.damaged"):
        yield wrong("archive", f"the note {path} is damaged: a label was not sent", "store that label once more")
