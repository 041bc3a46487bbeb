"""A cache that counts bytes, for things that are slow to make and asked for by many threads at once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass
class _Making(Generic[T]):
    """One making of one thing, and how many threads hold on to it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    waiting: int = 0
    made: list[T] = field(default_factory=list)


class ByteCache(Generic[T]):
    """Things by key, the least recently used dropped first once they hold more than `limit_bytes`.

    Thread-safe; several threads that ask for one key wait for one making of it. What is larger than the limit is
    handed out but not kept, and so is nothing whose making raised.
    """

    def __init__(self, limit_bytes: int, size_of: Callable[[T], int]) -> None:
        self._limit_bytes = limit_bytes
        self._size_of = size_of
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, T] = OrderedDict()
        self._makings: dict[Hashable, _Making[T]] = {}

    @property
    def used_bytes(self) -> int:
        with self._lock:
            return self._used_bytes()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """What is kept under the key, or what `make` returns; its errors pass through."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            making = self._makings.setdefault(key, _Making())
            making.waiting += 1
        try:
            with making.lock:
                if not making.made:
                    made = make()
                    self._keep(key, made)
                    making.made.append(made)
                return making.made[0]
        finally:
            with self._lock:
                making.waiting -= 1
                if not making.waiting:
                    self._makings.pop(key, None)

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()

    def _keep(self, key: Hashable, made: T) -> None:
        if self._size_of(made) > self._limit_bytes:
            return
        with self._lock:
            self._kept[key] = made
            while self._used_bytes() > self._limit_bytes:
                self._kept.popitem(last=False)

    def _used_bytes(self) -> int:
        return sum(self._size_of(kept) for kept in self._kept.values())
