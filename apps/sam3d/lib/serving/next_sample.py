"""POST /activelearning/{strategy}: the stock contract, in a thread, and with the name of who asks.

The stock endpoint blocks the event loop while a series is fetched, tells the strategy nothing about the client, and
writes the whole list of images to disk for every answer.
"""

from __future__ import annotations

from typing import Any, Protocol

from fastapi import APIRouter, Depends, Request
from monailabel.config import settings as server_settings
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.interfaces.datastore import Datastore

from lib.serving.bodies import TimedRoute
from lib.serving.clients import client_of

NONE_LEFT = "every case has a label: add studies, or open one by hand to correct its label"


class SamplingApp(Protocol):
    """What the route needs of the app."""

    def next_sample(self, request: dict[str, Any]) -> dict[str, Any]: ...

    def datastore(self) -> Datastore: ...


def next_sample_door(app: SamplingApp) -> APIRouter:
    """The route; an endpoint that is no coroutine is run in a thread."""
    router = APIRouter(include_in_schema=False, route_class=TimedRoute)

    @router.post("/activelearning/{strategy}")
    def next_sample(
        request: Request,
        strategy: str,
        params: dict[str, Any] | None = None,
        user: User = Depends(RBAC(server_settings.MONAI_LABEL_AUTH_ROLE_USER)),  # noqa: B008
    ) -> dict[str, Any]:
        asked = {**(params or {}), "strategy": strategy}
        asked["client_id"] = client_of(request, asked.get("client_id"), user)
        sample = app.next_sample(asked)
        # Without an id, as the stock endpoint: clients look for one, and say in their own words that there is none.
        return {**sample, **app.datastore().get_image_info(sample["id"])} if sample else {"detail": NONE_LEFT}

    return router
