"""Names that come from outside and become names of files: the ids of images, the tags of labels, and their endings.

Each has one check, for what a client sends and for what is read back from files alike.
"""

from __future__ import annotations

import re
from pathlib import Path

from lib.errors import RequestError

# A tag becomes a folder's name.
TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
ENDING = re.compile(r"(\.[A-Za-z0-9]{1,8}){1,2}")
# A DICOM UID, and behind it, of a series with several phases, the number of one.
SERIES_IMAGE = re.compile(r"([0-9]+(?:\.[0-9]+)*)(?:\.phase([1-9][0-9]{0,5}))?")
LONGEST_UID = 64
# They part folders, stand for other names in a shell, or mean something to a page.
UNFIT = frozenset('/\\*?"<>|')
# Files are named after ids; file systems take 255 bytes, endings and the signs of temporary files among them.
ID_LIMIT = 190


def is_image_id(text: object) -> bool:
    """Whether a text can be an image's id, and with an ending a file's name that stays in its folder."""
    return (
        isinstance(text, str)
        and text == text.strip()
        and text != ""
        and text[0] not in ".-"
        and text.isprintable()
        and not UNFIT & set(text)
        and len(text.encode(errors="replace")) <= ID_LIMIT
    )


def check_image_id(text: object) -> str:
    """The id as it is; RequestError if it cannot be one."""
    if not isinstance(text, str) or not is_image_id(text):
        raise RequestError(
            f"the image's id is {str(text)[:80]!r}: an id has up to {ID_LIMIT} bytes of letters, digits and signs, "
            "no slash, and does not begin with a dot or a dash"
        )
    return text


def is_uid(text: str) -> bool:
    """Whether a text is a DICOM UID, and so may be a file's name."""
    return is_series_image(text) and series_and_phase(text)[1] is None


def is_series_image(text: str) -> bool:
    """Whether a text is the id of a DICOM series' image, or of one of its phases."""
    found = SERIES_IMAGE.fullmatch(text)
    return found is not None and len(found.group(1)) <= LONGEST_UID


def series_and_phase(image_id: str) -> tuple[str, int | None]:
    """The UID of an image's series, and the number of its phase where the id names one."""
    found = SERIES_IMAGE.fullmatch(image_id)
    if found is None or found.group(2) is None:
        return image_id, None
    return found.group(1), int(found.group(2))


def phase_id(series: str, number: int) -> str:
    """The id of a phase that is an image beside the one that its series' UID names."""
    return f"{series}.phase{number}"


def is_tag(text: object) -> bool:
    """Whether a text can be the tag of a label."""
    return isinstance(text, str) and TAG.fullmatch(text) is not None


def check_tag(text: object, name: str = "the tag") -> str:
    """The tag as it is; RequestError, which calls it `name`, if it cannot be one."""
    if not isinstance(text, str) or not is_tag(text):
        raise RequestError(f"{name} is {str(text)[:80]!r}: a tag has up to 64 letters, digits, - and _")
    return text


def is_ending(text: object) -> bool:
    """Whether a text can be the ending of a file's name."""
    return isinstance(text, str) and (text == "" or ENDING.fullmatch(text) is not None)


def ending_of(file_name: str, known: tuple[str, ...], what: str) -> str:
    """The one of the `known` endings that a client's name of a file has; RequestError if it has none of them."""
    lower = file_name.lower()
    for ending in sorted(known, key=len, reverse=True):  # one may be the end of another
        if lower.endswith(ending):
            return ending
    raise RequestError(f"{what} is {file_name[-40:]!r}: its name must end in one of {sorted(known)}")


def is_below(path: Path, folder: Path) -> bool:
    """Whether a path leads to something below a folder, links followed."""
    return folder.resolve() in path.resolve().parents
