"""Groups of real cases to practise on, kept in memory once they are opened."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lib.datasets.labelled_cases import read_pair
from lib.errors import TrainingError
from lib.learning.case_subjects import draw_subject, separate_parts
from lib.learning.made_volumes import ShownVolume
from lib.learning.subjects import Subject
from lib.settings import PRESETS

# Voxels as low as this are on CT alone.
AIR_HU = -500


@dataclass(frozen=True)
class CaseGroup:
    """Real cases of one kind, pairs of image and label files, and how often one of them is drawn. `is_sought`: whether
    label 1 is what the automatic mode should find."""

    name: str
    share: float
    cases: tuple[tuple[Path, Path], ...]
    is_sought: bool = True


def read_groups(path: Path, folder: Path | None = None) -> list[CaseGroup]:
    """Groups from a JSON file: a list of {"name", "share", "is_sought", "cases": [[image, label], ...]}, paths
    below `folder`, by default the file's own. Raises TrainingError for anything else."""
    folder = folder or path.parent
    try:
        values: list[dict[str, Any]] = json.loads(path.read_text())
        groups = [
            CaseGroup(
                str(value["name"]),
                float(value["share"]),
                tuple((folder / image, folder / label) for image, label in value["cases"]),
                bool(value.get("is_sought", True)),
            )
            for value in values
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{path.name} is no list of case groups ({error!r}): give each a name, a share and cases, pairs of files"
        ) from error
    missing = [str(file) for group in groups for pair in group.cases for file in pair if not file.is_file()]
    if missing or not all(group.cases and group.share > 0 for group in groups):
        raise TrainingError(f"{path.name} names no cases, no share or files that are not there: {missing[:3]}")
    return groups


class RealCases:
    """Labelled cases on disk; opened when first drawn and kept in memory."""

    def __init__(self, groups: Sequence[CaseGroup]) -> None:
        self._groups = groups
        self._shares = np.array([group.share for group in groups]) / sum(group.share for group in groups)
        self._opened: dict[Path, tuple[ShownVolume, list[Subject]]] = {}

    def draw(self, number: int, rng: np.random.Generator) -> Subject | None:
        group = self._groups[int(rng.choice(len(self._groups), p=self._shares))]
        image, label = group.cases[int(rng.integers(len(group.cases)))]
        if image not in self._opened:
            self._opened[image] = _open_case(image, label, group.is_sought)
        shown, subjects = self._opened[image]
        if not subjects:
            return None
        subject = draw_subject(subjects, rng)
        subject.intensity = shown.intensity(rng)
        return subject


def _open_case(image: Path, label: Path, is_sought: bool) -> tuple[ShownVolume, list[Subject]]:
    volume, label_map = read_pair(image, label)
    subjects = [
        Subject(volume, PRESETS["ct"], part, is_sought=is_sought and value == 1)
        for value in np.unique(label_map[label_map > 0])
        for part in separate_parts(label_map == value)
    ]
    return ShownVolume(volume, bool(volume.array.min() < AIR_HU), lambda rng: None), subjects
