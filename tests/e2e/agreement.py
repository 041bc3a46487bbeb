"""What is promised of every series, however its slices lie: clicks hit their voxels, masks lie where they belong."""

from __future__ import annotations

import numpy as np

from lib.evaluation.metrics import dice
from measured import figures
from series import Case
from serving import Server
from viewer import PLANES, Viewer


def check_clicks_and_mask(name: str, viewer: Viewer, case: Case, server: Server) -> None:
    """Click on a lesion in each plane; hold what was sent against its place, the screen against the server."""
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
        f"{name:12} click to voxel {'/'.join(str(error) for error in errors)} (axial/sagittal/coronal)   "
        f"Dice with the server {agreement:.3f}, with the truth {truth:.3f}, {int(shown.sum())} voxels"
    )
    assert errors.max() <= 1
    assert all(shown[tuple(click)] for click in run.params["lesion"])
    assert agreement >= 0.99
