"""The engine's client: orders out to workers, outcomes back. The files `dask_*.py` alone know Dask."""

from __future__ import annotations

import asyncio
import logging
import queue
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from itertools import count, islice
from typing import TYPE_CHECKING, Any

from distributed import Client, Future
from distributed.scheduler import KilledWorker

from lib.cluster.dask_greeting import greet
from lib.cluster.dask_security import security_of
from lib.cluster.entry import carry_out
from lib.cluster.orders import Failure, Order, Outcome
from lib.cluster.security import Access
from lib.errors import ClusterError

if TYPE_CHECKING:
    from lib.cluster.travelling import Weights

logger = logging.getLogger(__name__)

# Orders in flight for each place, so that none waits for this machine.
AHEAD = 2
# How soon new places, places that left, a scheduler that is gone and a wish to stop are noticed.
LOOK_S = 0.5
CONNECT_S = 5.0
# Weights that were lost with the workers that held them are sent again so often.
RESENDS = 5
# Before Python 3.11 these are two.
TIMEOUTS = (TimeoutError, asyncio.TimeoutError)
# What a question, or an order, ends in when the scheduler goes meanwhile.
BROKEN = (*TIMEOUTS, OSError, CancelledError, AttributeError, RuntimeError)


class DaskCluster:
    """A connection to a scheduler that runs the same code as this process; ClusterError where there is none."""

    def __init__(self, access: Access, patience_s: float) -> None:
        self._address, self._patience_s = access.address, patience_s
        try:
            # Asked first, for the client itself waits for ever for what listens and says nothing.
            self._id = asyncio.run(greet(access, "client", CONNECT_S))["id"]
            self._client = Client(
                access.address, security=security_of(access), timeout=CONNECT_S, set_as_default=False, name="sam3d"
            )
        except (OSError, *TIMEOUTS) as error:
            raise ClusterError(f"the cluster {access.address} does not answer ({type(error).__name__})") from error
        self._numbers = count()
        self._held: dict[str, Any] = {}
        self.last_width = 0

    @property
    def width(self) -> int:
        """Places that take orders now."""
        self.last_width = int(self._ask()["places"])
        return self.last_width

    @property
    def resources(self) -> dict[str, float]:
        """What the workers there are now declare, together."""
        return dict(self._ask()["resources"])

    @property
    def is_gone(self) -> bool:
        """Whether the connection broke, or leads to another scheduler than at first."""
        try:
            return bool(self._client.status != "running" or self._ask()["id"] != self._id)
        except ClusterError:
            return True

    def executor(self, weights: Weights | None = None, resources: Mapping[str, float] | None = None) -> OnDask:
        """For orders that need these weights, on workers that declare these resources."""
        return OnDask(self, weights, resources)

    def close(self) -> None:
        """Give up the connection; orders on their way are forgotten."""
        self._client.close(timeout=CONNECT_S)

    def submit(self, order: Order, weights: Weights | None, resources: Mapping[str, float] | None) -> Future:
        """Send an order on its way."""
        key = f"{order.work}-{order.key[:40]}-{self._client.id[-8:]}-{next(self._numbers)}"
        resources = dict(resources) if resources else None
        try:
            held = (weights.digest, self._hold(weights)) if weights is not None else ()
            return self._client.submit(carry_out, order.as_text(), *held, key=key, pure=False, resources=resources)
        except BROKEN as error:
            raise ClusterError(f"the cluster {self._address} took no order ({type(error).__name__})") from error

    def forget_weights(self) -> None:
        """Have the weights sent anew with the next order."""
        self._held.clear()

    def cancel(self, futures: Iterable[Future]) -> None:
        """Give up orders that are on their way."""
        if self._client.status == "running":
            self._client.cancel(list(futures), force=True)

    def check(self) -> None:
        """ClusterError if the scheduler is gone."""
        if self.is_gone:
            raise ClusterError(f"the cluster {self._address} has gone")

    @property
    def patience_s(self) -> float:
        """How long orders wait for a place when there is none."""
        return self._patience_s

    def _hold(self, weights: Weights) -> Any:
        """The weights as workers already have them: sent once to each, and from then on by name."""
        if weights.digest not in self._held:
            # Those of the version before are dropped by the workers once no order needs them.
            self._held = {weights.digest: self._client.scatter(weights.data, hash=False, broadcast=True)}
            logger.info("sent weights %s (%d bytes) to the workers", weights.digest[:12], len(weights.data))
        return self._held[weights.digest]

    def _ask(self) -> dict[str, Any]:
        try:
            said: dict[str, Any] = self._client.sync(self._client.scheduler.sam3d, callback_timeout=2 * CONNECT_S)
            return said
        except BROKEN as error:
            raise ClusterError(f"the cluster {self._address} does not answer ({type(error).__name__})") from error


