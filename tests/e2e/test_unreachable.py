"""A server that is away for a while, or killed, while two annotate one case: both go on, and nothing is lost."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect

from series import Case, write_cases
from serving import Serve, Server
from stored import versions
from viewer import POINTS, SHOW, Dialogs, Viewer

GOES_ON = re.compile("^The server does not answer. This goes on by itself when it does")


@pytest.fixture(scope="module")
def cases(studies: Path) -> dict[str, Case]:
    return write_cases(studies, ("ascending", "coronal"), 300)


@pytest.fixture(scope="module")
def server(serve: Serve, studies: Path, cases: dict[str, Case]) -> Server:
    return serve(studies)


def press(viewer: Viewer, case: Case, label: str = "lesion") -> None:
    """A press that nobody may answer yet."""
    place = viewer.page.evaluate(SHOW, case.lps_mm(case.deepest(label)))["mpr-axial"]
    viewer.page.mouse.click(place["x"], place["y"])


def test_a_click_goes_on_when_the_network_is_back_and_a_submission_waits(
    viewer: Viewer, cases: dict[str, Case], server: Server
) -> None:
    case, network = cases["coronal"], viewer.page.context
    answers: list[int] = []
    viewer.page.on("response", lambda answer: answers.append(answer.status) if "/infer/" in answer.url else None)
    viewer.open(case.study, is_answered_at_once=True)
    network.set_offline(True)
    try:
        press(viewer, case)
        expect(viewer.status).to_have_text(GOES_ON)
        expect(viewer.bar).to_have_attribute("data-kept", re.compile("."))  # for a reload
        viewer.page.wait_for_timeout(5000)
        expect(viewer.status).to_have_text(GOES_ON)
    finally:
        network.set_offline(False)
    expect(viewer.status).to_have_text(re.compile(r"^Answered in \d+\.\d s: lesion"))
    assert answers == [200]
    assert viewer.labelmap()["lesion"][case.deepest("lesion")]

    network.set_offline(True)
    try:
        viewer.page.keyboard.press("Enter")
        expect(viewer.status).to_have_text(re.compile("^The server does not answer: the label may not be stored"))
        expect(viewer.bar).to_have_attribute("data-unsaved", "true")
    finally:
        network.set_offline(False)
    viewer.page.wait_for_timeout(5000)
    assert versions(server, case) == []  # nobody pressed again
    viewer.page.keyboard.press("Enter")
    expect(viewer.status).to_have_text(re.compile("^Stored: lesion"))
    assert len(versions(server, case)) == 1


def test_two_annotate_one_case_through_a_kill_of_the_server(
    viewer: Viewer, emil: Viewer, cases: dict[str, Case], server: Server
) -> None:
    case = cases["ascending"]
    Dialogs(viewer.page, accept=True)
    viewer.page.add_init_script("window.localStorage.setItem('sam3d.name', 'Anna')")
    for each in (viewer, emil):
        each.open(case.study, is_answered_at_once=True)
    expect(viewer.also_open).to_have_text("Emil also has this case open")
    expect(emil.also_open).to_have_text("Anna also has this case open")
    for each in (viewer, emil):
        each.press_at(case.lps_mm(case.deepest("lesion")))

    server.kill()
    viewer.page.keyboard.press("2")
    press(viewer, case, "liver")
    expect(viewer.status).to_have_text(GOES_ON)
    server.start()
    expect(viewer.bar).to_have_attribute("data-painted", "2")  # without a further press
    expect(viewer.status).to_have_text(re.compile(r"^Answered in \d+\.\d s: lesion, liver"))
    assert viewer.page.evaluate(POINTS) == 1  # of the label that is chosen
    drawn = viewer.labelmap()
    assert drawn["liver"][case.deepest("liver")]
    assert drawn["lesion"].any()

    viewer.page.keyboard.press("Enter")
    expect(viewer.status).to_have_text(re.compile("^Stored: lesion, liver"))
    expect(viewer.case_state).to_have_text("Submitted by Anna, version 1; nobody has reviewed it")
    expect(emil.case_state).to_have_text("Submitted by Anna, version 1; nobody has reviewed it")
    expect(emil.also_open).to_have_text("Anna also has this case open")  # also after the restart
    emil.page.keyboard.press("Enter")
    expect(emil.status).to_have_text(re.compile("^Stored: lesion"))
    expect(viewer.case_state).to_have_text("Submitted by Emil, version 2; nobody has reviewed it")

    (annas, anna), (emils, _) = versions(server, case)
    assert np.array_equal(annas["lesion"], drawn["lesion"])
    assert np.array_equal(annas["liver"], drawn["liver"])
    assert np.array_equal(emils["lesion"], emil.labelmap()["lesion"])
    assert list(emils) == ["lesion"]
    assert list(anna["clicks"]) == ["lesion", "liver"]
