"""Putting what is ours in front of the running server: routes, and the gate that every request passes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from monailabel.config import settings as server_settings
from monailabel.endpoints.user.auth import get_current_user
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse

from lib.infers.failures import answer
from lib.serving.gate import Gate, Outside
from lib.serving.headers import SecurityHeaders
from lib.serving.served import served
from lib.serving.visitors import stock_user_of


def running_api() -> FastAPI:
    """The running server."""
    # Not at the top: this module is the server, made when imported, and the training process has none.
    from monailabel.app import app as api

    running: FastAPI = api
    return running


def put_first(router: APIRouter) -> None:
    """Let `router` answer before any route that the running server has; the stock routes stay behind it."""
    api = running_api()
    routes = api.router.routes
    before = len(routes)
    api.include_router(router, prefix=server_settings.MONAI_LABEL_API_STR)
    ours = routes[before:]
    del routes[before:]
    routes[0:0] = ours


def put_gate(frontier: Any, gate: dict[str, Any], origins: Iterable[str]) -> None:
    """From the next request on, let nothing in but through the gate.

    The stock middleware, which lets every page of the world ask with the visitor's cookies, is dropped; and what is not
    served is not in the schema either.
    """
    api = running_api()
    prefix = server_settings.MONAI_LABEL_API_STR
    whole_schema = api.openapi
    api.openapi = lambda: _served_part(whole_schema())  # type: ignore[method-assign]
    api.dependency_overrides[get_current_user] = stock_user_of
    api.add_exception_handler(RequestValidationError, _say_what_is_wrong)  # type: ignore[arg-type]
    api.add_exception_handler(Exception, _say_that_we_failed)
    named = list(origins)
    cors = Middleware(
        CORSMiddleware,
        allow_origins=named,
        allow_credentials=True,
        allow_methods=["GET", "HEAD", "POST", "PUT", "DELETE"],
        allow_headers=["Authorization", "Content-Type"],
    )
    api.user_middleware = [
        Middleware(SecurityHeaders),
        Middleware(Outside, frontier=frontier),
        *([cors] if named else []),
        Middleware(Gate, prefix=prefix, **gate),
    ]
    api.middleware_stack = api.build_middleware_stack()


def _served_part(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema without what is closed; the stock's own routes describe the contract of ours that stand before them."""
    prefix = server_settings.MONAI_LABEL_API_STR
    paths: dict[str, dict[str, Any]] = {}
    for path, methods in schema["paths"].items():
        open_ones = {name: told for name, told in methods.items() if served(name.upper(), path.removeprefix(prefix))}
        if open_ones:
            paths[path] = open_ones
    return {**schema, "paths": paths}


async def _say_what_is_wrong(request: Request, error: RequestValidationError) -> JSONResponse:
    """One sentence in place of a list of what a model of a request says about it."""
    first = error.errors()[0]
    place = " ".join(str(part) for part in first["loc"])[:80]
    refusal = answer(422, f"{place} cannot be used: {str(first['msg'])[:200]}")
    return JSONResponse({"detail": refusal.detail}, refusal.status_code)


async def _say_that_we_failed(request: Request, error: Exception) -> JSONResponse:
    detail = "something failed here that should not: try again, and if it fails again, see the server's log"
    return JSONResponse({"detail": detail}, 500, {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"})
