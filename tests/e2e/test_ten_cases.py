"""Ten cases from the first click to a data set for training, by keys and by a mouse that stays in the images."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from monai.data import load_decathlon_datalist
from playwright.sync_api import expect
from scipy import ndimage

from lib.evaluation.metrics import dice
from measured import figures
from series import LAYOUTS, Case, deepest, read_case, write_case
from serving import APP, REQUEST_LIMIT_S, Serve, Server
from stored import versions
from viewer import SHOW, Viewer

N_SYNTHETIC = 10
REAL_SERIES = Path(__file__).parents[2].parent / "shared" / "data" / "dicom" / "LIDC-IDRI-0314_CT_subset"
# Where each press of the mouse is: on an image, or what else.
WATCH = """() => window.addEventListener('pointerdown', ({ target }) => {
  const presses = JSON.parse(window.sessionStorage.getItem('presses') || '[]');
  presses.push(target.closest('.cornerstone-canvas, .cornerstone-viewport-element') ? 'image' : target.outerHTML);
  window.sessionStorage.setItem('presses', JSON.stringify(presses));
}, true)"""
PRESSES = "() => JSON.parse(window.sessionStorage.getItem('presses'))"


@pytest.fixture(scope="module")
def cases(studies: Path) -> list[Case]:
    """Ten patients of all layouts, some of them twice, and one of a scanner where it is there."""
    layouts = itertools.islice(itertools.cycle(LAYOUTS.values()), N_SYNTHETIC)
    found = [write_case(studies / str(n), f"patient {n}", layout, 400 + n) for n, layout in enumerate(layouts)]
    if REAL_SERIES.exists():
        shutil.copytree(REAL_SERIES / "ct", studies / "scanner")
        found.append(read_case(REAL_SERIES / "ct", REAL_SERIES / "label.nii.gz"))
    return found


@pytest.fixture(scope="module")
def server(serve: Serve, studies: Path, cases: list[Case]) -> Server:
    return serve(studies, {"next_sample": "first"})


@pytest.fixture
def watched(viewer: Viewer) -> Viewer:
    """A viewer that notes where the mouse is pressed."""
    viewer.page.add_init_script(f"({WATCH})()")
    return viewer


def test_ten_cases_by_keys_and_clicks(watched: Viewer, server: Server, cases: list[Case], tmp_path: Path) -> None:
    viewer, page = watched, watched.page
    viewer.open(cases[0].study, is_answered_at_once=True)
    page.evaluate("() => window.sessionStorage.removeItem('presses')")  # of the viewer's notice, which comes once
    page.keyboard.press("b")
    for _ in range(20):
        page.keyboard.press("s")
    agreements = []
    for number in range(len(cases)):
        case = open_case(viewer, cases)
        agreements.append(annotate(viewer, case))
        if number < len(cases) - 1:
            with page.expect_navigation():
                page.keyboard.press("n")
            viewer.wait_until_ready(is_answered_at_once=True)
    page.keyboard.press("n")
    expect(viewer.status).to_have_text(re.compile("^No case is left"))
    figures.append(f"ten cases: Dice of lesions by one click, and in the end: {' '.join(agreements)}")

    # The one that is open is the last that was submitted; the others follow, the longest waiting first.
    sent_back = ""
    for number in range(len(cases)):
        if number:
            with page.expect_navigation():
                page.keyboard.press("Shift+N")
            viewer.wait_until_ready(is_answered_at_once=True)
            expect(viewer.status).to_have_text(re.compile("^Version 1 by .*: lesion. Shift [+] A approves it"))
        case = open_case(viewer, cases)
        ((stored, _),) = versions(server, case)
        assert np.array_equal(viewer.labelmap()["lesion"], stored["lesion"])
        if number == 1:
            sent_back = case.series
            page.keyboard.press("Shift+X")
            page.keyboard.type("too large at the back")
            page.keyboard.press("Tab")
            page.keyboard.press("Enter")
            expect(viewer.case_state).to_have_text(re.compile("^Sent back by .*: too large at the back"))
        else:
            page.keyboard.press("Shift+A")
            expect(viewer.case_state).to_have_text(re.compile("^Approved by"))
    page.keyboard.press("Shift+N")
    expect(viewer.status).to_have_text("No other label waits for a review")
    page.keyboard.press("Shift+A")
    expect(viewer.status).to_have_text("The label is approved already")

    with page.expect_navigation():
        page.keyboard.press("n")
    viewer.wait_until_ready(is_answered_at_once=True)
    expect(viewer.status).to_have_text(re.compile("^Next case: sent back by .*: too large at the back"))
    case = open_case(viewer, cases)
    assert case.series == sent_back
    page.keyboard.press("m")
    expect(viewer.choices.first).to_be_visible()  # what there is was asked for first
    page.keyboard.press("1")
    expect(viewer.status).to_have_text(re.compile("^Version 1 by .*: lesion$"))
    press(viewer, case, most_wrong(viewer, case))
    submit(viewer)
    expect(viewer.case_state).to_have_text(re.compile("^Submitted by .*, version 2"))
    page.keyboard.press("Shift+A")
    expect(viewer.case_state).to_have_text(re.compile("^Approved by .*, version 2"))
    check_downloads(viewer, case, tmp_path)

    assert set(page.evaluate(PRESSES)) == {"image"}
    listed = server.http.get(f"{server.url}/cases/", timeout=REQUEST_LIMIT_S).json()
    assert {each["id"]: each["state"] for each in listed} == {case.series: "reviewed" for case in cases}
    check_export(server, cases, tmp_path)


def open_case(viewer: Viewer, cases: list[Case]) -> Case:
    """The case whose study is on the page."""
    return next(case for case in cases if case.study in viewer.page.url)


def annotate(viewer: Viewer, case: Case) -> str:
    """Click, take a slip back, paint, refine and submit; the Dice before and after."""
    page, truth = viewer.page, case.mask("lesion")
    page.keyboard.press("c")
    page.keyboard.press("1")
    press(viewer, case, case.deepest("lesion"))
    first = viewer.labelmap()["lesion"]

    slip = tuple(size // 2 for size in truth.shape)
    press(viewer, case, slip)
    assert viewer.labelmap()["lesion"][slip] != first[slip]
    with viewer.answered():
        page.keyboard.press("Control+z")
    assert np.array_equal(viewer.labelmap()["lesion"], first)

    page.keyboard.press("b")
    missing = truth & ~first
    at = deepest(missing if missing.any() else ndimage.binary_dilation(first) & ~first)
    stroke(viewer, case, at)
    page.keyboard.press("c")  # at once, while the viewer still waits whether a second press follows
    expect(viewer.button("Click")).to_have_attribute("aria-pressed", "true")
    painted = viewer.labelmap()["lesion"]
    assert painted[at]
    assert (painted & first).sum() == first.sum()

    wrong = most_wrong(viewer, case)
    press(viewer, case, wrong)
    refined = viewer.labelmap()["lesion"]
    assert refined[wrong] == truth[wrong]
    assert refined[at] or not truth[at]
    submit(viewer)
    return f"{dice(first, truth):.2f}-{dice(refined, truth):.2f}"


def press(viewer: Viewer, case: Case, voxel: tuple[int, ...]) -> None:
    """One press of the mouse; with Alt where the voxel is too much."""
    is_too_much = viewer.labelmap()["lesion"][voxel]
    if is_too_much:
        viewer.page.keyboard.down("Alt")
    viewer.press_at(case.lps_mm(voxel))
    viewer.page.keyboard.up("Alt")


def stroke(viewer: Viewer, case: Case, voxel: tuple[int, ...]) -> None:
    """A short stroke of the brush over a voxel."""
    place = viewer.page.evaluate(SHOW, case.lps_mm(voxel))["mpr-axial"]
    viewer.page.mouse.move(place["x"], place["y"])
    viewer.page.mouse.down()
    viewer.page.mouse.move(place["x"] + 3, place["y"], steps=3)
    viewer.page.mouse.up()


def submit(viewer: Viewer) -> None:
    viewer.page.keyboard.press("Enter")
    expect(viewer.status).to_have_text(re.compile("^Stored: lesion"))


def most_wrong(viewer: Viewer, case: Case) -> tuple[int, ...]:
    return deepest(viewer.labelmap()["lesion"] ^ case.mask("lesion"))


def check_downloads(viewer: Viewer, case: Case, folder: Path) -> None:
    """Each format by its number; the SEG holds as many voxels as the screen."""
    for number, ending in enumerate((".nii.gz", ".seg.nrrd", ".dcm", ".dcm"), start=1):
        viewer.page.keyboard.press("d")
        with viewer.page.expect_download() as started:
            viewer.page.keyboard.press(str(number))
        assert started.value.suggested_filename.endswith(f"_v2{ending}")
        started.value.save_as(folder / f"download-{number}")
        expect(viewer.status).to_have_text(re.compile("^Downloaded: "))
    seg = pydicom.dcmread(folder / "download-3")
    assert (seg.Modality, int(seg.pixel_array.sum())) == ("SEG", int(viewer.labelmap()["lesion"].sum()))
    assert pydicom.dcmread(folder / "download-4").Modality == "RTSTRUCT"


def check_export(server: Server, cases: list[Case], folder: Path) -> None:
    """The data set of all approved labels, as MONAI reads it."""
    command = [sys.executable, str(APP / "cli.py"), "export", "--studies", str(server.studies), "--format", "datalist"]
    own = ["--labels", server.conf["labels"], "--train-on", "reviewed", "--out", str(folder / "set")]
    subprocess.run([*command, *own], check=True, env={"HOME": str(folder), "PATH": "/usr/bin:/bin"})
    listing = folder / "set" / "datalist.json"
    told = json.loads(listing.read_text())
    parts = [name for name, value in told.items() if value and isinstance(value, list) and "label" in value[0]]
    found = [entry for part in parts for entry in load_decathlon_datalist(str(listing), data_list_key=part)]
    assert len(found) == len(cases)


@pytest.mark.data
def test_one_of_them_is_of_a_scanner(server: Server, cases: list[Case]) -> None:
    if len(cases) == N_SYNTHETIC:
        pytest.skip(f"{REAL_SERIES} is not there: it is no part of this repository")
    (stored, card) = versions(server, cases[-1])[-1]
    assert stored["lesion"].any()
    assert list(card["clicks"]["lesion"])
