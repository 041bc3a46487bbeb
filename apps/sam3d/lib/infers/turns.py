"""Turns at what only a few threads may do at once; whoever nobody waits for any more does not take one.

A worker thread is bound to its client by `answering`; a client that goes away sets the event given there. What nobody
waits for at all, as scores, waits for `Quiet` instead.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from fastapi import HTTPException

# How soon work that waits notices that it is to stop.
LOOK_S = 0.2

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


class Interrupted(Exception):
    """Work in the background was told to stop."""


class Quiet:
    """Whether somebody is being answered: requests are `busy`, and work in the background waits for their end."""

    def __init__(self) -> None:
        self._requests = 0
        self._changed = threading.Condition()

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Within it, a request is being answered."""
        with self._changed:
            self._requests += 1
        try:
            yield
        finally:
            with self._changed:
                self._requests -= 1
                self._changed.notify_all()

    def wait(self, stopped: threading.Event) -> None:
        """Return once nobody is being answered; Interrupted as soon as `stopped` is set, also if nobody is."""
        with self._changed:
            while self._requests and not stopped.is_set():
                self._changed.wait(LOOK_S)
        if stopped.is_set():
            raise Interrupted
