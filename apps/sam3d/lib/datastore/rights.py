"""Whether a folder takes what is to be stored: found out by trying, for neither rights nor mounts tell the truth."""

from __future__ import annotations

import errno
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lib.datastore.ownership import Ownership
from lib.infers.failures import NO_ROOM, answer

logger = logging.getLogger(__name__)

MAY_NOT_WRITE = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
TOLD_NOT_TO = OSError(errno.EROFS, "MONAI_LABEL_DATASTORE_READ_ONLY is set")


class Rights:
    """The right to write into a folder, which is tried anew each time: a share that is mounted again may take what it
    refused before. `refusal` is why nothing can be stored, in a sentence; empty while that is not so."""

    def __init__(self, folder: Path, is_read_only: bool) -> None:
        self._folder, self._is_read_only = folder, is_read_only
        self._ownership, self._is_server = Ownership(folder), False
        self.refusal = ""

    def claim(self) -> bool:
        """Be the one server that stores here, unless another one is; whether that has just begun."""
        self._is_server = True
        return bool(not self._ownership.is_held and not self._tried() and self._ownership.is_held)

    def release(self) -> None:
        """Let another server store here."""
        self._ownership.release()

    def other_server(self) -> str:
        """Which other server stores here, as one sentence; empty if none does."""
        return self._ownership.other()

    def may_store(self) -> bool:
        """Try it; OSError if the folder is away, which is another thing."""
        before, self.refusal = self.refusal, self._tried()
        if self.refusal and not before:
            logger.warning("%s", self.refusal)
        return not self.refusal

    @contextmanager
    def storing(self) -> Iterator[None]:
        """HTTPException with a sentence where nothing can be stored."""
        try:
            if not self.may_store():
                raise answer(409 if self.other_server() else 403, self.refusal)
            yield
        except OSError as error:
            if error.errno in NO_ROOM:
                raise answer(507, f"nothing was stored ({error.strerror}): free disk space there") from error
            if error.errno in MAY_NOT_WRITE:
                raise answer(403, self._sentence(error)) from error
            reason = error.strerror or error
            raise answer(503, f"the folder of studies cannot be reached ({reason}): try again later") from error

    def _tried(self) -> str:
        if self._is_read_only:
            return self._sentence(TOLD_NOT_TO)
        try:
            with tempfile.TemporaryFile(dir=self._folder, prefix=".probe-"):
                pass
            if self._is_server and not self._ownership.is_held:
                self._ownership.claim()
            return self._ownership.other()
        except OSError as error:
            if error.errno in MAY_NOT_WRITE:
                return self._sentence(error)
            if error.errno in NO_ROOM:  # there may be room again when something is to be stored
                return ""
            raise

    def _sentence(self, error: OSError) -> str:
        return (
            f"labels cannot be stored: the folder {self._folder.resolve().name} may only be read "
            f"({error.strerror or error}); give the server's user the right to write there, or serve a copy"
        )
