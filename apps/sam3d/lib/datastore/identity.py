"""What names the studies of a server wherever they are mounted: the URL of an archive, or a word kept in the folder."""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from uuid import uuid4

from monailabel.config import settings

from lib.datastore.opening import folder_of_labels, is_archive
from lib.network.weights import write_atomically

logger = logging.getLogger(__name__)

FILE = ".identity"


def identity_of(studies: str) -> str:
    """The same for the same studies under any path, and for a whole copy of them; made where there is none yet. A
    folder that may only be read is named by its path, and so has another name under another one."""
    if is_archive(studies) or settings.MONAI_LABEL_DATASTORE_READ_ONLY:
        return studies
    path = folder_of_labels(studies) / FILE
    with suppress(OSError):
        if _known(path.read_bytes()):
            return path.read_bytes().decode().strip()
    try:
        write_atomically(path, f"{uuid4().hex}\n".encode())
        # Read back, for two servers may have begun at once: the last to write has named the folder for both.
        return path.read_bytes().decode().strip()
    except OSError as error:
        logger.info("scores of these studies are found under this path only: %s", error.strerror or error)
        return studies


def _known(content: bytes) -> bool:
    return re.fullmatch(rb"[0-9a-f]{32}\n", content) is not None
