"""Turns at what only a few threads may do at once; whoever nobody waits for any more does not take one.

A worker thread is bound to its client by `answering`; a client that goes away sets the event given there.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from fastapi import HTTPException

_client_has_gone: ContextVar[threading.Event | None] = ContextVar("client_has_gone", default=None)


@contextmanager
def answering(has_gone: threading.Event) -> Iterator[None]:
    """Within it, this thread works for a client that has gone once the event is set."""
    token = _client_has_gone.set(has_gone)
    try:
        yield
    finally:
        _client_has_gone.reset(token)


def stop_if_gone() -> None:
    """HTTPException 499, which nobody reads, if the client of this thread has gone; nothing for threads without one."""
    has_gone = _client_has_gone.get()
    if has_gone is not None and has_gone.is_set():
        raise HTTPException(499, "the client did not wait for its answer")


class Turns:
    """`with turns:` lets `width` threads in at a time; HTTPException 499 for one whose client went away meanwhile."""

    def __init__(self, width: int) -> None:
        self._free = threading.BoundedSemaphore(width)

    def __enter__(self) -> None:
        self._free.acquire()
        try:
            stop_if_gone()
        except HTTPException:
            self._free.release()
            raise

    def __exit__(self, *_: object) -> None:
        self._free.release()
