"""Which cases train and which validate: decided when a case is first seen, written down, never changed.

A case that has trained once would flatter every later measurement, so the record outlives the cases it names.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from hashlib import sha1
from pathlib import Path
from typing import NamedTuple

from lib.errors import SplitError
from lib.naming import series_and_phase
from lib.network.weights import write_atomically

FORMAT = 1
TRAINING, VALIDATION = "training", "validation"
# One case in so many validates; with fewer than this all of them train.
CASES_PER_VALIDATION = 4


class Split(NamedTuple):
    """Ids of the cases at hand, each list sorted."""

    training: list[str]
    validation: list[str]

    @property
    def is_thin(self) -> bool:
        """No case is kept aside: what is measured was also trained on."""
        return not self.validation


class SplitFile:
    """The record at a path. One process at a time writes it; a reader finds the old record or the new one, whole."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def assign(self, ids: Iterable[str]) -> Split:
        """The split of these cases; those never seen before are assigned now, and the record written first.

        One in four of the cases at hand validates, chosen among the new ones by the hash of their ids, so that it
        neither depends on their order nor on chance. The phases of a series, which are much alike, count as one and go
        to one side. Raises SplitError when the record is damaged.
        """
        record = self._read()
        present = set(ids)
        fresh = present - set(record)
        sides = {_series(case): side for case, side in sorted(record.items())}
        series = set(map(_series, present))
        n_validating = sum(sides.get(each) == VALIDATION for each in series)
        n_wanted = max(0, len(series) // CASES_PER_VALIDATION - n_validating)
        new = sorted(series - set(sides), key=_rank)
        sides |= {each: VALIDATION if place < n_wanted else TRAINING for place, each in enumerate(new)}
        record |= {case: sides[_series(case)] for case in fresh}
        if fresh:
            content = {"format": FORMAT, "cases": record}
            write_atomically(self.path, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())
        training, validation = (
            sorted(case for case in present if record[case] == side) for side in (TRAINING, VALIDATION)
        )
        return Split(training, validation)

    def _read(self) -> dict[str, str]:
        try:
            content = json.loads(self.path.read_bytes())
            record = content["cases"]
            is_sound = content["format"] == FORMAT and set(record.values()) <= {TRAINING, VALIDATION}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            is_sound = False
        if not is_sound:
            # Starting over would let cases that have trained validate, and nobody would notice.
            raise SplitError(
                f"{self.path.name} is damaged, so nobody knows which cases have trained; restore it from a backup, or "
                "delete it together with every fine-tuned version"
            )
        return {str(case): str(side) for case, side in record.items()}


def _series(case: str) -> str:
    return series_and_phase(case)[0]


def _rank(case: str) -> str:
    return sha1(case.encode(errors="surrogatepass"), usedforsecurity=False).hexdigest()
