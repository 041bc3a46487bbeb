"""OHIF as an annotator sees it: page objects, so that specs say what is done and not where it is on the page.

Everything waits for a signal of the viewer (an image rendered, a point made, a mask painted), never for a time.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Dialog, FloatRect, Locator, Page, Request, expect

PLANES = ("axial", "sagittal", "coronal")
PATIENCE_MS = 300_000  # a browser without a graphics card, on a busy machine
expect.set_options(timeout=PATIENCE_MS)

VOLUME = "window.cornerstone.cache.getVolumes().find((volume) => volume.loadStatus && volume.loadStatus.loaded)"

# Scroll every viewport to a place in the patient, and zoom in on it where a pixel of the screen is more than a voxel.
# Where is it then on the page? Resolves when all have rendered it.
SHOW = f"""async (lps) => {{
  const places = {{}};
  const voxelMm = Math.min(...{VOLUME}.spacing);
  for (const viewport of window.cornerstone.getRenderingEngines()[0].getViewports()) {{
    const rendered = new Promise((resolve) => viewport.element.addEventListener(
      window.cornerstone.Enums.Events.IMAGE_RENDERED, resolve, {{ once: true }}));
    viewport.jumpToWorld(lps);
    const {{ focalPoint, position, parallelScale }} = viewport.getCamera();
    const half = voxelMm * viewport.canvas.clientHeight / 2;
    if (parallelScale > half) {{
      const moved = position.map((value, axis) => value + lps[axis] - focalPoint[axis]);
      viewport.setCamera({{ focalPoint: lps, position: moved, parallelScale: half }});
    }}
    viewport.render();
    await rendered;
    const [x, y] = viewport.worldToCanvas(lps);
    const box = viewport.canvas.getBoundingClientRect();
    places[viewport.id] = {{ x: box.x + x, y: box.y + y }};
  }}
  return places;
}}"""
BOX = """(id) => {
  const box = window.cornerstone.getRenderingEngines()[0].getViewport(id).canvas.getBoundingClientRect();
  return { x: box.x, y: box.y, width: box.width, height: box.height };
}"""
# The image's corners on the canvas, as far as they are on it.
FILLED = f"""(id) => {{
  const viewport = window.cornerstone.getRenderingEngines()[0].getViewport(id);
  const {{ clientWidth, clientHeight }} = viewport.canvas;
  const {{ dimensions, imageData }} = {VOLUME};
  const ends = dimensions.map((size) => [0, size - 1]);
  const at = ends[0].flatMap((i) => ends[1].flatMap((j) => ends[2].map((k) => (
    viewport.worldToCanvas(imageData.indexToWorld([i, j, k]))))));
  const within = (axis, size) => {{
    const places = at.map((place) => Math.min(Math.max(place[axis], 0), size));
    return (Math.max(...places) - Math.min(...places)) / size;
  }};
  return within(0, clientWidth) * within(1, clientHeight);
}}"""
POINTS = """() => window.cornerstoneTools.annotation.state.getAllAnnotations()
  .filter((annotation) => annotation.metadata.toolName === 'ProbeMONAILabel').length"""
LABELMAP = """() => {
  const volume = window.services.segmentationService.getLabelmapVolume('1');
  const values = volume.voxelManager.getCompleteScalarDataArray();
  let text = '';
  for (let start = 0; start < values.length; start += 32768) {
    text += String.fromCharCode(...values.subarray(start, start + 32768));
  }
  const segments = Object.values(window.services.segmentationService.getSegmentation('1').segments).filter(Boolean);
  return { size: volume.dimensions, voxels: btoa(text),
    names: Object.fromEntries(segments.map((segment) => [segment.label, segment.segmentIndex])) };
}"""


@dataclass
class Run:
    """One request for a mask, as the page sent it, and what came back."""

    params: dict[str, Any]
    status: int


@dataclass
class Viewer:
    """One browser page at one server."""

    page: Page
    server: str
    console: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.on("console", lambda message: self.console.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.console.append(f"page error: {error}"))

    # ------------------------------------------------------------------ ways to a case

    def open_study_list(self) -> StudyList:
        """The page the viewer starts with."""
        self.page.goto(f"{self.server}/ohif/", wait_until="domcontentloaded")
        studies = StudyList(self)
        studies.rows.first.wait_for()
        return studies

    def open(self, study: str, is_answered_at_once: bool = False) -> None:
        """A study in the MONAI Label mode, loaded, and the panel connected by itself. Clicks wait for Run unless
        `is_answered_at_once`, as the viewer opens."""
        address = f"{self.server}/ohif/monai-label?StudyInstanceUIDs={study}"
        self.page.goto(address, wait_until="domcontentloaded")
        self.wait_until_ready(is_answered_at_once)

    def wait_until_ready(self, is_answered_at_once: bool = False) -> None:
        """Until the case is loaded and the panel has connected, with its click tab open."""
        self.bar.wait_for()
        notice = self.page.get_by_text("Confirm and Hide")
        if notice.is_visible():
            notice.click()
        self.page.wait_for_function(f"() => {VOLUME} !== undefined")
        self.run_button.wait_for()
        if not is_answered_at_once:
            self.at_once.uncheck()

    # ------------------------------------------------------------------ what is on the page

    @property
    def bar(self) -> Locator:
        return self.page.locator("#sam3d-bar")

    @property
    def status(self) -> Locator:
        return self.bar.get_by_role("status")

    @property
    def at_once(self) -> Locator:
        return self.page.get_by_label("Answer every click")

    @property
    def volumes(self) -> Locator:
        """A line for each label that has voxels."""
        return self.bar.locator("#sam3d-volumes > div")

    @property
    def case_state(self) -> Locator:
        """How far the open case is."""
        return self.bar.locator("#sam3d-case [data-part=state]")

    @property
    def also_open(self) -> Locator:
        """Who else has it open."""
        return self.bar.locator("#sam3d-case [data-part=others]")

    @property
    def training(self) -> Locator:
        """The served version, its score, and how training goes or went."""
        return self.bar.locator("#sam3d-training")

    @property
    def run_button(self) -> Locator:
        return self.page.get_by_title("Run PointPrompts")

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    def labelmap(self) -> dict[str, NDArray[np.bool_]]:
        """Mask (I, J, K) by label, of the voxels that the viewer shows."""
        shown = self.page.evaluate(LABELMAP)
        voxels = np.frombuffer(base64.b64decode(shown["voxels"]), np.uint8).reshape(shown["size"], order="F")
        return {name: voxels == segment for name, segment in shown["names"].items()}

    def filled(self, plane: str) -> float:
        """The share of a viewport that the image's rectangle takes."""
        return float(self.page.evaluate(FILLED, f"mpr-{plane}"))

    def image_size(self) -> tuple[int, ...]:
        """Columns, rows and slices of the volume on the screen."""
        return tuple(self.page.evaluate(f"() => Array.from({VOLUME}.dimensions)"))

    def coloured_pixels(self, plane: str = "axial") -> int:
        """How many pixels in the middle of a viewport are not grey, as images are."""
        box = self.page.evaluate(BOX, f"mpr-{plane}")
        width, height = box["width"], box["height"]
        middle = FloatRect(x=box["x"] + 0.2 * width, y=box["y"] + 0.2 * height, width=0.6 * width, height=0.6 * height)
        pixels = np.asarray(Image.open(BytesIO(self.page.screenshot(clip=middle))).convert("RGB")).astype(int)
        return int((np.ptp(pixels, axis=-1) > 40).sum())

    # ------------------------------------------------------------------ clicks

    def choose(self, label: str) -> None:
        """A row of the click tab: the label that clicks, brushes and undo are for."""
        tab = self.page.locator(".tab", has=self.run_button)
        tab.locator("tr.clickable-row", has=self.page.get_by_text(label, exact=True)).click()

    def click_at(self, lps_mm: Sequence[float], plane: str = "axial") -> None:
        """A click at a place in the patient, in a viewport that shows it."""
        place = self.page.evaluate(SHOW, list(lps_mm))[f"mpr-{plane}"]
        self._click(place["x"], place["y"])

    def press_at(self, lps_mm: Sequence[float], plane: str = "axial") -> None:
        """One press of the mouse at a place in the patient, which is answered at once."""
        place = self.page.evaluate(SHOW, list(lps_mm))[f"mpr-{plane}"]
        with self.answered():
            self.page.mouse.click(place["x"], place["y"])

    def click_in(self, plane: str, across: float, down: float) -> None:
        """A click in fractions of a viewport's width and height, on the slice that it shows."""
        box = self.page.evaluate(BOX, f"mpr-{plane}")
        self._click(box["x"] + across * box["width"], box["y"] + down * box["height"])

    def drag_in(self, plane: str, start: tuple[float, float], end: tuple[float, float]) -> None:
        """A stroke of the mouse, in fractions of a viewport."""
        box = self.page.evaluate(BOX, f"mpr-{plane}")
        at = [(box["x"] + across * box["width"], box["y"] + down * box["height"]) for across, down in (start, end)]
        self.page.mouse.move(*at[0])
        self.page.mouse.down()
        self.page.mouse.move(*at[1], steps=8)
        self.page.mouse.up()

    def _click(self, x: float, y: float) -> None:
        points = self.page.evaluate(POINTS)
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.up()
        self.page.wait_for_function(f"(before) => ({POINTS})() > before", arg=points)

    # ------------------------------------------------------------------ runs

    def run(self) -> Run:
        """Press Run and wait for what becomes of it."""
        with self.answered() as answers:
            self.run_button.click()
        return answers[-1]

    def annotate(self, label: str, lps_mm: Sequence[float]) -> Run:
        """Choose a label, click on it and press Run, which is answered with a mask."""
        self.choose(label)
        self.click_at(lps_mm)
        run = self.run()
        assert run.status == 200
        assert self.labelmap()[label].any()
        return run

    @contextmanager
    def answered(self) -> Iterator[list[Run]]:
        """Wait, at the end, for the answer to one request for a mask, and until it is painted or refused."""
        runs: list[Run] = []
        painted = int(self.bar.get_attribute("data-painted") or 0)
        with self.page.expect_response(re.compile(r"/infer/"), timeout=PATIENCE_MS) as answer:
            yield runs
        response = answer.value
        runs.append(Run(sent_params(response.request), response.status))
        if response.ok:
            expect(self.bar).to_have_attribute("data-painted", str(painted + 1))
        expect(self.bar).not_to_have_attribute("data-state", "running")

    # ------------------------------------------------------------------ storing

    @property
    def choices(self) -> Locator:
        """The numbered answers of the question that the page asks."""
        return self.page.locator("#sam3d-choice button")

    def start_from(self, name: str) -> None:
        """Choose what begins so in the list of what there is, and wait until it is on the screen."""
        self.button("Start from…").click()
        self.choices.filter(has_text=name).click()
        expect(self.choices).to_have_count(0)
        expect(self.bar).not_to_have_attribute("data-state", "running")

    def submit(self) -> str:
        """Press Submit; what the bar says about it in the end."""
        self.button("Submit label").click()
        expect(self.bar).not_to_have_attribute("data-state", "running")
        return self.status.inner_text()

    # ------------------------------------------------------------------ active learning

    def be_somebody_else(self) -> None:
        """Open cases from here on as an annotator whom the server has not met: a browser keeps its user's name."""
        self.page.add_init_script("window.localStorage.removeItem('sam3d.client')")

    def open_learning(self) -> None:
        """The tab with Next Sample and Update Model."""
        switch = self.page.locator("input.tab-switch[name=activelearning]")
        if not switch.is_checked():
            self.page.locator("label.tab-label", has_text="Active Learning").click()

    def next_sample(self, strategy: str) -> tuple[str, str]:
        """Ask for a case and take it: the address asked, and the study that was loaded."""
        self.open_learning()
        self.page.locator(".tab select.actionInput").select_option(strategy)
        with self.page.expect_response(re.compile(r"/activelearning/")) as answer:
            self.button("Next Sample").click()
        study = answer.value.json()["StudyInstanceUID"]
        # The viewer asks whether to reload. A page with changes would be asked about once more.
        self.page.once("dialog", lambda dialog: dialog.accept())
        self.page.locator(".nextSampleForm button.actionButton").click()
        self.page.wait_for_url(re.compile(re.escape(study)))
        self.wait_until_ready()
        return answer.value.url, study


