"""A server's way to its cluster: made when it is needed, given up when it breaks, and looked for again."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from lib.cluster.security import Access, check_installed
from lib.errors import ClusterError
from lib.settings import ClusterSettings

if TYPE_CHECKING:
    from lib.cluster.dask_client import DaskCluster

logger = logging.getLogger(__name__)

# How often a cluster that is away is looked for, and how long a look takes at most where nothing answers.
RETRY_S, PROBE_S = 5.0, 1.0
LOOK_S = 0.5


class Link:
    """At most one connection, for all threads of a process. Without a cluster in the settings there never is one, and
    nothing of the engine is imported; SettingsError where the settings name one that cannot be used."""

    def __init__(self, settings: ClusterSettings) -> None:
        self._settings = settings
        self._access: Access | None = None
        self._cluster: DaskCluster | None = None
        self._lock = threading.Lock()
        self._tried = self._parted = -float("inf")
        self.problem = ""
        if settings.cluster:
            check_installed()
            self._access = Access(settings.cluster, settings.cluster_ca, settings.cluster_cert, settings.cluster_key)
            self._parted = time.monotonic()

    @property
    def is_set(self) -> bool:
        """Whether the settings name a cluster."""
        return self._access is not None

    @property
    def places(self) -> int:
        """The places that the cluster had when it was last asked; 0 while it is away."""
        return self._cluster.last_width if self._cluster is not None else 0

    def now(self) -> DaskCluster | None:
        """The cluster, if it is there and has workers; else it is looked for, at most every RETRY_S."""
        if self._access is None:
            return None
        with self._lock:
            if self._cluster is not None and self._cluster.is_gone:
                self._part("its scheduler has gone")
            if self._cluster is None and time.monotonic() - self._tried > RETRY_S:
                self._tried = time.monotonic()
                self._connect(self._access)
            with suppress(ClusterError):
                if self._cluster is not None and self._cluster.width:
                    self.problem = ""
                    return self._cluster
            self.problem = self.problem or "it has no workers"
            return None

    def awaited(self, is_stopped: Callable[[], bool]) -> DaskCluster | None:
        """The cluster, waited for until it has been away for `cluster_wait_s`; None from then on."""
        while True:
            found = self.now()
            has_waited = time.monotonic() - self._parted > self._settings.cluster_wait_s
            if found is not None or not self.is_set or has_waited or is_stopped():
                return found
            time.sleep(LOOK_S)

    def lost(self, error: ClusterError) -> None:
        """Give the connection up, for work on it ended with this error."""
        with self._lock:
            if self._cluster is not None:
                self._part(str(error))

    def close(self) -> None:
        """Give the connection up for good."""
        with self._lock:
            if self._cluster is not None:
                self._cluster.close()
                self._cluster = None

    def _connect(self, access: Access) -> None:
        from lib.cluster.dask_client import DaskCluster

        if not _listens(access):
            self.problem = "its scheduler does not answer"
            return
        try:
            self._cluster = DaskCluster(access, self._settings.cluster_wait_s)
            self.problem = ""
            logger.info("the cluster %s is there", access.address)
        except ClusterError as error:
            if str(error) != self.problem:
                logger.warning("%s", error)
            self.problem = str(error)

    def _part(self, problem: str) -> None:
        assert self._cluster is not None
        logger.warning("the cluster is given up: %s", problem)
        self._cluster.close()
        self._cluster, self._parted, self.problem = None, time.monotonic(), problem


def _listens(access: Access) -> bool:
    """Whether anything answers there; the engine itself would ask again and again for seconds."""
    try:
        socket.create_connection((access.host, access.port), PROBE_S).close()
    except OSError:
        return False
    return True
