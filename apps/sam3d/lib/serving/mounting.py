"""Putting routes of ours before the server's own."""

from __future__ import annotations

from fastapi import APIRouter
from monailabel.config import settings as server_settings


def put_first(router: APIRouter) -> None:
    """Let `router` answer before any route that the running server has; the stock routes stay behind it."""
    # Not at the top: this module is the server, made when imported, and the training process has none.
    from monailabel.app import app as api

    routes = api.router.routes
    before = len(routes)
    api.include_router(router, prefix=server_settings.MONAI_LABEL_API_STR)
    ours = routes[before:]
    del routes[before:]
    routes[0:0] = ours