class OnDask:
    """Carries orders out on the workers of a cluster, a few for each place at a time: this machine's memory does not
    grow with their number."""

    def __init__(self, cluster: DaskCluster, weights: Weights | None, resources: Mapping[str, float] | None) -> None:
        self._cluster, self._weights, self._resources = cluster, weights, resources

    @property
    def width(self) -> int:
        return self._cluster.width

    def stream(
        self, orders: Iterable[Order], is_stopped: Callable[[], bool] = lambda: False
    ) -> Generator[tuple[Order, Outcome], None, None]:
        flight = _Flight(self._cluster, self._weights, self._resources)
        source, is_over = iter(orders), False
        try:
            while not is_stopped() and not (is_over and not flight):
                room = flight.room
                is_over = sum(map(flight.start, islice(source, room))) < room
                yield from flight.landed()
        finally:
            flight.end()


class _Flight:
    """The orders on their way, and what arrived of them."""

    def __init__(self, cluster: DaskCluster, weights: Weights | None, resources: Mapping[str, float] | None) -> None:
        self._cluster, self._weights, self._resources = cluster, weights, resources
        self._orders: dict[str, tuple[Future, Order]] = {}
        self._arrived: queue.SimpleQueue[Future] = queue.SimpleQueue()
        self._width, self._looked, self._seen, self._resends = 0, 0.0, time.monotonic(), 0

    def __bool__(self) -> bool:
        return bool(self._orders)

    @property
    def room(self) -> int:
        """How many more orders may start now."""
        if time.monotonic() - self._looked > LOOK_S:
            self._look()
        return max(0, AHEAD * self._width - len(self._orders))

    def start(self, order: Order) -> int:
        """Send an order; 1, for those who count."""
        future = self._cluster.submit(order, self._weights, self._resources)
        self._orders[future.key] = (future, order)
        future.add_done_callback(self._arrived.put)
        return 1

    def landed(self) -> Iterator[tuple[Order, Outcome]]:
        """What arrived since the last look: at least one outcome, unless none does for a while."""
        if not self._orders and self._width:
            return
        try:
            found = [self._arrived.get(timeout=LOOK_S)]
        except queue.Empty:
            self._look()
            found = []
            self._resend()
        while not self._arrived.empty():
            found.append(self._arrived.get())
        for future in found:
            # One that was given up, and sent again, arrives twice.
            if future.key in self._orders:
                _, order = self._orders[future.key]
                outcome = self._outcome(future, order)
                if outcome is not LOST:
                    del self._orders[future.key]
                    yield order, outcome

    def end(self) -> None:
        self._cluster.cancel(future for future, _ in self._orders.values())
        self._orders.clear()

    def _look(self) -> None:
        """See what places there are; ClusterError if the scheduler is gone, or nobody was there for too long."""
        self._cluster.check()
        self._looked, self._width = time.monotonic(), self._cluster.width
        if self._width:
            self._seen = self._looked
        elif self._looked - self._seen > self._cluster.patience_s:
            raise ClusterError("the cluster has no workers")

    def _outcome(self, future: Future, order: Order) -> Outcome:
        try:
            if future.status == "error":
                raise future.exception(timeout=CONNECT_S)
            return future.result(timeout=CONNECT_S)
        except TIMEOUTS as error:
            if future.status == "error":
                return Failure(f"a worker ended {order.work} with {type(error).__name__}: {error}"[:300])
            # Its worker died before it was fetched: it is made again.
            self._look()
            self._arrived.put(future)
            return LOST
        except KilledWorker as error:
            return Failure(f"{order.image or order.key} ended {error.allowed_failures + 1} workers", is_lasting=True)
        except CancelledError:
            self._cluster.check()
            return LOST
        except Exception as error:
            logger.warning("%s of %s failed on a worker", order.work, order.image or order.key, exc_info=error)
            return Failure(f"a worker ended {order.work} with {type(error).__name__}: {error}"[:300])

    def _resend(self) -> None:
        """Send again what was lost with the weights that it needed: their last holder died."""
        lost = [(future, order) for future, order in self._orders.values() if future.status in ("lost", "cancelled")]
        if not lost:
            return
        self._resends += 1
        if self._resends > RESENDS:
            raise ClusterError(f"the cluster lost {len(lost)} orders again and again")
        self._cluster.forget_weights()
        for future, order in lost:
            del self._orders[future.key]
            self.start(order)


# An order whose outcome will not come; it is sent again.
LOST = object()
