"""POST /activelearning/{strategy}: the stock contract, in a thread, and with the name of who asks.

The stock endpoint blocks the event loop while a series is fetched, tells the strategy nothing about the client, and
writes the whole list of images to disk for every answer.
"""

from __future__ import annotations

from typing import Any, Protocol

from fastapi import APIRouter, Request
from monailabel.interfaces.datastore import Datastore

from lib.serving.gate import tell
from lib.serving.visitors import client_of


class SamplingApp(Protocol):
    """What the route needs of the app."""

    def next_sample(self, request: dict[str, Any]) -> dict[str, Any]: ...

    def datastore(self) -> Datastore: ...


def next_sample_door(app: SamplingApp) -> APIRouter:
    """The route; an endpoint that is no coroutine is run in a thread."""
    router = APIRouter(include_in_schema=False)

    @router.post("/activelearning/{strategy}")
    def next_sample(request: Request, strategy: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        asked = {**(params or {}), "strategy": strategy}
        asked["client_id"] = client_of(request, asked.get("client_id"))
        sample = app.next_sample(asked)
        if "id" not in sample:
            # As the stock endpoint: clients look for one, and say in their own words that there is none.
            return sample
        tell(request, image=sample["id"])
        return {**sample, **app.datastore().get_image_info(sample["id"])}

    return router
