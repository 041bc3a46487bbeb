"""Sessions on disk: how many there may be, and what ends them."""

import json
from pathlib import Path

import pytest
from fastapi import HTTPException
from monailabel.utils.sessions import Sessions

from lib.serving.sessions import MOST_SESSIONS, find_session, keep_session


def opened(sessions: Sessions, folder: Path) -> str:
    image = folder / "image.nii.gz"
    image.write_bytes(b"an image")
    return keep_session(sessions, image, 3600)[0]


def test_there_are_no_more_sessions_than_the_limit_and_expired_ones_make_room(tmp_path: Path):
    sessions = Sessions(str(tmp_path / "sessions"), 3600)
    ids = [opened(sessions, tmp_path) for _ in range(MOST_SESSIONS)]
    with pytest.raises(HTTPException) as refused:
        opened(sessions, tmp_path)
    assert refused.value.status_code == 429
    assert "64 sessions are open" in str(refused.value.detail)
    assert all(find_session(sessions, one, is_used=False) for one in ids)  # nobody's was taken

    about = tmp_path / "sessions" / ids[5] / "meta.info"
    about.write_text(json.dumps({**json.loads(about.read_text()), "last_access_ts": 1}))
    sessions = Sessions(str(tmp_path / "sessions"), 3600)  # the server was started again
    new = opened(sessions, tmp_path)
    assert find_session(sessions, new) is not None
    assert find_session(sessions, ids[5]) is None
    assert find_session(sessions, ids[6]) is not None


def test_a_session_that_is_ended_makes_room(tmp_path: Path):
    sessions = Sessions(str(tmp_path / "sessions"), 3600)
    ids = [opened(sessions, tmp_path) for _ in range(MOST_SESSIONS)]
    sessions.remove_session(ids[0])
    opened(sessions, tmp_path)
