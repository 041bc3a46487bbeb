"""POST /infer/{model}: what the stock endpoint answers, but in worker threads, bounded, and with sentences.

It mends two faults of MONAI Label 0.8.5: its endpoint does the work on the event loop, so that nobody is answered
meanwhile; and it has a bare 500 for what a client sends wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fastapi import APIRouter, Request
from fastapi.responses import Response
from monailabel.interfaces.datastore import Datastore
from monailabel.utils.sessions import Sessions
from starlette.datastructures import UploadFile

from lib.datastore.intake import ENDINGS
from lib.infers.drawing import DrawnFiles
from lib.infers.failures import as_answers
from lib.infers.images import find_image
from lib.infers.turns import stop_if_gone
from lib.labels.raw import RAW
from lib.serving.forms import read_form
from lib.serving.gate import tell
from lib.serving.places import Places
from lib.serving.replies import DICOM_SEG, check_output, dicom_seg_of, reply_to
from lib.serving.sessions import find_session
from lib.serving.uploads import IMAGE_ENDINGS, on_disk
from lib.serving.visitors import client_of, name_of

# What was drawn may also come as raw voxels on the image's grid.
DRAWN = (*ENDINGS, RAW)


class InferApp(Protocol):
    """What the door needs of the app."""

    def infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]: ...

    def datastore(self) -> Datastore: ...

    def sessions(self) -> Sessions | None: ...


@dataclass(frozen=True)
class Sent:
    """The files of a request: an image, a mask so far, and strokes."""

    image: UploadFile | None
    label: UploadFile | None
    strokes: UploadFile | None

    @contextmanager
    def on_disk(self) -> Iterator[tuple[Path | None, DrawnFiles | None]]:
        """The image, and what was drawn, as temporary files, which are gone at the end."""
        with ExitStack() as until_the_end:
            image, label, strokes = (
                until_the_end.enter_context(on_disk(upload, endings, "the file sent along")) if upload else None
                for upload, endings in ((self.image, IMAGE_ENDINGS), (self.label, DRAWN), (self.strokes, DRAWN))
            )
            yield image, DrawnFiles(label, strokes) if label or strokes else None


def infer_door(app: InferApp, places: Places, on_click: Callable[[str, str, str], list[str]]) -> APIRouter:
    """The route. `on_click` is told of every image of the datastore for which a mask is made, for which client, and
    what others call that; it says who else has the image open, which the reply's params do as `also_open`.

    What was drawn comes as files in the fields `label` and `strokes` (lib.infers.drawing).
    """
    # Not in the schema: the stock route, which stays behind this one, describes the same contract there.
    router = APIRouter(include_in_schema=False)

    @router.post("/infer/{model}")
    async def infer(request: Request, model: str, image: str = "", session_id: str = "", output: str = "") -> Response:
        places.check()
        async with read_form(request) as form:
            # One click that is no voxel is left out, and the others count.
            params = form.object("params", allows_nan=True)
            sent = Sent(*(form.file(name) for name in ("file", "label", "strokes")))
            asked = {"model": model, "image": image, **params}
            if isinstance(asked["image"], str) and asked["image"] != image:
                tell(request, image=asked["image"][:80])
            accepts = request.headers.get("accept-encoding", "")
            is_listed = not sent.image and not session_id and asked["image"] == image
            client = client_of(request, params.get("client_id"))
            name = name_of(request, params.get("client_name"), params.get("client_id"))

            def note() -> list[str]:
                return on_click(image, client, name) if is_listed else []

            return await places.run(
                lambda: _answer(app, {"model": model, "image": image}, params, sent, session_id, output, accepts, note),
                request.receive,
            )

    return router


def _answer(
    app: InferApp,
    asked: dict[str, Any],
    params: dict[str, Any],
    sent: Sent,
    session_id: str,
    output: str,
    accept_encoding: str,
    note: Callable[[], list[str]],
) -> Response:
    datastore = app.datastore()
    with sent.on_disk() as (image, drawn), as_answers():
        request = {**asked, **({"image": str(image)} if image else {}), **params, "drawn": drawn}
        request.update(_of_session(app.sessions(), session_id))
        check_output(output, datastore, str(request.get("image")))
        stop_if_gone()
        result = app.infer(request)
        if also_open := note():
            result["params"]["also_open"] = also_open
        try:
            if output == DICOM_SEG:
                return dicom_seg_of(result, find_image(request["image"], datastore, ()))
            return reply_to(result, output, accept_encoding)
        finally:
            Path(result["file"]).unlink(missing_ok=True)


def _of_session(sessions: Sessions | None, session_id: str) -> dict[str, Any]:
    """The image of a session, in place of the one of the query."""
    if sessions is None or not session_id:
        return {}
    session = find_session(sessions, session_id)
    return {"image": session.image, "session": session.to_json()} if session else {}
