"""What the core and the machine can refuse, as answers that reach the client: one status and one sentence.

The stock server turns every exception but `fastapi.HTTPException` into a bare 500.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from fastapi import HTTPException

from lib.errors import (
    GeometryError,
    LabelError,
    PromptError,
    RequestError,
    Sam3DError,
    SettingsError,
    SplitError,
    TrainingError,
    VolumeError,
    WeightsError,
)

logger = logging.getLogger(__name__)

# The client sent what cannot be used: 4xx. The weights and the records are the server's own: 503.
STATUS = {
    **dict.fromkeys((RequestError, PromptError, VolumeError, LabelError, GeometryError), 422),
    **{SettingsError: 400, TrainingError: 409, WeightsError: 503, SplitError: 503},
}
# torch raises a plain RuntimeError where the CPU's memory ends.
CPU_OUT_OF_MEMORY = "can't allocate memory"
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
NOT_ALLOWED = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


@contextmanager
def as_answers() -> Iterator[None]:
    """Turn what a user can cause, and what a machine can run out of, into an HTTPException with its sentence."""
    try:
        yield
    except Sam3DError as error:
        raise answer(STATUS.get(type(error), 400), str(error)) from error
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise answer(503, "the GPU's memory is full: try again, or start the server with a smaller variant") from error
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and CPU_OUT_OF_MEMORY not in str(error):
            raise
        raise answer(503, "the server's memory is full: try again, or start it with smaller caches") from error
    except OSError as error:
        if error.errno in NO_ROOM:
            raise answer(507, f"the server could not write a file ({error.strerror}): free disk space there") from error
        if error.errno in NOT_ALLOWED:
            sentence = f"the server may not use a file ({error.strerror}): let it read and write its folders"
            raise answer(503, sentence) from error
        raise


def answer(status: int, sentence: str, headers: dict[str, str] | None = None) -> HTTPException:
    """The exception whose status and sentence reach the client; logged, because the viewers show neither."""
    logger.warning("answered %d: %s", status, sentence)
    return HTTPException(status_code=status, detail=sentence, headers=headers)
