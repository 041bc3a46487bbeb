"""A click is the voxel under the mouse, and the mask on the screen is the one the server computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import RLELossless

from agreement import check_clicks_and_mask
from archive import orthanc_program, store
from lib.images.dicom_writing import SeriesInfo, on_dicom_grid, write_series
from series import LAYOUTS, Case, Layout, read_case, write_case
from serving import Server
from viewer import Viewer

REAL_SERIES = Path(__file__).parents[2].parent / "shared" / "data" / "dicom"
LARGE_SHAPE = (512, 512, 400)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_clicks_reach_their_voxels_and_masks_their_places(
    layout: str, viewer: Viewer, cases: dict[str, Case], server: Server
) -> None:
    check_clicks_and_mask(layout, viewer, cases[layout], server)


def test_compressed_slices_are_like_others(viewer: Viewer, server: Server, archive: str, tmp_path: Path) -> None:
    if not orthanc_program():
        pytest.skip("the demo archive takes uncompressed slices only: install Debian's orthanc and orthanc-dicomweb")
    case = write_case(tmp_path, "compressed", Layout(order="descending"), 120)
    for path in tmp_path.rglob("*.dcm"):
        instance = pydicom.dcmread(path)
        instance.compress(RLELossless)
        instance.save_as(path)
    store(archive, tmp_path)
    check_clicks_and_mask("compressed", viewer, case, server)


def test_four_hundred_slices_are_like_forty(viewer: Viewer, server: Server, archive: str, tmp_path: Path) -> None:
    spacing = np.array((0.7, 0.7, 1.0))
    array = np.random.default_rng(0).normal(40, 12, LARGE_SHAPE).astype(np.int16)
    axes = np.ogrid[tuple(slice(size) for size in LARGE_SHAPE)]
    ball = sum(((axis - at) * mm) ** 2 for axis, at, mm in zip(axes, (200, 300, 250), spacing, strict=True)) < 15**2
    array[ball] += 100
    array, affine = on_dicom_grid(array, np.diag((*(-1, -1, 1) * spacing, 1.0)))
    ball, _ = on_dicom_grid(ball, np.diag((*(-1, -1, 1) * spacing, 1.0)))
    info = SeriesInfo("E2E-large", "Phantom^large", description="large")
    write_series(tmp_path, array, affine, info)
    store(archive, tmp_path)
    case = Case(info.study_uid, info.uid(), info.patient_id, affine, ball.astype(np.uint8))
    check_clicks_and_mask("large", viewer, case, server)


@pytest.mark.data
@pytest.mark.parametrize("name", ["CRLM-CT-1004_CT", "LIDC-IDRI-0314_CT_subset", "STS_001_CT"])
def test_series_of_scanners_are_like_ours(name: str, viewer: Viewer, server: Server, archive: str) -> None:
    folder = REAL_SERIES / name
    if not folder.exists():
        pytest.skip(f"{folder} is not there: it is no part of this repository")
    case = read_case(folder / "ct", folder / "label.nii.gz")
    store(archive, folder / "ct")
    check_clicks_and_mask(name[:12], viewer, case, server)
