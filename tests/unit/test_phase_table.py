"""What is known of a series' phases: which images they are, which of them a SEG names, and how they are found."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lib.datastore.phases import PhaseSurvey, PhaseTable, SeriesPhases
from lib.images.dicom_places import Place, may_hold_phases
from lib.naming import is_image_id, is_series_image, is_uid, phase_id, series_and_phase

AXIAL, SAGITTAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
OBLIQUE = (0.6, 0.8, 0.0, 0.0, 0.0, -1.0)
UID = "1.2.840.5"


def plain(*instances: str) -> frozenset[tuple[str, int]]:
    return frozenset((each, 0) for each in instances)


TWO = SeriesPhases(8, (plain("a", "b", "c", "d"), plain("e", "f", "g", "h")))


def test_an_id_names_a_series_and_a_phase() -> None:
    assert phase_id(UID, 2) == f"{UID}.phase2"
    assert series_and_phase(f"{UID}.phase12") == (UID, 12)
    assert series_and_phase(UID) == (UID, None)
    assert series_and_phase("scan.phase2") == ("scan.phase2", None)
    assert is_image_id(phase_id("1." * 31 + "1", 99))
    good = {text for text in (UID, f"{UID}.phase2") if is_series_image(text)}
    assert good == {UID, f"{UID}.phase2"}
    bad = ("scan", f"{UID}.phase0", f"{UID}.phase", f"{UID}.phase2.nii", "1" * 65, f"{'1' * 65}.phase2", f"{UID}\n", "")
    assert [text for text in bad if is_series_image(text)] == []
    assert (is_uid(UID), is_uid(f"{UID}.phase2")) == (True, False)


@pytest.mark.parametrize(
    ("phases", "others"),
    [
        (SeriesPhases(4), []),
        (TWO, [2]),
        (SeriesPhases(8, TWO.frames, main=2), [1]),
        # One slice that was taken twice is no image.
        (SeriesPhases(5, (plain("a", "b", "c", "d"), plain("e"))), []),
    ],
)
def test_other_phases_than_the_one_that_is_opened_have_ids_of_their_own(
    tmp_path: Path, phases: SeriesPhases, others: list[int]
) -> None:
    table = PhaseTable(tmp_path / "phases.json")
    assert table.images(UID) == [UID]
    table.put(UID, phases)
    assert table.images(UID) == [UID, *(f"{UID}.phase{number}" for number in others)]


def test_a_seg_is_drawn_on_the_phase_whose_slices_it_names(tmp_path: Path) -> None:
    table = PhaseTable(tmp_path / "phases.json")
    assert table.drawn_on(UID, plain("e")) == UID  # nobody knows of phases yet
    table.put(UID, TWO)
    assert table.drawn_on(UID, plain("b", "c")) == UID
    assert table.drawn_on(UID, plain("g")) == f"{UID}.phase2"
    assert table.drawn_on(UID, {("g", 1)}) == f"{UID}.phase2"  # some name the only frame of a plain file
    assert table.drawn_on(UID, plain("a", "g", "h")) == f"{UID}.phase2"
    assert table.drawn_on(UID, plain("a", "g")) is None
    assert table.drawn_on(UID, plain("x")) is None
    assert table.drawn_on(UID, ()) is None
    frames = (frozenset({("one", 1), ("one", 2)}), frozenset({("one", 3), ("one", 4)}))
    table.put(UID, SeriesPhases(1, frames, main=2))
    assert table.drawn_on(UID, {("one", 4)}) == UID
    assert table.drawn_on(UID, {("one", 1)}) == f"{UID}.phase1"
    assert table.drawn_on(UID, plain("one")) is None  # the file, of which all phases are


def test_what_was_found_is_known_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "phases.json"
    PhaseTable(path).put(UID, TWO)
    assert PhaseTable(path).get(UID) == TWO
    for damaged in ("{", "[]", json.dumps({UID: {"n": 8}})):
        path.write_text(damaged)
        assert PhaseTable(path).get(UID) is None


@pytest.mark.parametrize(
    ("places", "may"),
    [
        ([], False),
        ([Place(1, (0, 0, z), AXIAL) for z in (0, 1, 2)], False),
        ([Place(1, (0, 0, z), AXIAL) for z in (0, 1, 0)], True),
        ([Place(1, (0, 0, 0), AXIAL), Place(1, (5, 5, 0), AXIAL)], True),  # at one height, a little beside
        ([Place(1, (0, 0, 0), AXIAL), Place(1, (0, 0, 0), SAGITTAL)], False),
        ([Place(1, (-0.8 * z, 0.6 * z, 7.0), OBLIQUE) for z in (0, 1, 2, 3)], False),
        ([Place(1, (-0.8 * z, 0.6 * z, 7.0), OBLIQUE) for z in (0, 1, 2, 1)], True),
        ([Place(1), Place(1)], False),
        ([Place(40)], True),
    ],
)
def test_headers_are_asked_for_where_slices_share_a_place(places: list[Place], may: bool) -> None:
    assert may_hold_phases(places) == may


def until(is_so: Callable[[], bool]) -> None:
    limit = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_each_series_is_looked_at_once_and_again_when_it_grew(tmp_path: Path) -> None:
    looked: list[str] = []

    def look(series: str) -> SeriesPhases:
        looked.append(series)
        return SeriesPhases(int(series[1:]))

    table = PhaseTable(tmp_path / "phases.json")
    survey = PhaseSurvey(table, look, (ValueError,), rest_s=0.0)
    for _ in range(3):
        survey.ask([("1.2", 4, "a4"), ("1.3", 5, "b5"), ("1.4", 0, "c6")])
        until(lambda: table.get("1.4") is not None)
    assert looked == ["a4", "b5", "c6"]
    survey.ask([("1.2", 4, "a4"), ("1.3", 7, "b7"), ("1.4", 0, "c6")])
    until(lambda: table.get("1.3") == SeriesPhases(7))
    assert looked == ["a4", "b5", "c6", "b7"]
    until(lambda: (known := PhaseTable(tmp_path / "phases.json").get("1.3")) is not None and known.n_instances == 7)
    survey.stop()


def test_a_series_that_breaks_the_search_keeps_none_of_the_others_from_being_found(tmp_path: Path) -> None:
    def look(series: str) -> SeriesPhases:
        if series == "odd":
            raise ZeroDivisionError
        return TWO

    table = PhaseTable(tmp_path / "phases.json")
    survey = PhaseSurvey(table, look, (ValueError,), rest_s=0.0)
    survey.ask([("1.2", 4, "odd"), (UID, 8, "series")])
    until(lambda: table.get(UID) == TWO)
    assert table.images("1.2") == ["1.2"]
    survey.stop()


def test_an_archive_that_is_away_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib.datastore.phases.AWAY_S", 0.05)
    table, is_away = PhaseTable(tmp_path / "phases.json"), threading.Event()
    is_away.set()

    def look(series: str) -> SeriesPhases:
        if is_away.is_set():
            raise ValueError(series)
        return TWO

    survey = PhaseSurvey(table, look, (ValueError,), rest_s=0.0)
    survey.ask([(UID, 8, "series")])
    time.sleep(0.1)
    assert table.get(UID) is None
    is_away.clear()
    survey.ask([(UID, 8, "series")])
    until(lambda: table.get(UID) == TWO)
    survey.stop()
