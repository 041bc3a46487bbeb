"""Orders: what is asked of a worker, in a few hundred bytes of JSON. Images go by reference, never by their voxels.

An order names its work, which is one of a few that every worker knows; no code travels in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any

from lib.errors import ClusterError
from lib.naming import is_uid

# An order as text is never longer.
LIMIT_BYTES = 1024


@dataclass(frozen=True)
class ImageReference:
    """An image that another machine can open: `path` below the studies' root, or `series`, the UID of one in the
    DICOMweb archive at the URL `archive`, of which `phase` may name one phase."""

    path: str = ""
    series: str = ""
    archive: str = ""
    phase: int | None = None

    def __post_init__(self) -> None:
        if bool(self.path) == bool(self.series):
            raise ClusterError("a reference names either a path or a series of an archive")
        parts = PurePosixPath(self.path).parts
        if self.path and (self.path.startswith("/") or ".." in parts):
            raise ClusterError(f"the reference {self.path[:80]!r} leaves the folder of studies")
        if self.series and not (is_uid(self.series) and self.archive.startswith(("http://", "https://"))):
            raise ClusterError(f"the reference to series {self.series[:80]!r} at {self.archive[:80]!r} cannot be one")

    def __str__(self) -> str:
        return self.path or f"series {self.series}"


@dataclass(frozen=True)
class Order:
    """One piece of work: the same `key`, the same result. `settings` are plain values (str, numbers, lists, dicts)."""

    work: str
    key: str
    image: ImageReference | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def as_text(self) -> str:
        """The order as it travels; ClusterError for one that is too long."""
        values = asdict(self)
        values["image"] = {name: value for name, value in (values["image"] or {}).items() if value}
        text = json.dumps(values, separators=(",", ":"))
        if len(text.encode()) > LIMIT_BYTES:
            raise ClusterError(f"the order about {self.image or self.key} is longer than {LIMIT_BYTES} bytes")
        return text

    @property
    def is_short(self) -> bool:
        """Whether it can travel; a path of many long names may be too long."""
        try:
            return bool(self.as_text())
        except ClusterError:
            return False

    @classmethod
    def from_text(cls, text: str) -> Order:
        """The order that was written; ClusterError for a text that is none."""
        try:
            values = json.loads(text)
            image = values.pop("image")
            return cls(image=ImageReference(**image) if image else None, **values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ClusterError(f"an order cannot be read: {error}") from error


@dataclass(frozen=True)
class Failure:
    """Why an order has no result. `is_lasting`: it would fail again, wherever it is carried out."""

    sentence: str
    is_lasting: bool = False


# What an order comes to: plain values, or why there are none.
Outcome = Any
