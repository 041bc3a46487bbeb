"""A click is the voxel under the mouse, and the mask on the screen is the one the server computed."""

from __future__ import annotations

import numpy as np
import pytest

from lib.metrics import dice
from measured import figures
from series import LAYOUTS, Case
from serving import Server
from viewer import PLANES, Viewer


@pytest.mark.parametrize("layout", LAYOUTS)
def test_clicks_reach_their_voxels_and_masks_their_places(
    layout: str, viewer: Viewer, cases: dict[str, Case], server: Server
) -> None:
    case = cases[layout]
    voxel = case.deepest("lesion")
    viewer.open(case.study)
    assert viewer.image_size() == case.label_map.shape
    viewer.choose("lesion")
    for plane in PLANES:
        viewer.click_at(case.lps_mm(voxel), plane)
    run = viewer.run()
    assert run.status == 200

    errors = np.abs(np.array(run.params["lesion"]) - voxel).max(axis=1)
    assert errors.shape == (3,)
    shown = viewer.labelmap()["lesion"]
    computed = server.infer(run.params, case.series, output="image").mask
    assert computed is not None
    agreement = dice(shown, computed == 1)
    truth = dice(shown, case.mask("lesion"))
    figures.append(
        f"{layout:12} click to voxel {'/'.join(str(error) for error in errors)} (axial/sagittal/coronal)   "
        f"Dice with the server {agreement:.3f}, with the truth {truth:.3f}, {int(shown.sum())} voxels"
    )
    assert errors.max() <= 1
    assert all(shown[tuple(click)] for click in run.params["lesion"])
    assert agreement >= 0.99
