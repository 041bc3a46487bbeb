"""A folder of DICOM files and one command: from the study list of OHIF to a stored label, without an archive."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import RLELossless

from measured import figures
from series import LAYOUTS, Case, write_case
from serving import Serve, Server
from stored import newest_version
from viewer import Viewer

PATIENCE_S = 60.0
# The lowest slices of the series that grows, which come later.
LATER = 8


@pytest.fixture(scope="module")
def cases(studies: Path) -> dict[str, Case]:
    """An oblique series, packed and under names without ending, and one of which the lowest slices are missing."""
    found = {"packed": write_case(studies / "ann" / "ct 1", "packed", LAYOUTS["oblique"], 210)}
    for path in sorted((studies / "ann" / "ct 1").iterdir()):
        data = pydicom.dcmread(path)
        data.compress(RLELossless)
        data.save_as(path.with_name(f"IM{path.stem}"), write_like_original=False)
        path.unlink()
    found["grows"] = write_case(studies.with_name("whole"), "grows", LAYOUTS["ascending"], 211)
    (studies / "bob").mkdir()
    for path in sorted(studies.with_name("whole").iterdir())[LATER:]:
        (studies / "bob" / path.name).write_bytes(path.read_bytes())
    return found


@pytest.fixture(scope="module")
def server(serve: Serve, studies: Path, cases: dict[str, Case]) -> Server:
    return serve(studies)


def test_a_packed_series_is_annotated_and_its_label_stored(
    viewer: Viewer, server: Server, studies: Path, cases: dict[str, Case], tmp_path: Path
) -> None:
    case = cases["packed"]
    viewer.open_study_list().open(case.patient)
    run = viewer.annotate("lesion", case.lps_mm(case.deepest("lesion")))
    assert np.abs(np.array(run.params["lesion"][0]) - case.deepest("lesion")).max() <= 1
    assert viewer.submit().startswith("Stored: lesion")
    shown, kept = viewer.labelmap()["lesion"], newest_version(server, case)[0]["lesion"]
    assert shown.any()
    assert np.array_equal(kept, shown)
    received = studies / ".monailabel" / "received"
    assert len(list(received.rglob("*.dcm"))) == 1
    assert server.info()["datastore"]["completed"] == 1
    figures.append(f"folder of DICOM: {int(shown.sum())} voxels clicked in OHIF and stored")


def test_a_series_that_grew_is_annotated_whole(
    viewer: Viewer, server: Server, studies: Path, cases: dict[str, Case]
) -> None:
    case = cases["grows"]
    n_slices = case.label_map.shape[2]
    viewer.open(case.study)
    viewer.choose("liver")
    viewer.click_in("axial", 0.5, 0.5)
    assert viewer.run().status == 200
    assert viewer.image_size()[2] == n_slices - LATER
    for path in sorted(studies.with_name("whole").iterdir())[:LATER]:
        (studies / "bob" / path.name).write_bytes(path.read_bytes())
    address = f"{server.url}/proxy/dicom/studies/{case.study}/series"
    limit = time.monotonic() + PATIENCE_S
    while server.http.get(address, timeout=30).json()[0]["00201209"]["Value"] != [n_slices]:
        assert time.monotonic() < limit
        time.sleep(0.5)
    viewer.page.goto("about:blank")
    viewer.open(case.study)
    assert viewer.image_size()[2] == n_slices
    run = viewer.annotate("lesion", case.lps_mm(case.deepest("lesion")))
    assert np.abs(np.array(run.params["lesion"][0]) - case.deepest("lesion")).max() <= 1
    shown = viewer.labelmap()["lesion"]
    assert shown.shape == case.label_map.shape
    assert shown[case.deepest("lesion")]
    assert viewer.submit().startswith("Stored: lesion")
    assert np.array_equal(newest_version(server, case)[0]["lesion"], shown)