@dataclass
class StudyList:
    """The list of studies that the viewer opens with."""

    viewer: Viewer

    @property
    def rows(self) -> Locator:
        return self.viewer.page.locator("table tbody tr")

    def open(self, patient: str) -> None:
        """Unfold a patient's study and choose the MONAI Label mode."""
        page = self.viewer.page
        self.rows.filter(has_text=patient).first.click()
        page.get_by_role("button", name="MONAI Label").click()
        self.viewer.wait_until_ready()


class Dialogs:
    """What the page asks its user, answered as told; `said` are the questions."""

    def __init__(self, page: Page, accept: bool) -> None:
        self.said: list[str] = []
        self.accept = accept
        page.on("dialog", self._answer)

    def _answer(self, dialog: Dialog) -> None:
        self.said.append(dialog.message or dialog.type)
        dialog.accept() if self.accept else dialog.dismiss()


def sent_params(request: Request) -> dict[str, Any]:
    """The field `params` of a multipart request; empty for one that holds a blob, whose body the browser does not
    tell."""
    body = request.post_data_buffer or b""
    if not body:
        return {}
    found = re.search(rb'name="params"\r\n\r\n(.*?)\r\n--', body, re.DOTALL)
    assert found, f"{request.url} was sent without params"
    return json.loads(found.group(1))
