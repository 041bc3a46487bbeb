"""What the server keeps of a label: its newest version, which training reads, and the card beside it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from series import Case
from serving import Server, read_mask


def newest_version(server: Server, case: Case) -> tuple[dict[str, NDArray[np.bool_]], dict[str, Any]]:
    """Mask (I, J, K) by label of a case's newest label, and its card: who, when, which clicks, which model version."""
    cards = sorted((server.folder / "home").rglob(f"label_versions/{case.series}/final/*.json"))
    assert cards, f"no label of {case.series} is stored"
    card = json.loads(cards[-1].read_text())
    values = read_mask(cards[-1].with_name(card["file"]).read_bytes())
    return {segment["name"]: values == segment["idx"] for segment in card["info"]["label_info"]}, card
