"""The routes that we serve: for each who may use it, what its body may be, and what the log calls it.

What is not in this table is closed: whatever the host, or a release of it, brings along.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Any

from starlette.routing import compile_path

from lib.serving.visitors import Role


class Takes(Enum):
    """What a body may be."""

    NOTHING = "nothing"
    WORDS = "a form of short fields"
    JSON = "a JSON object"
    FILES = "a form with files, or instances for an archive"


@dataclass(frozen=True)
class Served:
    """One route. `deed` is what the log calls it; empty for what tells nobody's data."""

    method: str
    path: str
    role: Role
    takes: Takes = Takes.NOTHING
    deed: str = ""

    @property
    def pattern(self) -> re.Pattern[str]:
        return compile_path(self.path)[0]


U, A, R, ADMIN, PUBLIC = Role.USER, Role.ANNOTATOR, Role.REVIEWER, Role.ADMIN, Role.PUBLIC

ROUTES = (
    Served("GET", "/", PUBLIC),
    Served("GET", "/favicon.ico", PUBLIC),
    Served("GET", "/login", PUBLIC),
    Served("GET", "/login/callback", PUBLIC, deed="log in"),
    Served("POST", "/login", PUBLIC, Takes.WORDS, "log in"),
    Served("POST", "/logout", PUBLIC, Takes.WORDS, "log out"),
    # By these Slicer finds out that there is a login, and logs in.
    Served("GET", "/auth/", PUBLIC),
    Served("POST", "/auth/token", PUBLIC, Takes.WORDS, "log in"),
    Served("GET", "/auth/token/valid", U),
    Served("GET", "/openapi.json", U),
    Served("GET", "/info/", U),
    Served("GET", "/logs/", ADMIN),
    Served("POST", "/infer/{model}", U, Takes.FILES, "infer"),
    Served("GET", "/batch/infer", U),
    Served("POST", "/batch/infer/{model}", ADMIN, Takes.JSON, "infer in batches"),
    Served("DELETE", "/batch/infer", ADMIN, deed="stop batches"),
    Served("GET", "/train/", U),
    Served("POST", "/train/", ADMIN, Takes.JSON, "train"),
    Served("POST", "/train/{model}", ADMIN, Takes.JSON, "train"),
    Served("DELETE", "/train/", ADMIN, deed="stop training"),
    Served("POST", "/activelearning/{strategy}", U, Takes.JSON, "next sample"),
    Served("GET", "/scoring/", U),
    Served("GET", "/scoring/progress", U),
    Served("POST", "/scoring/", A, Takes.JSON, "score"),
    Served("POST", "/scoring/{method}", A, Takes.JSON, "score"),
    Served("DELETE", "/scoring/", A, deed="stop scoring"),
    Served("GET", "/datastore/", U, deed="list"),
    # Slicer uploads images by this deprecated form of the next one.
    Served("PUT", "/datastore/", A, Takes.FILES, "store image"),
    Served("PUT", "/datastore/image", A, Takes.FILES, "store image"),
    Served("GET", "/datastore/image", U, deed="read image"),
    Served("HEAD", "/datastore/image", U),
    Served("DELETE", "/datastore/image", ADMIN, deed="delete image"),
    Served("GET", "/datastore/image/info", U),
    Served("PUT", "/datastore/image/info", A, Takes.WORDS, "store image info"),
    Served("PUT", "/datastore/label", A, Takes.FILES, "store label"),
    Served("GET", "/datastore/label", U, deed="read label"),
    Served("HEAD", "/datastore/label", U),
    Served("DELETE", "/datastore/label", ADMIN, deed="delete label"),
    Served("GET", "/datastore/label/info", U),
    Served("PUT", "/datastore/label/info", A, Takes.WORDS, "store label info"),
    Served("GET", "/datastore/dataset", A, deed="read dataset"),
    Served("GET", "/cases/", U, deed="list cases"),
    Served("GET", "/cases/list", U, deed="list cases"),
    Served("GET", "/cases/view", U),
    Served("GET", "/cases/starts", U, deed="list labels"),
    Served("GET", "/cases/download", U, deed="download label"),
    # A page says so every few seconds.
    Served("POST", "/cases/open", U, Takes.JSON),
    Served("POST", "/cases/leave", U, Takes.JSON),
    Served("POST", "/cases/approve", R, Takes.JSON, "approve label"),
    Served("POST", "/cases/send_back", R, Takes.JSON, "send label back"),
    Served("PUT", "/session/", U, Takes.FILES, "open session"),
    Served("GET", "/session/{session_id}", U, deed="read session"),
    Served("DELETE", "/session/{session_id}", U, deed="end session"),
    Served("GET", "/ohif/{path:path}", U),
    Served("GET", "/proxy/dicom/{path:path}", U, deed="read archive"),
    Served("POST", "/proxy/dicom/{path:path}", A, Takes.FILES, "store in archive"),
)
PATTERNS = tuple((route, route.pattern) for route in ROUTES)


def served(method: str, path: str) -> tuple[Served, dict[str, Any]] | None:
    """The route of a request, and the parts of its path; None for what is closed."""
    for route, pattern in PATTERNS:
        if route.method == method and (match := pattern.fullmatch(path)):
            return route, match.groupdict()
    return None


def methods_of(path: str) -> list[str]:
    """What can be done with a path."""
    return sorted({route.method for route, pattern in PATTERNS if pattern.fullmatch(path)})
