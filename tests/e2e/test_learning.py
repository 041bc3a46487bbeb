"""The whole loop: annotate, submit, Update Model, Next Sample, and a click that the new version answers."""

from __future__ import annotations

import os
import re
from pathlib import Path

from playwright.sync_api import expect

from series import Case
from serving import Server
from viewer import Viewer

# Set, it names a folder for the pictures of docs/ohif.md.
PICTURES = os.environ.get("E2E_PICTURES")
TRAINING_MS = 600_000


def picture(viewer: Viewer, name: str) -> None:
    if PICTURES:
        viewer.page.screenshot(path=Path(PICTURES) / f"{name}.png")


def test_the_loop_closes(viewer: Viewer, cases: dict[str, Case], server: Server) -> None:
    chosen = [cases[name] for name in ("ascending", "anisotropic", "coronal")]
    for number, case in enumerate(chosen):
        studies = viewer.open_study_list()
        if number == 0:
            picture(viewer, "1-study-list")
        studies.open(case.info.patient_id)
        viewer.choose("lesion")
        viewer.click_at(case.lps_mm(case.deepest("lesion")))
        viewer.choose("liver")
        viewer.click_at(case.lps_mm(case.deepest("liver")))
        viewer.run()
        if number == 0:
            picture(viewer, "2-mask")
        assert viewer.submit().startswith("Stored: lesion, liver")
        if number == 0:
            picture(viewer, "3-stored")

    viewer.open_learning()
    expect(viewer.bar.locator("#sam3d-training")).to_contain_text("Model: base")
    viewer.button("Update Model").click()
    expect(viewer.button("Stop Training")).to_be_visible()
    progress = viewer.bar.locator("#sam3d-training")
    expect(progress).to_contain_text(re.compile(r"epoch \d|measur|prepar"), timeout=TRAINING_MS)
    picture(viewer, "4-training")
    expect(viewer.button("Update Model")).to_be_visible(timeout=TRAINING_MS)
    expect(progress).to_contain_text("Model: v1")
    assert server.info()["train_stats"]["sam3d"]["served"] == "v1"
    picture(viewer, "5-trained")

    address, study = viewer.next_sample("first")
    assert address.endswith("/activelearning/first")
    assert study not in {case.study for case in chosen}
    case = next(case for case in cases.values() if case.study == study)
    viewer.choose("lesion")
    viewer.click_at(case.lps_mm(case.deepest("lesion")))
    assert viewer.run().status == 200
    assert viewer.labelmap()["lesion"][case.deepest("lesion")]
    picture(viewer, "6-next-case")
