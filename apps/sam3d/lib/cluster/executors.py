"""Executors: whoever carries orders out, one after another in this thread or many at once elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Protocol

from lib.cluster.orders import Order, Outcome


class Executor(Protocol):
    """A subset of concurrent.futures' executors, shaped for orders that are many."""

    @property
    def width(self) -> int:
        """How many orders are carried out at once; 0 where nobody is there to do it."""

    def stream(
        self, orders: Iterable[Order], is_stopped: Callable[[], bool] = lambda: False
    ) -> Generator[tuple[Order, Outcome], None, None]:
        """Orders with their outcomes (a `Failure` among them), as these come. Orders are taken from the iterable as
        there is room for them, in this thread; none is taken any more, and those on their way are given up, once
        `is_stopped`. Raises ClusterError when whoever carries them out has gone; what had no outcome then has none."""


class Here:
    """Carries orders out in the caller's thread; whatever the work raises reaches the caller."""

    width = 1

    def __init__(self, work: Callable[[Order], Outcome]) -> None:
        self._work = work

    def stream(
        self, orders: Iterable[Order], is_stopped: Callable[[], bool] = lambda: False
    ) -> Generator[tuple[Order, Outcome], None, None]:
        for order in orders:
            if is_stopped():
                return
            yield order, self._work(order)
