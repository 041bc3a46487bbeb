"""Logins of browsers: a cookie of random letters stands for what is remembered here, and says nothing itself."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from hashlib import sha256
from typing import Generic, TypeVar

from starlette.responses import Response

COOKIE = "sam3d_login"
LOGIN_S = 12 * 3600
MAX_LOGINS = 10_000

Remembered = TypeVar("Remembered")


class BrowserLogins(Generic[Remembered]):
    """What is remembered by cookie, for a while; the oldest go first where there are too many."""

    def __init__(self, length_s: float = LOGIN_S, most: int = MAX_LOGINS) -> None:
        self._length_s, self._most = length_s, most
        self._lock = threading.Lock()
        self._kept: OrderedDict[bytes, tuple[float, Remembered]] = OrderedDict()

    def open(self, remembered: Remembered) -> str:
        """A new cookie's value."""
        value = secrets.token_urlsafe(32)
        with self._lock:
            self._kept[digest(value)] = (time.time() + self._length_s, remembered)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return value

    def find(self, value: str) -> Remembered | None:
        """What was remembered; None for a cookie that opens nothing, or nothing any more."""
        with self._lock:
            until, remembered = self._kept.get(digest(value), (0.0, None))
        return remembered if until > time.time() else None

    def close(self, value: str) -> Remembered | None:
        """What was remembered; from now on the cookie opens nothing."""
        found = self.find(value)
        with self._lock:
            self._kept.pop(digest(value), None)
        return found


def digest(text: str) -> bytes:
    """What is kept of a secret: enough to know it again."""
    return sha256(text.encode("utf-8", "surrogateescape")).digest()


def set_cookie(reply: Response, value: str, is_https: bool) -> None:
    """The browser keeps the cookie from scripts, and from requests of other sites."""
    reply.set_cookie(COOKIE, value, max_age=LOGIN_S, httponly=True, samesite="lax", secure=is_https)


def drop_cookie(reply: Response) -> None:
    """The browser forgets the cookie."""
    reply.delete_cookie(COOKIE, httponly=True, samesite="lax")
