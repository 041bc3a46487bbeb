"""What the server keeps of a label: its newest version, which training reads, and the card beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from series import Case
from serving import Server, read_mask

Stored = tuple[dict[str, NDArray[np.bool_]], dict[str, Any]]


def newest_version(server: Server, case: Case) -> Stored:
    """Mask (I, J, K) by label of a case's newest label, and its card: who, when, which clicks, which model version."""
    found = versions(server, case)
    assert found, f"no label of {case.series} is stored"
    return found[-1]


def versions(server: Server, case: Case) -> list[Stored]:
    """The same of each of a case's labels, the newest last."""
    place = server.studies if isinstance(server.studies, Path) else server.folder / "home"
    found = []
    for path in sorted(place.rglob(f"label_versions/{case.series}/final/*.json")):
        card = json.loads(path.read_text())
        values = read_mask(path.with_name(card["file"]).read_bytes())
        found.append(({each["name"]: values == each["idx"] for each in card["info"]["label_info"]}, card))
    return found
