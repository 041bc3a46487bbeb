"""The audit log: who read, stored, deleted or trained what, and when; one JSON object a line.

Never a token, never a query, for a search for a patient is one, never a file's name that a client sent.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime, timezone
from logging.handlers import WatchedFileHandler
from pathlib import Path

from starlette.datastructures import QueryParams

from lib.naming import is_image_id
from lib.serving.served import Served
from lib.serving.visitors import Visitor

logger = logging.getLogger(__name__)

# The parts of a path or query that name what was asked for.
NAMING = ("image", "id", "label", "tag", "seg", "model", "strategy", "method", "session_id")
UIDS = re.compile(r"(?:^|/)(studies|series)/([0-9.]{1,64})")
# A viewer fetches a series instance by instance: one line for each of these stretches is enough.
REPEAT_S = 600.0
REMEMBERED = 10_000


class AuditLog:
    """Appends to a file; one that is moved away, as log rotation does, is begun anew."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        self._file = WatchedFileHandler(path, encoding="utf-8")
        self._file.setFormatter(logging.Formatter("%(message)s"))
        self._lock = threading.Lock()
        self._seen: OrderedDict[tuple[object, ...], float] = OrderedDict()

    def note(self, route: Served, visitor: Visitor, address: str, asked: Mapping[str, str], status: int) -> None:
        """What somebody did, and the status of the answer; a part of an archive once in a while only."""
        if not route.deed:
            return
        line = {"who": visitor.name, "from": address, "deed": route.deed, **asked, "status": status}
        if route.deed == "read archive" and self._is_repeated(tuple(line.values())):
            return
        line = {"when": datetime.now(timezone.utc).isoformat(timespec="milliseconds"), **line}
        text = json.dumps(line, ensure_ascii=False)
        self._file.handle(logging.LogRecord("audit", logging.INFO, "", 0, text, None, None))

    def _is_repeated(self, key: tuple[object, ...]) -> bool:
        now = time.monotonic()
        with self._lock:
            last = self._seen.get(key)
            if last is not None and now - last < REPEAT_S:
                return True
            self._seen[key] = now
            self._seen.move_to_end(key)
            while len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)
        return False


def asked_for(parts: Mapping[str, str], query: QueryParams) -> dict[str, str]:
    """What a request names, where that can be a name at all."""
    named = {key: value for key in NAMING if (value := parts.get(key) or query.get(key)) and is_image_id(value)}
    return named | {f"{kind} UID": uid for kind, uid in UIDS.findall(parts.get("path", ""))}
