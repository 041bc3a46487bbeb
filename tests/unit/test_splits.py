"""A case keeps its side for ever, and one in four validates from the fourth on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.errors import SplitError
from lib.learning.splits import SplitFile

IDS = [f"case_{number}" for number in range(16)]


@pytest.fixture
def record(tmp_path: Path) -> SplitFile:
    return SplitFile(tmp_path / "split.json")


@pytest.mark.parametrize(("count", "validating"), [(0, 0), (1, 0), (3, 0), (4, 1), (7, 1), (8, 2), (16, 4)])
def test_one_in_four_validates(record: SplitFile, count: int, validating: int) -> None:
    split = record.assign(IDS[:count])
    training, validation = split
    assert len(validation) == validating
    assert sorted(training + validation) == sorted(IDS[:count])
    assert split.is_thin == (validating == 0)


def test_cases_that_come_one_by_one_are_shared_out_alike(record: SplitFile) -> None:
    counts = [len(record.assign(IDS[:count]).validation) for count in range(1, 17)]
    assert counts == [count // 4 for count in range(1, 17)]


def test_the_choice_depends_on_the_ids_alone(tmp_path: Path) -> None:
    split = SplitFile(tmp_path / "a.json").assign(IDS)
    assert SplitFile(tmp_path / "b.json").assign(reversed(IDS)) == split
    least = sorted(IDS, key=lambda case: hashlib.sha1(case.encode(), usedforsecurity=False).digest())[:4]
    assert split.validation == sorted(least)


def test_a_fourth_case_validates_and_those_that_trained_do_not(record: SplitFile) -> None:
    first = record.assign(IDS[:3])
    assert first.is_thin
    assert record.assign(IDS[:4]) == (sorted(IDS[:3]), [IDS[3]])


def test_phases_of_a_series_are_on_one_side_and_count_once(record: SplitFile) -> None:
    series = [f"1.2.840.{number}" for number in range(8)]
    both = [image for uid in series for image in (uid, f"{uid}.phase2")]
    split = record.assign(both)
    assert len(split.validation) == 4
    assert {image.removesuffix(".phase2") for image in split.validation}.isdisjoint(
        image.removesuffix(".phase2") for image in split.training
    )
    later = [f"{uid}.phase3" for uid in series]  # found after the others have trained
    grown = record.assign([*both, *later])
    assert [image for image in later if image in grown.validation] == [
        f"{uid}.phase3" for uid in series if uid in split.validation
    ]


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(st.sets(st.sampled_from(IDS)), min_size=1, max_size=8))
def test_no_case_ever_changes_its_side(tmp_path_factory: pytest.TempPathFactory, steps: list[set[str]]) -> None:
    path = tmp_path_factory.mktemp("split") / "split.json"
    sides: dict[str, str] = {}
    for present in steps:
        split = SplitFile(path).assign(present)
        assert {*split.training, *split.validation} == present
        for side, ids in split._asdict().items():
            for case in ids:
                assert sides.setdefault(case, side) == side


def test_removed_cases_are_remembered(record: SplitFile) -> None:
    before = record.assign(IDS[:8])
    assert not set(record.assign(before.training).validation)
    assert record.assign(IDS[:8]) == before


def test_a_removed_validation_case_is_replaced_by_a_new_one(record: SplitFile) -> None:
    training, _ = record.assign(IDS[:8])
    assert record.assign(training).is_thin
    later = record.assign([*training, "new"])
    assert later.validation == ["new"]


def test_what_was_written_is_whole_and_only_what_changed_is_written(record: SplitFile) -> None:
    record.assign(IDS[:5])
    content = json.loads(record.path.read_text())
    assert content["format"] == 1
    assert set(content["cases"]) == set(IDS[:5])
    assert [path.name for path in record.path.parent.iterdir()] == ["split.json"]
    stamp = record.path.stat().st_mtime_ns
    record.assign(IDS[:5])
    assert record.path.stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"format": 1}',
        b'{"format": 2, "cases": {}}',
        b'{"format": 1, "cases": ["case_1"]}',
        b'{"format": 1, "cases": {"case_1": "both"}}',
        b'{"format": 1, "cases": {"case_1": ["training"]}}',
    ],
)
def test_a_damaged_record_stops_everything_and_is_left_alone(record: SplitFile, content: bytes) -> None:
    record.path.write_bytes(content)
    with pytest.raises(SplitError, match=r"split\.json is damaged.*restore it"):
        record.assign(IDS)
    assert record.path.read_bytes() == content


def test_a_record_that_cannot_be_read_is_not_taken_for_a_missing_one(record: SplitFile) -> None:
    record.path.mkdir()
    with pytest.raises(SplitError):
        record.assign(IDS)
