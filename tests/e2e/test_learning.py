"""The whole loop: annotate, submit, Update Model, Next Sample, and a click that the new version answers."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from series import Case
from serving import REQUEST_LIMIT_S, Server
from stored import newest_version
from viewer import Viewer

# Set, it names a folder for the pictures of docs/ohif.md.
PICTURES = os.environ.get("E2E_PICTURES")
TRAINING_MS = 1_200_000  # a run gives way to everybody else on the machine, and measures two versions of the model


@pytest.fixture(scope="module")
def conf(conf: dict[str, str]) -> dict[str, str]:
    """With few patches to a structure, so that a model is measured soon."""
    return {**conf, "spacing_mm": "2"}


def picture(viewer: Viewer, name: str) -> None:
    if PICTURES:
        viewer.page.screenshot(path=Path(PICTURES) / f"{name}.png")


def test_a_training_without_a_label_is_refused_at_the_press(viewer: Viewer, cases: dict[str, Case]) -> None:
    """Whoever trains presses first: no spec before this one stores a label."""
    viewer.open(cases["ascending"].study)
    viewer.open_learning()
    for _ in range(2):
        viewer.button("Update Model").click()
        expect(viewer.status).to_have_text(re.compile("^there is nothing to learn from: "))
        expect(viewer.button("Update Model")).to_be_visible()
        viewer.page.keyboard.press("2")  # and the bar goes on to what is done next
        expect(viewer.status).to_have_text("liver is chosen")


def test_the_loop_closes(viewer: Viewer, cases: dict[str, Case], server: Server) -> None:
    chosen = [cases[name] for name in ("ascending", "anisotropic", "coronal")]
    for number, case in enumerate(chosen):
        studies = viewer.open_study_list()
        if number == 0:
            picture(viewer, "1-study-list")
        studies.open(case.patient)
        names = ("liver", "lesion") if number == 0 else ("lesion",)
        for name in names:
            viewer.choose(name)
            viewer.click_at(case.lps_mm(case.deepest(name)))
        viewer.run()
        if number == 0:
            picture(viewer, "2-mask")
        assert viewer.submit().startswith(f"Stored: {', '.join(sorted(names))}")
        if number == 0:
            picture(viewer, "3-stored")

    viewer.open_learning()
    expect(viewer.training).to_contain_text("Model: base; nothing was trained yet")
    viewer.button("Update Model").click()
    expect(viewer.button("Stop Training")).to_be_visible()
    expect(viewer.training).to_contain_text("Model: base; training begins")
    expect(viewer.training).to_contain_text("measuring base", timeout=TRAINING_MS)
    picture(viewer, "4-training")
    expect(viewer.button("Update Model")).to_be_visible(timeout=TRAINING_MS)
    expect(viewer.training).to_contain_text(re.compile(r"Model: v1, Dice 0\.\d\d; v1 published: mean Dice "))
    assert server.info()["train_stats"]["sam3d"]["served"] == "v1"
    picture(viewer, "5-trained")

    address, study = viewer.next_sample("first")
    assert address.endswith("/activelearning/first")
    assert study not in {case.study for case in chosen}
    case = next(case for case in cases.values() if case.study == study)
    run = viewer.annotate("lesion", case.lps_mm(case.deepest("lesion")))
    assert viewer.labelmap()["lesion"][case.deepest("lesion")]
    assert viewer.submit().startswith("Stored: lesion")
    picture(viewer, "6-next-case")
    _, card = newest_version(server, case)
    assert (card["model_version"], card["clicks"]) == ("v1", {"lesion": run.params["lesion"]})


def test_a_training_is_stopped_by_its_button(viewer: Viewer, cases: dict[str, Case]) -> None:
    case = cases["feet-first"]
    viewer.open(case.study)
    viewer.annotate("lesion", case.lps_mm(case.deepest("lesion")))
    assert viewer.submit().startswith("Stored: lesion")
    viewer.open_learning()
    viewer.button("Update Model").click()
    expect(viewer.training).to_contain_text("measuring", timeout=TRAINING_MS)
    viewer.button("Stop Training").click()
    expect(viewer.button("Update Model")).to_be_visible()
    expect(viewer.training).to_contain_text(re.compile(r"stopped in epoch \d of \d; nothing was changed"))
    assert viewer.run().status == 200


def test_when_others_have_the_last_cases_it_is_said(viewer: Viewer, cases: dict[str, Case], server: Server) -> None:
    viewer.be_somebody_else()
    viewer.open(cases["ascending"].study)
    for number in range(len(cases)):
        body = {"client_id": f"other-{number}"}
        server.http.post(f"{server.url}/activelearning/first", json=body, timeout=REQUEST_LIMIT_S)
    viewer.open_learning()
    viewer.button("Next Sample").click()
    expect(viewer.status).to_contain_text(re.compile(r"others are annotating the last \d cases"))
