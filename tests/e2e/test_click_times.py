"""How long it takes from a press of the mouse to the mask on the screen."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import pytest

from lib.evaluation.metrics import dice
from measured import figures
from series import LAYOUTS, Case, deepest, write_case
from serving import Serve, Server
from viewer import Viewer

N_LATER = 20
# Of each press the milliseconds until the axial viewport has drawn the labelmap that changed since.
WATCH = """() => {
  const { eventTarget, getRenderingEngines, Enums } = window.cornerstone;
  const changed = window.cornerstoneTools.Enums.Events.SEGMENTATION_DATA_MODIFIED;
  const { element } = getRenderingEngines()[0].getViewport('mpr-axial');
  let pressed = null;
  let isChanged = false;
  window.timesMs = [];
  window.addEventListener('mousedown', () => { pressed = performance.now(); isChanged = false; }, true);
  eventTarget.addEventListener(changed, () => { isChanged = true; });
  element.addEventListener(Enums.Events.IMAGE_RENDERED, () => {
    if (pressed !== null && isChanged) {
      window.timesMs.push(performance.now() - pressed);
      pressed = null;
    }
  });
}"""


@pytest.fixture(scope="module")
def case(studies: Path) -> Case:
    return write_case(studies / "ascending", "ascending", LAYOUTS["ascending"], 300)


@pytest.fixture(scope="module")
def server(serve: Serve, studies: Path, case: Case) -> Server:
    return serve(studies, {"max_clicks": str(2 * N_LATER)})


def test_from_click_to_mask(viewer: Viewer, case: Case) -> None:
    """Each click corrects what is most wrong, and is made when the one before is on the screen."""
    page, truth = viewer.page, case.mask("liver")
    viewer.open(case.study, is_answered_at_once=True)
    page.keyboard.press("2")
    page.evaluate(f"({WATCH})()")
    at = case.deepest("liver")
    for number in range(1 + N_LATER):
        is_too_much = viewer.labelmap()["liver"][at]
        if is_too_much:
            page.keyboard.down("Alt")
        viewer.press_at(case.lps_mm(at))
        page.keyboard.up("Alt")
        page.wait_for_function("(count) => window.timesMs.length === count", arg=number + 1)
        at = deepest(viewer.labelmap()["liver"] ^ truth)
    first, *later = page.evaluate("() => window.timesMs")
    assert len(later) == N_LATER
    agreement = dice(viewer.labelmap()["liver"], truth)
    figures.append(
        f"click to mask on the screen: first {first / 1000:.2f} s; {N_LATER} later ones: median "
        f"{median(later) / 1000:.2f} s, longest {max(later) / 1000:.2f} s; Dice {agreement:.2f} in the end"
    )
    assert agreement > 0.5  # it is the organ that was clicked
