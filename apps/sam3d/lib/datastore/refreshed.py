"""A value that is fetched again when it is old, without anybody waiting long for a server that is slow."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Refreshed(Generic[T]):
    """What `fetch` returned last. Once that is older than `ttl_s`, it is fetched again in a thread of its own.

    `get` waits for that thread for `patience_s`, the first time for `first_patience_s`, and then returns what is known.
    What `fetch` raises is logged, and what was known before stays.
    """

    def __init__(
        self, fetch: Callable[[], T], initial: T, ttl_s: float, patience_s: float = 1.0, first_patience_s: float = 10.0
    ) -> None:
        self._fetch, self._value, self._ttl_s = fetch, initial, ttl_s
        self._patience_s, self._first_patience_s = patience_s, first_patience_s
        self._lock = threading.Lock()
        self._fetched_at: float | None = None
        self._thread: threading.Thread | None = None

    @property
    def known(self) -> T:
        """The value as it was fetched last, however old."""
        return self._value

    def get(self) -> T:
        """The value, as new as it can be had within the patience."""
        with self._lock:
            if self._fetched_at is not None and time.monotonic() - self._fetched_at < self._ttl_s:
                return self._value
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True, name="refresh")
                self._thread.start()
            thread = self._thread
            patience_s = self._first_patience_s if self._fetched_at is None else self._patience_s
        thread.join(patience_s)
        return self._value

    def expire(self) -> None:
        """Let the next `get` fetch again."""
        with self._lock:
            self._fetched_at = None if self._fetched_at is None else -self._ttl_s

    def _run(self) -> None:
        try:
            self._value = self._fetch()
        except Exception:
            logger.exception("what was fetched before stays in use")
        finally:
            with self._lock:
                self._fetched_at, self._thread = time.monotonic(), None
