"""POST /infer/{model}: what the stock endpoint answers, but in worker threads, bounded, and with sentences.

It mends three faults of MONAI Label 0.8.5: its endpoint does the work on the event loop, so that nobody is answered
meanwhile; it reads any body of any length; and it has a bare 500 for what a client sends wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from monailabel.config import settings as server_settings
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.interfaces.datastore import Datastore
from monailabel.utils.sessions import Sessions

from lib.infers.failures import answer, as_answers
from lib.infers.images import find_image
from lib.infers.turns import stop_if_gone
from lib.serving.bodies import TimedRoute
from lib.serving.clients import client_of
from lib.serving.forms import InferForm, read_form
from lib.serving.places import Places
from lib.serving.replies import DICOM_SEG, check_output, dicom_seg_of, reply_to

# What the server makes; anything else could lead out of the folder of sessions.
SESSION_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class InferApp(Protocol):
    """What the door needs of the app."""

    def infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]: ...

    def datastore(self) -> Datastore: ...

    def sessions(self) -> Sessions | None: ...


def infer_door(app: InferApp, places: Places, limit_bytes: int, on_answer: Callable[[str, str], None]) -> APIRouter:
    """The route; the body of a request may have `limit_bytes`. `on_answer` is told of every image of the datastore for
    which a mask was made, and for which client."""
    # Not in the schema: the stock route, which stays behind this one, describes the same contract there.
    router = APIRouter(include_in_schema=False, route_class=TimedRoute)

    @router.post("/infer/{model}")
    async def infer(
        request: Request,
        model: str,
        image: str = "",
        session_id: str = "",
        output: str = "",
        user: User = Depends(RBAC(server_settings.MONAI_LABEL_AUTH_ROLE_USER)),  # noqa: B008
    ) -> Response:
        places.check()
        async with read_form(request, limit_bytes) as form:
            asked = {"model": model, "image": image}
            accepts = request.headers.get("accept-encoding", "")
            reply = await places.run(lambda: _answer(app, asked, form, session_id, output, accepts), request.receive)
            if not form.image and not session_id and form.params.get("image", image) == image:
                on_answer(image, client_of(request, form.params.get("client_id"), user))
            return reply

    @router.post("/infer/wsi/{model}")
    @router.post("/infer/wsi_v2/{model}")
    async def refuse_slides(model: str) -> Response:
        # The stock endpoints for slides lead to our models too, but past all that this door is for.
        raise answer(404, f"{model[:80]!r} is no model for whole slides: ask /infer/ for a mask of a volume")

    return router


def _answer(
    app: InferApp, asked: dict[str, Any], form: InferForm, session_id: str, output: str, accept_encoding: str
) -> Response:
    datastore = app.datastore()
    check_output(output, datastore)
    with as_answers(), form.image_on_disk() as upload:
        request = {**asked, **({"image": str(upload)} if upload else {}), **form.params}
        request.update(_of_session(app.sessions(), session_id))
        stop_if_gone()
        result = app.infer(request)
        try:
            if output == DICOM_SEG:
                return dicom_seg_of(result, find_image(request["image"], datastore, ()))
            return reply_to(result, output, accept_encoding)
        finally:
            Path(result["file"]).unlink(missing_ok=True)


def _of_session(sessions: Sessions | None, session_id: str) -> dict[str, Any]:
    """The image of a session, in place of the one of the query."""
    if sessions is None or not SESSION_ID.fullmatch(session_id):
        return {}
    session = sessions.get_session(session_id)
    return {"image": session.image, "session": session.to_json()} if session else {}
