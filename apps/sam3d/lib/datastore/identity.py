"""What names the studies of a server wherever they are mounted: the URL of an archive, or a word kept in the folder."""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from monailabel.config import settings

from lib.datastore.opening import folder_of_labels, is_archive
from lib.network.weights import write_atomically

logger = logging.getLogger(__name__)

FILE = ".identity"
WORD = re.compile(rb"[0-9a-f]{32}\n")


def identity_of(studies: str) -> str:
    """The same for the same studies under any path, and for a whole copy of them. A folder that may only be read is
    named by its path, and so has another name under another one."""
    if is_archive(studies):
        return studies
    found = word_in(folder_of_labels(studies))
    if not found:
        logger.info("scores of these studies are found under this path only, for nothing can be written there")
    return found or studies


def word_in(folder: Path) -> str:
    """The word that names a folder, made where there is none yet; empty where that cannot be kept."""
    if found := known_word(folder):
        return found
    if settings.MONAI_LABEL_DATASTORE_READ_ONLY:
        return ""
    with suppress(OSError):
        write_atomically(folder / FILE, f"{uuid4().hex}\n".encode())
    # Read back, for two servers may have begun at once: the last to write has named the folder for both.
    return known_word(folder)


def known_word(folder: Path) -> str:
    """The word that names a folder; empty where there is none."""
    with suppress(OSError):
        content = (folder / FILE).read_bytes()
        if WORD.fullmatch(content):
            return content.decode().strip()
    return ""
