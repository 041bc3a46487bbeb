"""The engine's processes: a scheduler, and workers that take orders from it. Both bind where they are told and nowhere
else: the engine's own pages, which ask nobody who they are, are for this machine alone."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any
from uuid import uuid4

import dask
from distributed import Scheduler, Worker
from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.security import Security
from distributed.worker import DEFAULT_STARTUP_INFORMATION

from lib.cluster.dask_greeting import greet
from lib.cluster.dask_security import security_of
from lib.cluster.identity import difference, identity
from lib.cluster.security import Access, is_loopback

logger = logging.getLogger(__name__)

# Pages and figures of the engine, on any free port.
OWN_PAGES = "127.0.0.1:0"
# How soon a worker looks again for a scheduler that went away.
RETRY_S = 2.0
CONNECT_S = 5.0
STARTUP_KEY = "sam3d"


def serve_scheduler(access: Access, port: int, told: Callable[[str], None]) -> None:
    """Run a scheduler at the host of `access` until the process is asked to end; `told` gets its address."""
    quieten()
    asyncio.run(_scheduling(access, port, told))


def serve_worker(access: Access, host: str, resources: Mapping[str, float], told: Callable[[str], None]) -> None:
    """Take orders from the scheduler until the process is asked to end, and look for it again where it goes away;
    ClusterError where it runs other code. `told` gets this worker's address each time it joined."""
    quieten()
    asyncio.run(_working(access, host, resources, told))


async def _scheduling(access: Access, port: int, told: Callable[[str], None]) -> None:
    async with Scheduler(
        host=access.host,
        port=port,
        protocol=access.address.partition("://")[0],
        security=security_of(access) or Security(),
        dashboard=False,
        dashboard_address=OWN_PAGES,
        plugins=[_SameCodeOnly()],
    ) as scheduler:
        scheduler.handlers[STARTUP_KEY] = _Answers(scheduler).describe
        told(scheduler.address)
        await _asked_to_end()


class _Answers:
    """What a scheduler of ours says of itself to whoever may connect to it."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler, self._id = scheduler, uuid4().hex

    def describe(self, comm: Any = None) -> dict[str, Any]:
        places = sum(state.nthreads for state in self._scheduler.running)
        resources: dict[str, float] = {}
        for state in self._scheduler.running:
            for name, amount in state.resources.items():
                resources[name] = resources.get(name, 0.0) + amount
        return {"identity": identity(), "id": self._id, "places": places, "resources": resources}


class _SameCodeOnly(SchedulerPlugin):
    """Lets no worker stay that does not say it runs this code, as the stock's workers do not."""

    name = "same-code-only"

    async def add_worker(self, scheduler: Scheduler, worker: str, **_: Any) -> None:
        state = scheduler.workers.get(worker)
        theirs = (state.extra.get(STARTUP_KEY) if state is not None else None) or {}
        if state is not None and (odd := difference(identity(), theirs)):
            logger.warning("worker %s is not taken: %s", worker, odd)
            await scheduler.remove_worker(worker, stimulus_id="other-code", close=True)


async def _working(access: Access, host: str, resources: Mapping[str, float], told: Callable[[str], None]) -> None:
    ended = asyncio.ensure_future(_asked_to_end())
    is_waiting = False
    while not ended.done():
        try:
            await greet(access, "worker", CONNECT_S)
            async with make_worker(access, host, resources) as worker:
                told(worker.address)
                is_waiting = False
                finished = asyncio.ensure_future(worker.finished())
                await asyncio.wait({ended, finished}, return_when=asyncio.FIRST_COMPLETED)
                finished.cancel()
        except (OSError, TimeoutError, asyncio.TimeoutError) as error:  # two before Python 3.11
            if not is_waiting:
                logger.warning("waiting for the scheduler %s (%s)", access.address, _reason(error))
            is_waiting = True
        if not ended.done():
            with suppress(TimeoutError, asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.shield(ended), RETRY_S)


def make_worker(access: Access, host: str, resources: Mapping[str, float]) -> Worker:
    """A worker of one place that says what code it runs; not started yet."""
    return Worker(
        access.address,
        nthreads=1,  # one network, one device
        host=host,
        security=security_of(access) or Security(),
        resources=dict(resources),
        dashboard=False,
        dashboard_address=OWN_PAGES,
        # A limit pauses workers that hold data; ours hold next to none, and a score is bounded by its order.
        memory_limit=0,
        death_timeout=CONNECT_S * 2,
        name=f"{socket.gethostname()}-{uuid4().hex[:8]}",
        startup_information={**DEFAULT_STARTUP_INFORMATION, STARTUP_KEY: lambda _: identity()},
    )


def host_towards(access: Access) -> str:
    """This machine's address on the way to the scheduler."""
    host = access.host
    if is_loopback(host):
        return host
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))  # of a datagram, so that nothing is sent
        return str(probe.getsockname()[0])


def quieten() -> None:
    """The engine tells of every connection, and watches itself a hundred times a second, which small machines feel."""
    logging.getLogger("distributed").setLevel(logging.WARNING)
    dask.config.set({"distributed.worker.profile.enabled": False, "distributed.admin.tick.interval": "500ms"})


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:200]


async def _asked_to_end() -> None:
    asked, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    await asked.wait()
