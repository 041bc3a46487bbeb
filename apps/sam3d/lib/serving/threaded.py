"""Stock endpoints that ask the datastore, which may be an archive at the other end of a slow line: in threads.

MONAI Label 0.8.5 writes them as coroutines that never wait for anything, so that the event loop stands still until the
archive has answered, and with it everybody else.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from monailabel.endpoints import batch_infer, datastore, info, scoring, session, train

from lib.serving.bodies import TimedRoute

ROUTERS = (info.router, batch_infer.router, train.router, scoring.router, datastore.router, session.router)
READING = frozenset({"GET", "HEAD"})

Endpoint = Callable[..., Coroutine[Any, Any, Any]]


def threaded_doors() -> APIRouter:
    """The endpoints of ROUTERS, each in a thread; those that change the datastore one at a time, as ever.

    None waits for ever for a body that does not come.
    """
    doors, changing = APIRouter(include_in_schema=False, route_class=TimedRoute), threading.Lock()
    for router in ROUTERS:
        for route in router.routes:
            if isinstance(route, APIRoute) and inspect.iscoroutinefunction(route.endpoint):
                methods = set(route.methods or ())
                turn = changing if router is datastore.router and not methods <= READING else nullcontext()
                doors.add_api_route(route.path, _threaded(route.endpoint, turn), methods=sorted(methods))
    return doors


def _threaded(endpoint: Endpoint, turn: AbstractContextManager[Any]) -> Callable[..., Any]:
    """An endpoint that FastAPI runs in a thread, with the parameters and dependencies of a coroutine's."""

    def call(**values: Any) -> Any:
        with turn:
            coroutine = endpoint(**values)
            try:
                coroutine.send(None)
            except StopIteration as end:
                return end.value
            coroutine.close()
            raise RuntimeError(f"{endpoint.__name__} waits for something: it must stay on the event loop")

    call.__name__ = endpoint.__name__
    call.__signature__ = inspect.signature(endpoint)  # type: ignore[attr-defined]
    return call
