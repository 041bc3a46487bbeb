"""What a further click, a click less, another label and no click at all do to what is on the screen."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pydicom
import pytest
from playwright.sync_api import Route, expect

from archive import store
from series import Case, Layout, write_case
from viewer import Viewer


@pytest.fixture
def case(cases: dict[str, Case]) -> Case:
    return cases["ascending"]


@pytest.fixture
def lesion_clicked(viewer: Viewer, case: Case) -> Viewer:
    """A viewer with the mask of one click on the screen."""
    viewer.open(case.study)
    viewer.annotate("lesion", case.lps_mm(case.deepest("lesion")))
    return viewer


def test_a_label_that_was_only_visited_stops_nothing(viewer: Viewer, case: Case) -> None:
    viewer.open(case.study)
    viewer.choose("liver")
    assert viewer.run().status == 200
    viewer.choose("background")
    run = viewer.annotate("lesion", case.lps_mm(case.deepest("lesion")))
    assert {name: len(clicks) for name, clicks in run.params.items() if clicks and name in ("lesion", "liver")} == {
        "lesion": 1
    }
    shown = viewer.labelmap()
    assert shown["lesion"][case.deepest("lesion")]
    assert not shown["liver"].any()
    expect(viewer.run_button).to_be_enabled()


def test_brush_work_is_kept_by_a_run_and_answered(lesion_clicked: Viewer, case: Case) -> None:
    before = lesion_clicked.labelmap()["lesion"]
    lesion_clicked.button("Brush").click()
    lesion_clicked.drag_in("axial", (0.35, 0.55), (0.4, 0.55))
    painted = lesion_clicked.labelmap()["lesion"] & ~before
    assert painted.any()
    assert lesion_clicked.run().status == 200
    after = lesion_clicked.labelmap()["lesion"]
    assert after[painted].all()
    assert after[case.deepest("lesion")]
    # A further click keeps it: what was painted is told of every time, as clicks are.
    missed = next(voxel for voxel in map(tuple, np.argwhere(case.mask("lesion")).tolist()) if not after[voxel])
    lesion_clicked.button("Click").click()
    lesion_clicked.click_at(case.lps_mm(missed), "coronal")
    lesion_clicked.run()
    again = lesion_clicked.labelmap()["lesion"]
    assert again[missed]
    assert again[painted].all()


def test_a_click_taken_back_undoes_what_it_did(lesion_clicked: Viewer, case: Case) -> None:
    before = lesion_clicked.labelmap()
    other = next(
        voxel for voxel in map(tuple, np.argwhere(case.mask("lesion")).tolist()) if not before["lesion"][voxel]
    )
    lesion_clicked.click_at(case.lps_mm(other), "coronal")
    lesion_clicked.run()
    after = lesion_clicked.labelmap()
    assert after["lesion"][other]
    lesion_clicked.button("Undo").click()
    lesion_clicked.run()
    assert np.array_equal(lesion_clicked.labelmap()["lesion"], before["lesion"])
    lesion_clicked.button("Undo").click()
    lesion_clicked.run()
    assert not lesion_clicked.labelmap()["lesion"].any()


def test_a_background_click_cuts_its_voxel_out(lesion_clicked: Viewer, case: Case) -> None:
    shown = lesion_clicked.labelmap()["lesion"]
    inside = [voxel for voxel in map(tuple, np.argwhere(shown).tolist()) if voxel != case.deepest("lesion")]
    unwanted = inside[0]
    lesion_clicked.choose("background")
    lesion_clicked.click_at(case.lps_mm(unwanted), "sagittal")
    run = lesion_clicked.run()
    assert run.params["background"] == [list(unwanted)]
    shown = lesion_clicked.labelmap()["lesion"]
    assert not shown[unwanted]
    assert shown[case.deepest("lesion")]


def test_a_result_replaces_its_own_labels_and_leaves_the_others(lesion_clicked: Viewer, case: Case) -> None:
    lesion = lesion_clicked.labelmap()["lesion"]
    lesion_clicked.page.get_by_text("Clear All Points").click()
    run = lesion_clicked.annotate("liver", case.lps_mm(case.deepest("liver")))
    assert not run.params.get("lesion")
    shown = lesion_clicked.labelmap()
    assert shown["liver"][case.deepest("liver")]
    assert np.array_equal(shown["lesion"], lesion & ~shown["liver"])
    # What the liver covered comes back when it goes.
    lesion_clicked.button("Undo").click()
    lesion_clicked.run()
    shown = lesion_clicked.labelmap()
    assert np.array_equal(shown["lesion"], lesion)
    assert not shown["liver"].any()


def test_with_the_box_ticked_every_click_runs(viewer: Viewer, case: Case) -> None:
    viewer.open(case.study, is_answered_at_once=True)
    with viewer.answered() as answers:
        viewer.click_at(case.lps_mm(case.deepest("lesion")))
    assert len(answers[0].params["lesion"]) == 1
    assert viewer.labelmap()["lesion"].any()
    with viewer.answered():
        viewer.button("Undo").click()
    assert not viewer.labelmap()["lesion"].any()


def test_a_refusal_is_shown_in_the_servers_words(viewer: Viewer, case: Case) -> None:
    viewer.open(case.study)
    viewer.choose("lesion")
    for across in np.linspace(0.2, 0.8, 9):
        viewer.click_in("axial", float(across), 0.5)
    run = viewer.run()
    assert run.status == 422
    sentence = "the request has 9 clicks and at most 8 are read; send fewer"
    expect(viewer.status).to_have_text(sentence)
    expect(viewer.page.get_by_text(sentence).last).to_be_visible()
    viewer.button("Undo").click()
    assert viewer.run().status == 200
    expect(viewer.status).to_have_text(re.compile(r"^Answered in \d+\.\d s: lesion"))


def test_a_series_that_misses_a_slice_is_refused_with_its_reason(viewer: Viewer, archive: str, tmp_path: Path) -> None:
    case = write_case(tmp_path, "incomplete", Layout(), 121)
    missing = next(path for path in tmp_path.rglob("*.dcm") if pydicom.dcmread(path).InstanceNumber == 12)
    missing.unlink()
    store(archive, tmp_path)
    viewer.open(case.study)
    viewer.choose("lesion")
    viewer.click_in("axial", 0.5, 0.5)
    assert viewer.run().status == 422
    expect(viewer.status).to_contain_text("misses slices: 8 mm lie between")
    assert not viewer.labelmap()["lesion"].any()


def test_a_run_shows_that_it_runs(viewer: Viewer, case: Case) -> None:
    viewer.open(case.study)
    viewer.choose("lesion")
    viewer.click_at(case.lps_mm(case.deepest("lesion")))
    held: list[Route] = []
    viewer.page.route("**/infer/**", lambda route: held.append(route))
    viewer.run_button.click()
    expect(viewer.status).to_have_text(re.compile(r"Segmenting… \d+ s"))
    expect(viewer.run_button).to_be_disabled()
    held[0].continue_()
    expect(viewer.bar).to_have_attribute("data-painted", "1")
    expect(viewer.status).to_have_text(re.compile(r"^Answered in \d+\.\d s: lesion"))
    expect(viewer.run_button).to_be_enabled()
