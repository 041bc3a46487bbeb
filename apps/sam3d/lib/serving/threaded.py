"""Stock endpoints that ask the datastore, which may be an archive at the other end of a slow line: in threads.

MONAI Label 0.8.5 writes them as coroutines that never wait for anything, so that the event loop stands still until the
archive has answered, and with it everybody else.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from monailabel.endpoints import batch_infer, info, train

ROUTERS = (info.router, batch_infer.router, train.router)

Endpoint = Callable[..., Coroutine[Any, Any, Any]]


def threaded_doors() -> APIRouter:
    """The endpoints of ROUTERS, each in a thread."""
    doors = APIRouter(include_in_schema=False)
    for router in ROUTERS:
        for route in router.routes:
            if isinstance(route, APIRoute) and inspect.iscoroutinefunction(route.endpoint):
                doors.add_api_route(route.path, _threaded(route.endpoint), methods=sorted(route.methods or ()))
    return doors


def _threaded(endpoint: Endpoint) -> Callable[..., Any]:
    """An endpoint that FastAPI runs in a thread, with the parameters and dependencies of a coroutine's."""

    def call(**values: Any) -> Any:
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
