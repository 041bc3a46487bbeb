"""What a case can start from: a model's draft, another program's SEG, a stored version; clicks carry on from each."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect

from lib.labels.dicom_seg_writing import SegInfo, write_seg
from series import LAYOUTS, Case, write_case
from serving import REQUEST_LIMIT_S, Serve, Server
from stored import newest_version
from viewer import Dialogs, Viewer

Voxel = tuple[int, int, int]


@pytest.fixture(scope="module")
def case(studies: Path) -> Case:
    """A series with a SEG whose one name is none of this server's."""
    case = write_case(studies / "ascending", "ascending", LAYOUTS["ascending"], 300)
    masks = {"Tumor": case.mask("lesion")}
    write_seg(masks, case.affine, studies / "ascending", studies / "seg.dcm", SegInfo("elsewhere"))
    return case


@pytest.fixture(scope="module")
def overlapping(studies: Path) -> Case:
    """A series with a SEG of a liver, the lesion in it included, and of that lesion."""
    case = write_case(studies / "coronal", "coronal", LAYOUTS["coronal"], 301)
    masks = {"lesion": case.mask("lesion"), "liver": case.mask("liver") | case.mask("lesion")}
    write_seg(masks, case.affine, studies / "coronal", studies / "both.dcm", SegInfo("Elsewhere^Else"))
    return case


@pytest.fixture(scope="module")
def server(serve: Serve, studies: Path, case: Case, overlapping: Case) -> Server:
    return serve(studies)


def test_clicks_carry_on_from_what_there_is(viewer: Viewer, case: Case, server: Server) -> None:
    Dialogs(viewer.page, accept=True)
    made = server.http.post(
        f"{server.url}/batch/infer/sam3d_auto", params={"run_sync": "true"}, json={}, timeout=REQUEST_LIMIT_S
    )
    assert made.json()[case.series]["tag"] == "original", made.text
    viewer.open(case.study, is_answered_at_once=True)
    expect(viewer.case_state).to_have_text("A draft, made by the model; no label yet")
    viewer.page.keyboard.press("m")
    expect(viewer.choices).to_have_text(
        [re.compile("^1 +Draft by sam3d_auto base, "), re.compile("^2 +SEG of .*: Tumor$")]
    )
    viewer.page.keyboard.press("Escape")
    viewer.start_from("Draft by")
    expect(viewer.status).to_have_text(re.compile("^Draft by sam3d_auto base: "))
    draft = server.http.get(
        f"{server.url}/cases/download", params={"image": case.series, "format": "nrrd", "tag": "original"}, timeout=60
    )
    assert draft.ok

    viewer.start_from("SEG of the archive")
    expect(viewer.status).to_have_text("SEG of the archive: Tumor, as lesion")
    mask = case.mask("lesion")
    assert np.array_equal(viewer.labelmap()["lesion"], mask)
    # A click cuts a voxel out, and leaves most of the mask as it was; also after a reload.
    unwanted, other = corners(mask)
    cut_out(viewer, case, unwanted)
    assert overlap(viewer, mask) > 0.5
    with viewer.answered():
        viewer.page.keyboard.press("Control+z")
    assert np.array_equal(viewer.labelmap()["lesion"], mask)
    cut_out(viewer, case, unwanted)
    expect(viewer.bar).to_have_attribute("data-kept", re.compile("."))
    viewer.page.reload(wait_until="domcontentloaded")
    viewer.wait_until_ready(is_answered_at_once=True)
    expect(viewer.status).to_have_text(re.compile("^As you left it at"))
    cut_out(viewer, case, other)
    assert overlap(viewer, mask) > 0.5
    shown = viewer.labelmap()["lesion"]
    assert not shown[unwanted]

    viewer.page.keyboard.press("Enter")
    expect(viewer.status).to_have_text(re.compile("^Stored: lesion"))
    stored, card = newest_version(server, case)
    assert np.array_equal(stored["lesion"], shown)
    assert list(card["info"]["started_from"]) == ["seg"]
    viewer.page.keyboard.press("m")
    expect(viewer.choices).to_have_text(
        [re.compile("^1 +Version 1 by"), re.compile("^2 +Draft"), re.compile("^3 +SEG")]
    )
    viewer.page.keyboard.press("Escape")
    viewer.start_from("Draft by")
    viewer.start_from("Version 1 by")
    assert np.array_equal(viewer.labelmap()["lesion"], shown)


def test_of_structures_that_overlap_the_smaller_one_shows(viewer: Viewer, overlapping: Case) -> None:
    viewer.open(overlapping.study, is_answered_at_once=True)
    viewer.start_from("Version 1 by")  # a SEG with names of this server's is a label
    lesion, liver = overlapping.mask("lesion"), overlapping.mask("liver")
    said = f"lesion, liver; lesion hides liver in {lesion.sum()} voxels"
    expect(viewer.status).to_have_text(re.compile(f"^Version 1 by .*: {said}$"))
    shown = viewer.labelmap()
    assert np.array_equal(shown["lesion"], lesion)
    assert np.array_equal(shown["liver"], liver & ~lesion)


def corners(mask: np.ndarray) -> tuple[Voxel, Voxel]:
    """Two voxels of a mask that lie far apart."""
    found = np.argwhere(mask)
    return tuple(map(int, found[found[:, 0].argmin()])), tuple(map(int, found[found[:, 0].argmax()]))


def cut_out(viewer: Viewer, case: Case, voxel: Voxel) -> None:
    viewer.page.keyboard.down("Alt")
    viewer.press_at(case.lps_mm(voxel))
    viewer.page.keyboard.up("Alt")
    assert not viewer.labelmap()["lesion"][voxel]


def overlap(viewer: Viewer, mask: np.ndarray) -> float:
    """The share of a mask that the lesion on the screen covers."""
    return float(viewer.labelmap()["lesion"][mask].mean())
