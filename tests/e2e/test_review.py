"""A case that two have open: told of each other, submitted, sent back with a comment, drawn anew and approved."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from playwright.sync_api import expect

from series import LAYOUTS, Case, write_case
from serving import Serve, Server
from viewer import Viewer


@pytest.fixture(scope="module")
def case(studies: Path) -> Case:
    return write_case(studies / "ascending", "ascending", LAYOUTS["ascending"], 300)


@pytest.fixture(scope="module")
def server(serve: Serve, studies: Path, case: Case) -> Server:
    return serve(studies)


def annotate(viewer: Viewer, case: Case) -> None:
    viewer.press_at(case.lps_mm(case.deepest("lesion")))


def test_a_label_goes_to_the_reviewer_and_back(viewer: Viewer, emil: Viewer, case: Case, tmp_path: Path) -> None:
    viewer.open(case.study, is_answered_at_once=True)
    viewer.page.get_by_label("Your name").fill("Anna")
    viewer.page.get_by_label("Your name").press("Tab")  # which leaves the keyboard to the next field
    expect(viewer.case_state).to_have_text("New: no label yet")
    annotate(viewer, case)
    expect(viewer.case_state).to_have_text("In work by you")

    emil.page.goto(emil.server)
    emil.page.get_by_role("link", name="The cases").click()
    expect(emil.page.get_by_role("cell", name="in work by Anna")).to_be_visible()
    emil.page.get_by_role("link", name=case.series).click()  # which leads to OHIF
    emil.wait_until_ready(is_answered_at_once=True)
    expect(emil.case_state).to_have_text("In work by Anna")
    expect(emil.also_open).to_have_text("Anna also has this case open")
    expect(viewer.also_open).to_have_text("Emil also has this case open")
    expect(emil.button("Approve")).to_be_hidden()

    viewer.page.keyboard.press("Enter")
    expect(viewer.status).to_have_text(re.compile("^Stored: lesion"))
    expect(viewer.case_state).to_have_text("Submitted by Anna, version 1; nobody has reviewed it")
    expect(emil.case_state).to_have_text("Submitted by Anna, version 1; nobody has reviewed it")

    # The reviewer looks at it, and takes it along.
    emil.start_from("Version 1 by Anna")
    expect(emil.status).to_have_text("Version 1 by Anna: lesion")
    stored = viewer.labelmap()["lesion"]
    assert stored.any()
    assert np.array_equal(emil.labelmap()["lesion"], stored)
    for name, ending in (("NIfTI", ".nii.gz"), ("RTSTRUCT", ".dcm")):
        with emil.page.expect_download() as started:
            emil.button("Download…").click()
            emil.choices.filter(has_text=name).click()
        assert started.value.suggested_filename.endswith(f"_v1{ending}")
        started.value.save_as(tmp_path / f"label{ending}")
    assert np.array_equal(np.asarray(nibabel.load(tmp_path / "label.nii.gz").dataobj) == 1, stored)
    assert pydicom.dcmread(tmp_path / "label.dcm").StructureSetROISequence[0].ROIName == "lesion"

    emil.button("Send back").click()
    emil.page.get_by_role("textbox", name="What is to be done").fill("<b>too small</b> below")
    emil.page.locator("#sam3d-comment").get_by_role("button", name="Send back").click()
    expect(emil.status).to_have_text("Version 1 is sent back")
    sent_back = "Sent back by Emil: <b>too small</b> below (by Anna, version 1)"
    expect(emil.case_state).to_have_text(sent_back)
    expect(viewer.case_state).to_have_text(sent_back)

    with viewer.page.expect_navigation():  # to the page of the same case
        viewer.page.keyboard.press("n")  # it comes back, with what is to be done
    viewer.wait_until_ready(is_answered_at_once=True)
    expect(viewer.status).to_have_text("Next case: sent back by Emil: <b>too small</b> below")
    annotate(viewer, case)
    viewer.page.keyboard.press("Enter")
    expect(viewer.case_state).to_have_text("Submitted by Anna, version 2; nobody has reviewed it")
    expect(emil.case_state).to_have_text("Submitted by Anna, version 2; nobody has reviewed it")
    emil.button("Approve").click()
    expect(viewer.case_state).to_have_text("Approved by Emil (by Anna, version 2)")
    expect(emil.button("Approve")).to_be_hidden()
    emil.button("Next to review").click()
    expect(emil.status).to_have_text("No other label waits for a review")
    emil.page.goto("about:blank")  # which leaves the case
    expect(viewer.also_open).to_have_text("")
