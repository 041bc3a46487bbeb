"""A study as it opens, by somebody who is there for the first time: no button, no tab, no list."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import ViewportSize, expect

from measured import figures
from series import Case, write_cases
from serving import Serve, Server
from viewer import BOX, FILLED, PLANES, POINTS, SHOW, Dialogs, Viewer

COLOURS = """(viewport) => {
  const { color } = window.cornerstoneTools.segmentation.config;
  const segments = Object.values(window.services.segmentationService.getSegmentation('1').segments).filter(Boolean);
  return Object.fromEntries(segments.map(({ label, segmentIndex }) => (
    [label, Array.from(color.getSegmentIndexColor(viewport, '1', segmentIndex))])));
}"""
# What can be read in the panel, and how many pixels high its letters are.
TEXTS = """() => [...document.querySelectorAll('.monaiLabelPanel *')]
  .filter((element) => element.checkVisibility() && [...element.childNodes].some(
    ({ nodeType, textContent }) => nodeType === Node.TEXT_NODE && textContent.trim()))
  .map((element) => [element.textContent.trim().slice(0, 40), parseFloat(getComputedStyle(element).fontSize)])"""
ZOOM = """(id) => {
  const viewport = window.cornerstone.getRenderingEngines()[0].getViewport(id);
  viewport.setCamera({ parallelScale: 2 * viewport.getCamera().parallelScale });
  viewport.render();
}"""
FOCUS = "(id) => Array.from(window.cornerstone.getRenderingEngines()[0].getViewport(id).getCamera().focalPoint)"


@pytest.fixture(scope="module")
def cases(studies: Path) -> dict[str, Case]:
    """Two patients in a folder of DICOM files, of which the server is the archive."""
    return write_cases(studies, ("ascending", "coronal"), 300)


@pytest.fixture(scope="module")
def server(serve: Serve, studies: Path, cases: dict[str, Case]) -> Server:
    return serve(studies)


@pytest.fixture
def case(cases: dict[str, Case]) -> Case:
    return cases["ascending"]


@pytest.fixture
def opened(viewer: Viewer, case: Case) -> Viewer:
    """A viewer as it opens a study."""
    viewer.open(case.study, is_answered_at_once=True)
    return viewer


@pytest.fixture(params=[(1280, 800), (1920, 1080)], ids=lambda size: f"{size[0]}x{size[1]}")
def sized(viewer: Viewer, case: Case, request: pytest.FixtureRequest) -> Viewer:
    """The same in a small window and in a large one."""
    width, height = request.param
    viewer.page.set_viewport_size(ViewportSize(width=width, height=height))
    viewer.open(case.study, is_answered_at_once=True)
    return viewer


def press(viewer: Viewer, case: Case, voxel: tuple[int, int, int], plane: str) -> None:
    """One press of the mouse, in whatever viewport, that is answered."""
    viewer.press_at(case.lps_mm(voxel), plane)


def key(viewer: Viewer, keys: str) -> None:
    """A key that changes the clicks, and the answer to what is left of them."""
    with viewer.answered():
        viewer.page.keyboard.press(keys)


def test_a_study_opens_ready_for_the_first_click(sized: Viewer) -> None:
    page = sized.page
    expect(page.get_by_label("Point Prompts")).to_be_checked()
    tops = {
        name: page.locator("label.tab-label", has_text=name).bounding_box()
        for name in ("Point Prompts", "Auto-Segmentation", "Active Learning")
    }
    assert min(tops, key=lambda name: tops[name]["y"] if tops[name] else 0) == "Point Prompts"
    expect(sized.at_once).to_be_checked()
    expect(sized.button("Click")).to_have_attribute("aria-pressed", "true")
    expect(sized.status).to_have_text(re.compile("^Click on it in an image"))
    assert {size: text for text, size in page.evaluate(TEXTS) if size < 12} == {}
    expect(page.locator("#monailabelServerURL")).to_be_hidden()
    sized.button("Server and options").click()
    expect(page.locator("#monailabelServerURL")).to_be_visible()
    expect(page.get_by_text("Options / Configurations")).to_be_visible()


def test_the_body_fills_the_viewports_also_when_they_grow(sized: Viewer) -> None:
    page = sized.page
    expect(page.get_by_text("Studies", exact=True)).to_be_hidden()  # of one series
    shares = {plane: sized.filled(plane) for plane in PLANES}
    said = ", ".join(f"{plane} {share:.2f}" for plane, share in shares.items())
    figures.append(f"window {page.viewport_size}: share of a viewport that the image fills: {said}")
    assert min(shares.values()) > 0.35
    width = page.evaluate(BOX, "mpr-axial")["width"]
    page.locator("[data-cy=side-panel-header-left]").click()  # which shows the list
    page.wait_for_function(f"(before) => ({BOX})('mpr-axial').width < before - 50", arg=width)
    page.wait_for_function(f"(before) => Math.abs(({FILLED})('mpr-coronal') - before) > 0.01", arg=shares["coronal"])
    narrow = {plane: sized.filled(plane) for plane in PLANES}
    # What was zoomed by hand stays so; the others follow.
    page.evaluate(ZOOM, "mpr-sagittal")
    zoomed = sized.filled("sagittal")
    assert zoomed < narrow["sagittal"] / 2
    page.locator("[data-cy=side-panel-header-left]").click()
    page.wait_for_function(f"(before) => Math.abs(({FILLED})('mpr-coronal') - before) < 0.01", arg=shares["coronal"])
    assert sized.filled("axial") == pytest.approx(shares["axial"], abs=0.01)
    assert sized.filled("sagittal") < shares["sagittal"] / 2


def test_one_press_in_any_viewport_is_a_mask_and_its_size(sized: Viewer, case: Case) -> None:
    voxel = case.deepest("lesion")
    press(sized, case, voxel, "coronal")
    mask = sized.labelmap()["lesion"]
    assert mask[voxel]
    ml = mask.sum() * np.prod(np.linalg.norm(case.affine[:3, :3], axis=0)) / 1000
    size = rf"lesion: {ml:.{2 if ml < 10 else 0}f} ml, {mask.sum()} voxels, \d+(\.\d)? mm across"
    expect(sized.volumes).to_have_text(re.compile(size))
    expect(sized.status).to_have_text(re.compile(r"^Answered in \d+\.\d s: lesion"))


def test_a_press_beside_the_image_is_no_click(sized: Viewer, case: Case) -> None:
    sized.page.evaluate(ZOOM, "mpr-axial")  # so that the viewport shows what lies around the image
    box = sized.page.evaluate(BOX, "mpr-axial")
    asked: list[str] = []
    sized.page.on("request", lambda request: asked.append(request.url) if "/infer/" in request.url else None)
    sized.page.mouse.click(box["x"] + 0.5 * box["width"], box["y"] + 0.08 * box["height"])
    expect(sized.status).to_have_text("That is outside of the image: no click was made")
    assert asked == []
    press(sized, case, case.deepest("lesion"), "axial")
    assert len(asked) == 1


def test_alt_cuts_out_and_undo_and_redo_follow(opened: Viewer, case: Case) -> None:
    voxel = case.deepest("lesion")
    press(opened, case, voxel, "axial")
    first = opened.labelmap()["lesion"]
    unwanted = next(at for at in map(tuple, np.argwhere(first).tolist()) if at != voxel)
    opened.page.keyboard.down("Alt")
    press(opened, case, unwanted, "sagittal")
    opened.page.keyboard.up("Alt")
    cut = opened.labelmap()["lesion"]
    assert cut[voxel]
    assert not cut[unwanted]
    key(opened, "Control+z")
    assert np.array_equal(opened.labelmap()["lesion"], first)
    key(opened, "Control+Shift+Z")
    assert np.array_equal(opened.labelmap()["lesion"], cut)
    key(opened, "Control+z")
    key(opened, "Control+z")
    assert not opened.labelmap()["lesion"].any()
    opened.page.keyboard.press("Control+z")
    expect(opened.status).to_have_text("There is no click or stroke to take back")


def test_a_stroke_is_taken_back_and_made_again_as_a_click_is(opened: Viewer, case: Case) -> None:
    page = opened.page
    page.keyboard.press("b")
    opened.drag_in("axial", (0.35, 0.55), (0.4, 0.55))
    painted = opened.labelmap()["lesion"]
    assert painted.any()
    page.keyboard.press("Control+z")  # nothing was asked yet, so nothing is
    expect(opened.status).to_have_text("Stroke taken back")
    assert not opened.labelmap()["lesion"].any()
    page.keyboard.press("Control+Shift+Z")
    expect(opened.status).to_have_text("Stroke made again")
    assert np.array_equal(opened.labelmap()["lesion"], painted)
    page.keyboard.press("Control+z")

    page.keyboard.press("c")
    press(opened, case, case.deepest("lesion"), "axial")
    first = opened.labelmap()["lesion"]
    page.keyboard.press("e")
    place = page.evaluate(SHOW, case.lps_mm(case.deepest("lesion")))["mpr-axial"]
    page.mouse.click(place["x"] + 30, place["y"])  # a press without a drag, by which the viewer paints late
    page.keyboard.press("c")  # not before it has
    expect(opened.button("Click")).to_have_attribute("aria-pressed", "true")
    erased = opened.labelmap()["lesion"]
    assert (first & ~erased).any()
    assert page.evaluate(POINTS) == 1
    key(opened, "Control+z")
    assert np.array_equal(opened.labelmap()["lesion"], first)
    key(opened, "Control+z")  # the click
    assert not opened.labelmap()["lesion"].any()


def test_tools_labels_and_masks_go_by_keys(opened: Viewer, case: Case) -> None:
    page = opened.page
    press(opened, case, case.deepest("lesion"), "axial")
    for keys, tool in (("b", "Brush"), ("e", "Eraser"), ("c", "Click")):
        page.keyboard.press(keys)
        expect(opened.button(tool)).to_have_attribute("aria-pressed", "true")
    page.locator("[data-cy=Pan]").first.click()  # a tool of the viewer's own
    expect(opened.button("Click")).to_have_attribute("aria-pressed", "false")
    page.keyboard.press("c")
    expect(opened.button("Click")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("2")
    expect(opened.status).to_have_text("liver is chosen")
    page.keyboard.press("9")
    expect(opened.status).to_have_text("There is no label 9")
    shown = opened.coloured_pixels()
    assert shown > 20
    page.keyboard.press("Space")
    page.wait_for_timeout(1000)
    assert opened.coloured_pixels() < shown / 4
    page.keyboard.press("Space")
    page.wait_for_timeout(1000)
    assert opened.coloured_pixels() > shown / 2
    page.keyboard.press("?")
    expect(page.locator("#sam3d-keys")).to_contain_text("Ctrl + Shift + Z")
    page.keyboard.press("Escape")
    expect(page.locator("#sam3d-keys")).to_have_count(0)


def test_a_reload_loses_nothing(opened: Viewer, case: Case) -> None:
    Dialogs(opened.page, accept=True)  # the page asks whether to be left
    press(opened, case, case.deepest("lesion"), "axial")
    expect(opened.bar).to_have_attribute("data-kept", re.compile("."))
    before = opened.labelmap()["lesion"]
    opened.page.reload(wait_until="domcontentloaded")
    opened.wait_until_ready(is_answered_at_once=True)
    expect(opened.status).to_have_text(re.compile("^As you left it at .*, not submitted yet$"))
    assert np.array_equal(opened.labelmap()["lesion"], before)
    assert opened.page.evaluate(POINTS) == 1
    key(opened, "Control+z")  # the click is one still
    assert not opened.labelmap()["lesion"].any()
    key(opened, "Control+Shift+Z")
    assert np.array_equal(opened.labelmap()["lesion"], before)
    opened.page.keyboard.press("Enter")
    expect(opened.status).to_have_text(re.compile("^Stored: lesion"))
    opened.page.reload(wait_until="domcontentloaded")
    opened.wait_until_ready(is_answered_at_once=True)
    expect(opened.volumes).to_have_count(0)


def test_enter_submits_and_n_goes_on(opened: Viewer, case: Case) -> None:
    press(opened, case, case.deepest("lesion"), "axial")
    opened.page.keyboard.press("Enter")
    expect(opened.status).to_have_text(re.compile("^Stored: lesion"))
    opened.page.keyboard.press("n")
    opened.page.wait_for_url(lambda url: case.study not in url)
    opened.wait_until_ready(is_answered_at_once=True)
    expect(opened.status).to_have_text(re.compile("^Next case: "))


def test_labels_have_colours_that_everybody_tells_apart_and_masks_become_lines(opened: Viewer, case: Case) -> None:
    page = opened.page
    page.evaluate("window.localStorage.removeItem('sam3d.outlines')")
    press(opened, case, case.deepest("lesion"), "axial")
    expect(opened.status).to_have_text(re.compile(r"^Answered in \d+\.\d s: lesion \(sam3d [^ ]+\)$"))
    colours = {"lesion": [230, 159, 0, 255], "liver": [86, 180, 233, 255]}
    for plane in PLANES:
        assert page.evaluate(COLOURS, f"mpr-{plane}") == colours
    swatch = page.locator("tr.clickable-row", has_text="lesion").locator(".segColor")
    expect(swatch).to_have_css("background-color", "rgb(230, 159, 0)")
    filled = opened.coloured_pixels()
    page.keyboard.press("o")
    expect(opened.button("Outlines")).to_have_attribute("aria-pressed", "true")
    page.wait_for_timeout(1000)
    assert 0 < opened.coloured_pixels() < filled
    opened.button("Outlines").click()
    expect(opened.button("Outlines")).to_have_attribute("aria-pressed", "false")
    page.wait_for_timeout(1000)
    assert opened.coloured_pixels() == filled


def test_the_ways_to_a_labels_slices(opened: Viewer, case: Case) -> None:
    press(opened, case, case.deepest("lesion"), "axial")
    mask = opened.labelmap()["lesion"]
    areas = mask.sum(axis=(0, 1))
    found = np.flatnonzero(areas)
    for name, k in (("First", found[0]), ("Last", found[-1]), ("Largest", areas.argmax())):
        opened.volumes.get_by_role("button", name=name).click()
        assert axial_slice(opened, case) == k
    opened.volumes.get_by_role("button", name="First").click()
    opened.page.keyboard.press("g")
    assert axial_slice(opened, case) == areas.argmax()
    opened.page.keyboard.press("2")
    opened.page.keyboard.press("g")
    expect(opened.status).to_have_text("liver has no voxel to go to")


def axial_slice(viewer: Viewer, case: Case) -> int:
    """The slice of the series on which the axial viewport's camera is."""
    x, y, z = viewer.page.evaluate(FOCUS, "mpr-axial")
    return round(float(np.linalg.solve(case.affine, (-x, -y, z, 1.0))[2]))


