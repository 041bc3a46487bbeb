"""Sessions as they lie on disk: found by an id that the server made, and never leading out of their own folder."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from uuid import uuid4

from monailabel.utils.sessions import SessionInfo, Sessions

from lib.infers.failures import answer
from lib.naming import is_below

# What the server makes; anything else could lead out of the folder of sessions.
SESSION_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


# Slicer opens one for each image that it has from its own disk, and closes none.
MOST_SESSIONS = 64


def find_session(sessions: Sessions | None, session_id: str, *, is_used: bool = True) -> SessionInfo | None:
    """A session; None if there is none of this id, or if what its file names is not its own.

    HTTPException 406 where the server keeps no sessions.
    """
    if sessions is None:
        raise answer(406, "this server keeps no sessions: start it with MONAI_LABEL_SESSIONS=true")
    if not SESSION_ID.fullmatch(session_id):
        return None
    folder = Path(sessions.store_path) / session_id
    if not folder.is_dir():
        sessions.pop(session_id, None)
        return None
    try:
        session: SessionInfo | None = sessions.get_session(session_id, update_ts=False)
        if session is None or not is_below(Path(session.image), folder):
            return None
        if is_used:
            session = sessions.get_session(session_id)
        return session
    except (ValueError, TypeError, AttributeError, OSError, json.JSONDecodeError):
        return None  # its file is damaged


def keep_session(sessions: Sessions, image: Path, expiry_s: int) -> tuple[str, SessionInfo]:
    """Move a file or folder into a new session; its id, which nobody can guess. HTTPException 429 at their limit."""
    _make_room(sessions)
    made: tuple[str, SessionInfo] = sessions.add_session(str(image), expiry_s, False, str(uuid4()))
    return made


def _make_room(sessions: Sessions) -> None:
    """End what has expired or is damaged where the limit is reached; HTTPException 429 if it still is."""
    store = Path(sessions.store_path)
    ids = [path.name for path in store.iterdir() if SESSION_ID.fullmatch(path.name)] if store.is_dir() else []
    if len(ids) < MOST_SESSIONS:
        return
    for session_id in ids:
        session = find_session(sessions, session_id, is_used=False)
        if session is None or session.last_access_ts + session.expiry < time.time():
            sessions.remove_session(session_id)
    if sum((store / session_id).is_dir() for session_id in ids) >= MOST_SESSIONS:
        raise answer(
            429,
            f"{MOST_SESSIONS} sessions are open, the most that this server keeps: end one (DELETE /session/ID), or "
            "come back when one has expired",
        )
