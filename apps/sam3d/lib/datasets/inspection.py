"""Every case of a set read once before anything is trained on it: what cannot be used is refused by name.

What was found is kept beside the run, by the files' sizes and times, so that a resumed run, and the other processes of
a team, need not read hundreds of volumes again.
"""

from __future__ import annotations

import fcntl
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.datasets.labelled_cases import read_pair
from lib.errors import LabelError, Sam3DError, TrainingError, VolumeError
from lib.images.preprocess import looks_like_hounsfield
from lib.images.volumes import file_stamp
from lib.learning.cases import Case
from lib.network.weights import write_atomically

logger = logging.getLogger(__name__)

FORMAT = 2
FILE, LOCK = "cases.json", ".cases.lock"
# Of a case's target, so many evenly spread percentiles of the voxel values are kept.
QUANTILES = 201
MOST_NAMED = 3


@dataclass(frozen=True)
class CaseFacts:
    """What is known of a case: voxels and ml of the target, some of its values (QUANTILES,), none where it is absent,
    and whether the image's values are those of CT."""

    name: str
    voxels: int
    ml: float
    values: tuple[float, ...]
    is_hounsfield: bool


def inspected(
    cases: Sequence[Case], target: int, value_names: Mapping[int, str], missing: Sequence[str], folder: Path
) -> dict[str, CaseFacts]:
    """Facts of all cases by name. `missing` are halves of cases, known without opening a file; where there are any, or
    a case cannot be used, TrainingError names them and says why. Processes that share `folder` wait for one another."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = _known(folder / FILE)
        faults = [f"{name} has a label or an image only" for name in missing]
        facts: dict[str, CaseFacts] = {}
        kept: dict[str, Any] = {}
        for number, case in enumerate(cases, start=1):
            key = json.dumps([FORMAT, target, sorted(value_names), file_stamp(case.image), file_stamp(case.label)])
            try:
                facts[case.id] = known[key] if key in known else facts_of(case, target, value_names)
                kept[key] = asdict(facts[case.id])
            except Sam3DError as error:
                faults.append(f"{case.id}: {error}")
            if number % 20 == 0:
                logger.info("looked at %d of %d cases", number, len(cases))
        if set(kept) != set(known):
            write_atomically(folder / FILE, (json.dumps(kept) + "\n").encode())
    if faults:
        more = f"; and {len(faults) - MOST_NAMED} more" if len(faults) > MOST_NAMED else ""
        raise TrainingError(
            f"{len(faults)} of {len(cases)} cases cannot be used: {'; '.join(faults[:MOST_NAMED])}{more}: mend them, "
            "or take their files away"
        )
    return facts


def facts_of(case: Case, target: int, value_names: Mapping[int, str]) -> CaseFacts:
    """Reads a case. Raises VolumeError for an image that is missing or cut short, LabelError for a label that is, or
    that lies beside its image or holds a value without a name."""
    for path in (case.image, case.label):
        if not path.is_file():
            raise VolumeError(f"{path.name} is not there: copy or download it again")
    volume, label_map = read_pair(case.image, case.label)
    _check_values(label_map, value_names, case.label.name)
    mask = label_map == target
    voxels = int(np.count_nonzero(mask))
    values = np.percentile(volume.array[mask], np.linspace(0, 100, QUANTILES)) if voxels else np.zeros(0)
    ml = voxels * float(np.prod(volume.spacing)) / 1000
    return CaseFacts(case.id, voxels, ml, tuple(float(value) for value in values), looks_like_hounsfield(volume))


def _check_values(label_map: NDArray[Any], value_names: Mapping[int, str], file: str) -> None:
    """LabelError for values that a map of names, where there is one, lacks."""
    nameless = [int(value) for value in np.unique(label_map) if value and int(value) not in value_names]
    if value_names and nameless:
        known = ", ".join(f"{value} is {name}" for value, name in sorted(value_names.items()) if value)
        raise LabelError(f"{file} holds the value {nameless[0]}, which has no name ({known}): name it in dataset.json")


def _known(path: Path) -> dict[str, CaseFacts]:
    """What an earlier look found; nothing where that was cut short."""
    try:
        content = json.loads(path.read_bytes())
        return {key: CaseFacts(**{**each, "values": tuple(each["values"])}) for key, each in content.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}