def test_a_brush_is_as_wide_as_it_is_set(opened: Viewer) -> None:
    page, slider = opened.page, opened.page.locator("#sam3d-brush")
    page.keyboard.press("b")
    painted = []
    for radius_mm in ("2", "8"):
        slider.fill(radius_mm)
        expect(opened.bar.locator("#sam3d-brush + span")).to_have_text(f"{radius_mm} mm")
        opened.drag_in("axial", (0.35, 0.55), (0.4, 0.55))
        painted.append(int(opened.labelmap()["lesion"].sum()))
        page.keyboard.press("Control+z")
        expect(opened.status).to_have_text("Stroke taken back")
    assert painted[0] > 0
    assert painted[1] > 2 * painted[0]
    page.keyboard.press("s")
    page.keyboard.press("w")
    page.keyboard.press("w")
    expect(opened.bar.locator("#sam3d-brush + span")).to_have_text("9 mm")


SHOWN = "() => window.services.viewportGridService.getState().viewports.size"


def test_one_view_becomes_large_and_all_three_come_back(sized: Viewer, case: Case) -> None:
    page = sized.page
    press(sized, case, case.deepest("lesion"), "axial")
    width = page.evaluate(BOX, "mpr-axial")["width"]
    page.keyboard.press("f")
    page.wait_for_function(f"({SHOWN})() === 1")
    page.wait_for_function(f"(width) => ({BOX})('mpr-axial').width > 1.5 * width", arg=width)
    large = sized.coloured_pixels()
    assert large > 0
    page.keyboard.press("f")
    page.wait_for_function(f"({SHOWN})() === 3")
    assert sized.labelmap()["lesion"].any()
    press(sized, case, case.deepest("liver"), "coronal")  # and clicks go on
