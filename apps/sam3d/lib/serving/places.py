"""A bounded number of requests at work, each in a thread of its own, never on the event loop.

There is no second queue: a request waits inside its thread, for its turn at the network (lib.infers.turns), so that one
that needs no turn at the slow encoder overtakes those that do.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from starlette.types import Receive

from lib.infers.failures import answer
from lib.infers.turns import answering

T = TypeVar("T")
RETRY_AFTER_S = 5


class Places:
    """`count` places; one is free again when its work has ended, whatever became of the client."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = threading.BoundedSemaphore(count)
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="infer")

    def check(self) -> None:
        """HTTPException 429 if no place is free: before a large body is read."""
        self._take()
        self._free.release()

    async def run(self, work: Callable[[], T], receive: Receive) -> T:
        """What `work` returns, from a thread; HTTPException 429 at once if there is no place.

        `receive` is the request's, its body read already: what comes next is that the client has gone.
        """
        self._take()
        has_gone = threading.Event()
        future = self._threads.submit(_answer, work, has_gone)
        future.add_done_callback(self._give_back)
        watch = asyncio.create_task(_watch(receive, has_gone))
        try:
            return await asyncio.wrap_future(future)
        finally:
            watch.cancel()

    def _take(self) -> None:
        if not self._free.acquire(blocking=False):
            raise answer(
                429,
                f"{self.count} requests are being answered, and no more may wait: try again in {RETRY_AFTER_S} s, "
                "or start the server with a larger max_requests",
                {"Retry-After": str(RETRY_AFTER_S)},
            )

    def _give_back(self, _: Future[T]) -> None:
        self._free.release()


def _answer(work: Callable[[], T], has_gone: threading.Event) -> T:
    with answering(has_gone):
        return work()


async def _watch(receive: Receive, has_gone: threading.Event) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    has_gone.set()
