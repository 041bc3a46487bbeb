"""One brush stroke on a missed part against one click there.

    python benchmarks/strokes.py                            # 20 targets in held-out phantoms, a minute
    python benchmarks/strokes.py --checkpoint FILE

Each target is clicked once in its middle. Where the largest part that the mask missed is deepest, either a click or a
brush stroke follows, with the first click's mask sent along: the stroke is what a brush of a third of that part's depth
leaves on one slice, along the part's longest way through the deepest point. Prints one line of JSON: the mean Dice
after the first click, with the click, with the stroke and with the stroke alone kept as painted, and each target's.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from support.report import report

from lib.datasets.labelled_cases import opened, phantom_cases
from lib.evaluation.metrics import dice
from lib.images.volumes import Volume
from lib.interactive.clicks import first_click, next_click
from lib.interactive.predictor import Predictor, load_predictor
from lib.interactive.prompts import drawn_on, prompts_from_request
from lib.settings import Settings

Mask = NDArray[np.bool_]
LABEL = "lesion"
MOST_PHANTOMS = 200
# Clicks that find no missed part of so many voxels have nothing to paint.
FEWEST_VOXELS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="weights in place of the demo model's")
    parser.add_argument("--targets", type=int, default=20, metavar="N", help="targets, partly missed by one click (20)")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch (1)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    predictor = load_predictor(Settings(labels=(LABEL,), checkpoint=args.checkpoint))
    rows = {}
    for found in opened(phantom_cases(MOST_PHANTOMS, "ct")):
        assert not isinstance(found, str), found
        case, volume, label_map = found
        row = compare_corrections(predictor, volume, np.asarray(label_map == 1))
        if row is not None:
            rows[case.name] = row
        if len(rows) == args.targets:
            break
    means = {name: round(float(np.mean([row[name] for row in rows.values()])), 4) for name in next(iter(rows.values()))}
    report("strokes", targets=len(rows), **means, dice=rows)


def compare_corrections(predictor: Predictor, volume: Volume, truth: Mask) -> dict[str, float] | None:
    """Dice after one click and after each kind of correction; None where the first click misses next to nothing."""
    click = first_click(truth, volume.spacing)
    mask = segment(predictor, volume, [click])
    missed = largest_part(truth & ~mask)
    if missed.sum() < FEWEST_VOXELS:
        return None
    correction = next_click(missed, np.zeros_like(missed), volume.spacing)
    assert correction is not None
    at, _ = correction
    stroke = paint_stroke(missed, at, volume.spacing)
    scores = {
        "before": dice(truth, mask),
        "click": dice(truth, segment(predictor, volume, [click, at])),
        "stroke": dice(truth, segment(predictor, volume, [click], stroke)),
        "only_painted": dice(truth, mask | stroke),
    }
    return {name: round(score, 4) for name, score in scores.items()}


def segment(
    predictor: Predictor, volume: Volume, clicks: list[tuple[int, int, int]], stroke: Mask | None = None
) -> Mask:
    """The mask (I, J, K) after clicks, and a stroke (I, J, K) if there is one."""
    request = prompts_from_request({LABEL: [list(click) for click in clicks]}, (LABEL,), volume.shape)
    if stroke is not None:
        request = drawn_on(request, {}, {LABEL: stroke.astype(np.int8)})
    return np.asarray(predictor.segment(volume, request).label_map == 1)


def largest_part(mask: Mask) -> Mask:
    """The largest connected part of a mask (I, J, K)."""
    parts, count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    return np.asarray(parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])) if count else mask


def paint_stroke(part: Mask, at: tuple[int, int, int], spacing: NDArray[np.float64]) -> Mask:
    """What a brush leaves (I, J, K) on the slice (k) of a voxel `at`: along the part's long axis there, within it."""
    stroke = np.zeros_like(part)
    in_slice = part[:, :, at[2]]
    depth = ndimage.distance_transform_edt(in_slice, sampling=spacing[:2])
    places = (np.argwhere(in_slice) - at[:2]) * spacing[:2]
    axis = np.linalg.svd(places - places.mean(axis=0), full_matrices=False)[2][0] if len(places) > 2 else np.ones(2)
    radius = max(float(depth[at[:2]]) / 3, 0.6 * float(spacing[:2].max()))
    across = np.abs(places @ np.array([-axis[1], axis[0]]))
    along = np.abs(places @ axis)
    chosen = np.argwhere(in_slice)[(across <= radius) & (along <= 3 * float(depth[at[:2]]))]
    stroke[chosen[:, 0], chosen[:, 1], at[2]] = True
    return stroke


if __name__ == "__main__":
    main()
