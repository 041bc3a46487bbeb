"""The ids that clients call images by: plain names, never paths, each of one file for as long as that is there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256

from lib.datastore.listing import IMAGE_ENDINGS, ImageFile
from lib.naming import UNFIT, is_image_id

# Stands for the / between folders.
FOLDER_MARK = "__"
# A label's file is named after the id; file systems take 255 bytes.
LONGEST = 180


def assign_ids(files: Sequence[ImageFile], known: Mapping[str, str], claims: Mapping[str, str]) -> dict[str, ImageFile]:
    """Each image by its id, those listed before first. `known` are the names of the images listed before by id, and
    `claims` those of the images that labels were drawn on: an id never passes from one file name to another that way.
    """
    by_name = {file.name: file for file in files}
    ids: dict[str, ImageFile] = {}
    for image, name in known.items():
        if name in by_name and is_image_id(image):
            ids[image] = by_name.pop(name)  # of one id only
    listed = {file.name for file in ids.values()}
    for file in sorted((file for file in files if file.name not in listed), key=_rank):
        free = (each for each in _candidates(file) if each not in ids and claims.get(each, file.name) == file.name)
        ids[next(free)] = file
    return ids


def _candidates(file: ImageFile) -> Iterator[str]:
    """The name without its ending; with it where another file has that id; then names that no other file makes."""
    stem = file.name[: -len(file.ending)]
    # `x.seg` with the ending `.nrrd` would be the name of a segmentation of `x`.
    if not stem.lower().endswith(".seg"):
        yield _plain(stem)
    yield _plain(file.name)
    mark, number = sha256(file.name.encode()).hexdigest()[:8], 1
    yield f"{_plain(stem)}-{mark}"
    while True:
        number += 1
        yield f"{_plain(stem)}-{mark}-{number}"


def _plain(name: str) -> str:
    """The nearest name that can be an id."""
    kept = ["_" if sign in UNFIT or not sign.isprintable() else sign for sign in name.replace("/", FOLDER_MARK)]
    plain = "".join(kept).strip()
    if plain[:1] in (".", "-", ""):
        plain = f"_{plain[1:]}"
    if is_image_id(plain) and len(plain.encode(errors="replace")) <= LONGEST:
        return plain
    mark = sha256(name.encode(errors="replace")).hexdigest()[:8]
    while len(f"{plain}-{mark}".encode(errors="replace")) > LONGEST:
        plain = plain[:-1]
    return f"{plain.rstrip()}-{mark}"


def _rank(file: ImageFile) -> tuple[int, str]:
    return IMAGE_ENDINGS.index(file.ending.lower()), file.name
