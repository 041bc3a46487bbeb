"""A label is stored as it is on the screen, brush strokes included, and not forgotten by leaving."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect

from archive import segmentations
from lib.evaluation.metrics import dice
from lib.images.volumes import Volume
from lib.labels.masks import read_label
from measured import figures
from series import Case
from serving import Server
from stored import newest_version
from viewer import Dialogs, Viewer

PATIENCE_S = 60.0


def in_archive(archive: str, case: Case, number: int, folder: Path) -> dict[str, np.ndarray]:
    """The DICOM SEG of a case's label version `number`, as masks by segment name on the case's grid."""
    limit = time.monotonic() + PATIENCE_S  # what the archive does not take at once reaches it later
    while len(found := segmentations(archive, case.study)) < number and time.monotonic() < limit:
        time.sleep(0.5)
    assert len(found) == number
    path = folder / "newest.dcm"
    found[-1].save_as(path)
    volume = Volume(np.zeros(case.label_map.shape, np.int16), case.affine, "")
    return dict(read_label(path, volume, ["lesion", "liver"]).masks)


@pytest.mark.parametrize("layout", ["oblique", "sagittal"])
def test_training_and_the_archive_get_what_the_screen_shows(
    layout: str, viewer: Viewer, cases: dict[str, Case], server: Server, archive: str, tmp_path: Path
) -> None:
    case = cases[layout]
    viewer.open(case.study)
    # The later label alone first: its value in the file is not its number on the screen.
    run = viewer.annotate("liver", case.lps_mm(case.deepest("liver")))
    computed = viewer.labelmap()["liver"]
    viewer.button("Ball").click()
    viewer.drag_in("axial", (0.45, 0.4), (0.55, 0.4))
    assert viewer.labelmap()["liver"].sum() > computed.sum()
    assert viewer.submit().startswith("Stored: liver")
    shown = viewer.labelmap()
    stored = in_archive(archive, case, 1, tmp_path)
    assert set(stored) == {"liver"}
    assert np.array_equal(stored["liver"], shown["liver"])
    kept, card = newest_version(server, case)
    assert (set(kept), card["tag"], card["clicks"]) == ({"liver"}, "final", {"liver": run.params["liver"]})
    assert np.array_equal(kept["liver"], shown["liver"])

    viewer.button("Eraser").click()
    viewer.drag_in("axial", (0.45, 0.4), (0.55, 0.4))
    viewer.choose("lesion")
    viewer.button("Brush").click()
    viewer.drag_in("axial", (0.35, 0.55), (0.4, 0.55))
    assert viewer.submit().startswith("Stored: lesion, liver")
    shown, stored = viewer.labelmap(), in_archive(archive, case, 2, tmp_path)
    assert set(stored) == {"lesion", "liver"}
    agreement = {name: dice(stored[name], shown[name]) for name in stored}
    figures.append(f"{layout:12} stored in the archive as shown: Dice {agreement}")
    assert all(np.array_equal(stored[name], shown[name]) for name in stored)
    kept, _ = newest_version(server, case)
    assert all(np.array_equal(kept[name], shown[name]) for name in ("lesion", "liver"))


def test_nothing_is_not_submitted(viewer: Viewer, cases: dict[str, Case]) -> None:
    viewer.open(cases["ascending"].study)
    assert viewer.submit() == "There is nothing to submit: no label has a voxel"


def test_leaving_unsaved_work_asks_and_stored_work_does_not(viewer: Viewer, cases: dict[str, Case]) -> None:
    case = cases["descending"]
    viewer.open_study_list().open(case.patient)
    back = viewer.page.locator("[data-cy=return-to-work-list]")
    viewer.annotate("lesion", case.lps_mm(case.deepest("lesion")))
    dialogs = Dialogs(viewer.page, accept=False)
    back.click()
    expect(viewer.bar).to_be_visible()
    viewer.page.evaluate("() => history.back()")
    viewer.page.wait_for_url("**/monai-label?**")
    expect(viewer.bar).to_be_visible()
    assert len(dialogs.said) == 2
    assert all("not submitted" in question for question in dialogs.said)
    with viewer.page.expect_event("dialog"):
        viewer.page.evaluate("() => { window.setTimeout(() => window.location.reload(), 0); }")
    assert dialogs.said[2:] == ["beforeunload"]
    assert viewer.labelmap()["lesion"].any()

    assert viewer.submit().startswith("Stored: lesion")
    back.click()
    expect(viewer.bar).to_be_hidden()
    assert len(dialogs.said) == 3


def test_a_label_that_cannot_be_stored_stays_unsaved_and_says_why(viewer: Viewer, cases: dict[str, Case]) -> None:
    case = cases["prone"]
    viewer.open(case.study)
    viewer.annotate("lesion", case.lps_mm(case.deepest("lesion")))
    full = {"status": 507, "json": {"detail": "the disk is full"}}
    for fail, said in (
        (lambda route: route.fulfill(**full), "Not stored: the disk is full"),
        (lambda route: route.abort(), "The server does not answer: the label may not be stored"),
    ):
        viewer.page.route("**/datastore/label**", fail)
        assert viewer.submit().startswith(said)
        assert viewer.bar.get_attribute("data-unsaved") == "true"
        viewer.page.unroute("**/datastore/label**")
    assert viewer.submit().startswith("Stored: lesion")
    assert viewer.bar.get_attribute("data-unsaved") == "false"
