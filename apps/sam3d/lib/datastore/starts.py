"""What the annotation of an image can start from: versions of its labels, and DICOM SEGs that are no labels here."""

from __future__ import annotations

from dataclasses import dataclass

from lib.datastore.history import Version
from lib.datastore.intake import value_names


@dataclass(frozen=True)
class Start:
    """A mask that there is of an image: a `version` of a label, or the SEG series `seg` of the archive.

    `labels` are the names that it holds, as far as that is known without reading it; `when` is UTC, ISO 8601.
    """

    labels: tuple[str, ...]
    when: str
    version: Version | None = None
    seg: str = ""


def start_of(version: Version) -> Start:
    """A version as one to start from."""
    return Start(tuple(value_names(version.info).values()), version.when, version)
