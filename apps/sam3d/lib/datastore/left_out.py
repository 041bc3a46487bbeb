"""What a studies folder holds beside its cases, in words: one line for the log, and a short table for /info/."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

# More names than this help nobody.
NAMED = 20
NAMED_IN_LOG = 5


def listed_briefly(left_out: Sequence[tuple[str, str]]) -> str:
    """How many files and folders are no cases, why, and the first of each kind: one line."""
    kinds = []
    for reason, count in Counter(reason for _, reason in left_out).most_common():
        named = [name for name, why in left_out if why == reason][:NAMED_IN_LOG]
        more = ", ..." if count > len(named) else ""
        kinds.append(f"{count} ({reason}): {', '.join(map(repr, named))}{more}")
    return f"{len(left_out)} of the folder's files or folders are no cases and are left out: {'; '.join(kinds)}"


def shown_left_out(left_out: Sequence[tuple[str, str]], absent: Sequence[str]) -> dict[str, Any]:
    """The same as a table, with the images that labels were drawn on and that are not here."""
    return {
        "left_out": _counted([f"{name}: {reason}" for name, reason in left_out]),
        "labels_without_image": _counted(absent),
    }


def _counted(names: Sequence[str]) -> dict[str, Any]:
    return {"count": len(names), "names": list(names[:NAMED])}
