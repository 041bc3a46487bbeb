"""PUT, GET and DELETE /session/: images that Slicer opens from its own disk.

The stock endpoint unpacks any archive that it is sent over whatever its user may write, and then serves the file that
the archive's own description names. Here a session holds an image, or the DICOM files of a series, under names of ours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response
from monailabel.utils.sessions import SessionInfo, Sessions
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from lib.images.volumes import open_volume
from lib.infers.failures import answer, as_answers
from lib.serving.forms import read_form
from lib.serving.sessions import find_session, keep_session
from lib.serving.uploads import image_or_series

# The slices of a long series; each is a file.
MAX_FILES = 2048
LONGEST_S = 10 * 365 * 24 * 3600


class SessionApp(Protocol):
    """What the routes need of the app."""

    def sessions(self) -> Sessions | None: ...


def session_door(app: SessionApp, limit_volume_bytes: int) -> APIRouter:
    """The routes. A single image must open as a volume of at most `limit_volume_bytes`."""
    router = APIRouter(include_in_schema=False)

    @router.put("/session/")
    async def create(request: Request, uncompress: bool = False, expiry: int = 0) -> dict[str, Any]:
        if uncompress:
            raise answer(422, "archives are not unpacked here: send one image, or the DICOM files of one series")
        async with read_form(request, MAX_FILES) as form:
            uploads = form.files("files")
            if not uploads:
                raise answer(422, "the form has no file 'files': send an image, or the DICOM files of one series")
            return await run_in_threadpool(_create, app, uploads, max(0, min(expiry, LONGEST_S)), limit_volume_bytes)

    @router.get("/session/{session_id}", response_model=None)
    def get(session_id: str, update_ts: bool = False, image: bool = False) -> Response | dict[str, Any]:
        session = _found(app, session_id, is_used=update_ts)
        if not image:
            shown: dict[str, Any] = session.to_json()
            return shown
        path = Path(session.image)
        if not path.is_file():
            raise answer(404, "the session holds a series of DICOM files, and no image as one file")
        return FileResponse(path, media_type="application/octet-stream", filename=path.name)

    @router.delete("/session/{session_id}")
    def remove(session_id: str) -> dict[str, Any]:
        session = _found(app, session_id, is_used=False)
        sessions = app.sessions()
        if sessions is not None:
            sessions.remove_session(session_id)
        shown: dict[str, Any] = session.to_json()
        return shown

    return router


def _create(app: SessionApp, uploads: list[UploadFile], expiry_s: int, limit_volume_bytes: int) -> dict[str, Any]:
    sessions = app.sessions()
    if sessions is None:
        raise answer(406, "this server keeps no sessions: start it with MONAI_LABEL_SESSIONS=true")
    with image_or_series(uploads) as path, as_answers():
        if path.is_file():
            open_volume(path, limit_volume_bytes)
        session_id, session = keep_session(sessions, path, expiry_s)
    return {"session_id": session_id, "session_info": session.to_json()}


def _found(app: SessionApp, session_id: str, is_used: bool) -> SessionInfo:
    session = find_session(app.sessions(), session_id, is_used=is_used)
    if session is None:
        raise answer(404, f"there is no session {session_id[:80]!r} here: open one, for it may have ended")
    return session
