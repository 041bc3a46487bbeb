"""Which cases of a set train, choose the best weights, and test: decided once, and written before the first step.

The members of the published folds are not described, only their numbers; where a set has as many cases, so have its
parts here (docs/decisions/0019).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha1
from pathlib import Path

from lib.datasets.inspection import CaseFacts
from lib.datasets.known import Counts
from lib.errors import SplitError
from lib.network.weights import write_atomically

FORMAT = 1
FILE = "splits.json"
PARTS = ("training", "validation", "test")
VALIDATION_SHARE, TEST_SHARE = 0.1, 0.2


@dataclass(frozen=True)
class DatasetSplit:
    """Names of cases, each list sorted; `without_target` are of no use to any part. `rule` says how they were drawn."""

    training: list[str]
    validation: list[str]
    test: list[str]
    without_target: list[str]
    rule: str

    def part(self, name: str) -> list[str]:
        return {"training": self.training, "validation": self.validation, "test": self.test}[name]

    def counts(self) -> str:
        return ", ".join(f"{len(self.part(name))} {name}" for name in PARTS)


def new_split(
    facts: Mapping[str, CaseFacts], given: Mapping[str, str], published: Counts | None, seed: int
) -> DatasetSplit:
    """A split of the cases that have the target: as their datalist says where it does, else by the hash of seed and
    name, with the published numbers where those fit. Raises SplitError where a part would be empty."""
    useful = sorted(name for name, found in facts.items() if found.voxels)
    others = sorted(set(facts) - set(useful))
    if given:
        parts = {name: [case for case in useful if given[case] == name] for name in PARTS}
        rule = "as the datalist says"
    else:
        n_validation, n_test, rule = _numbers(len(useful), published)
        drawn = sorted(useful, key=lambda name: sha1(f"{seed}/{name}".encode(), usedforsecurity=False).hexdigest())
        test, validation = drawn[:n_test], drawn[n_test : n_test + n_validation]
        parts = {"test": test, "validation": validation, "training": drawn[n_test + n_validation :]}
        rule = f"{rule}, drawn with seed {seed}"
    split = _split(parts, others, rule)
    _refuse_empty(split)
    return split


def kept_split(path: Path, facts: Mapping[str, CaseFacts]) -> DatasetSplit:
    """The split of a file. Raises SplitError where that is damaged, or names cases that are not there."""
    split = read_split(path)
    named = {case for name in PARTS for case in split.part(name)}
    if strangers := sorted(named - set(facts)):
        raise SplitError(f"{path.name} names {_some(strangers)}, which the data lacks: name the data it was made for")
    useful = {name for name, found in facts.items() if found.voxels}
    parts = {name: [case for case in split.part(name) if case in useful] for name in PARTS}
    split = _split(parts, sorted(named - useful), split.rule)
    _refuse_empty(split)
    return split


def read_split(path: Path) -> DatasetSplit:
    """A split as it was written. Raises SplitError for anything else."""
    try:
        content = json.loads(path.read_bytes())
        lists = {name: [str(case) for case in content[name]] for name in (*PARTS, "without_target")}
        is_sound = content["format"] == FORMAT
        rule = str(content["rule"])
    except FileNotFoundError:
        raise SplitError(f"there is no file {path.name}: name one that pretrain wrote, or leave it away") from None
    except (OSError, ValueError, KeyError, TypeError):
        is_sound = False
    if not is_sound or len({case for cases in lists.values() for case in cases}) < sum(map(len, lists.values())):
        raise SplitError(f"{path.name} is no split that pretrain wrote, or names a case twice: restore it")
    return _split(lists, lists["without_target"], rule)


def write_split(split: DatasetSplit, path: Path) -> None:
    content = {"format": FORMAT, **asdict(split)}
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())


def _split(parts: Mapping[str, Sequence[str]], without_target: Sequence[str], rule: str) -> DatasetSplit:
    training, validation, test = (sorted(parts[name]) for name in PARTS)
    return DatasetSplit(training, validation, test, sorted(without_target), rule)


def _numbers(count: int, published: Counts | None) -> tuple[int, int, str]:
    """Validation and test cases of so many, and the rule's name."""
    if published is not None and sum(published) == count:
        return published[1], published[2], "the numbers of the published fold 0"
    return max(1, round(VALIDATION_SHARE * count)), max(1, round(TEST_SHARE * count)), "70, 10 and 20 of 100"


def _refuse_empty(split: DatasetSplit) -> None:
    empty = [name for name in PARTS[:2] if not split.part(name)]
    if empty:
        left_out = f" ({len(split.without_target)} cases have no voxel of it)" if split.without_target else ""
        raise SplitError(
            f"no case with the target is left for {' and '.join(empty)}{left_out}: add labelled cases, or name another "
            "--target"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
