"""A path for each route of the server, which asks it and lets nothing long begin."""

from __future__ import annotations

import re

from lib.serving.served import Served
from lib.serving.visitors import Role


def path_for(route: Served) -> str:
    """The route's path with words for its parts; trainings and batches are asked of a model that there is not."""
    path = re.sub("[{}]", "", route.path.replace("{path:path}", ""))
    if route.role == Role.ADMIN and route.path.startswith(("/train", "/batch")) and route.method == "POST":
        return f"{path.rstrip('/')}/nobody" if "{" not in route.path else path
    return path
