"""How much of a mask's surface is cut straight where a patch ends.

    python benchmarks/patch_faces.py --data FOLDER          # pairs NAME_image.nii.gz, NAME_label.nii.gz
    python benchmarks/patch_faces.py --phantoms 20

Each target gets five clicks by the interactive protocol. Of the voxel faces on the surface of the last mask, those
count that lie, within half a voxel and facing its way, on a face of one of the patches that were asked. As many lie on
any such planes by chance: the share on the same planes, moved by a few voxels, is printed beside it. One line of JSON.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from support.report import report

from lib.boxes import Index
from lib.datasets.labelled_cases import cases_in, opened, phantom_cases
from lib.evaluation.protocol import FEWEST_VOXELS, Answer, Segmenter, evaluate_target
from lib.geometry import PatchGrid
from lib.images.volumes import Volume
from lib.interactive.predictor import Predictor, load_predictor
from lib.interactive.prompts import prompts_from_request
from lib.settings import BACKGROUND, Settings

Mask = NDArray[np.bool_]
CLICKS = 5
# Voxels by which the faces are moved to see what lies there by chance.
MOVED = (-4, -3, 3, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, metavar="DIR", help="labelled cases")
    source.add_argument("--phantoms", type=int, metavar="N", help="held-out phantoms")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="weights in place of the demo model's")
    args = parser.parse_args()
    torch.set_num_threads(1)
    predictor = load_predictor(Settings(labels=("object",), checkpoint=args.checkpoint))
    targets = total = on_patches = 0
    by_chance = 0.0
    for found in opened(cases_in(args.data) if args.data else phantom_cases(args.phantoms, "ct")):
        if isinstance(found, str):
            continue
        _, volume, label_map = found
        for value in np.unique(label_map[label_map > 0]):
            truth = np.asarray(label_map == value)
            if truth.sum() < FEWEST_VOXELS:
                continue
            grids: list[PatchGrid] = []
            _, masks = evaluate_target(segmenter_noting(predictor, volume, grids), truth, volume.spacing, CLICKS)
            surface, on_faces = surface_on_faces(masks[-1], grids, 0)
            total += surface
            on_patches += on_faces
            by_chance += float(np.mean([surface_on_faces(masks[-1], grids, moved)[1] for moved in MOVED]))
            targets += 1
    shares = {"on_faces": round(on_patches / total, 4), "by_chance": round(by_chance / total, 4)}
    report("surface on faces of patches", targets=targets, surface=total, **shares)


def segmenter_noting(predictor: Predictor, volume: Volume, grids: list[PatchGrid]) -> Segmenter:
    """The predictor for one label; the patches that it asks are added to `grids`."""

    def segment(foreground: Sequence[Index], background: Sequence[Index]) -> Answer:
        request = {"object": [list(click) for click in foreground], BACKGROUND: [list(click) for click in background]}
        found = predictor.segment(volume, prompts_from_request(request, ("object",), volume.shape))
        grids.extend(found.report.patches)
        return Answer(np.asarray(found.label_map == 1))

    return segment


def surface_on_faces(mask: Mask, grids: list[PatchGrid], moved: int) -> tuple[int, int]:
    """How many voxel faces a mask's surface (I, J, K) has inside of the volume, and how many of them lie on a patch's
    face that is moved by some voxels."""
    on_faces = total = 0
    for axis in range(3):
        inner = np.moveaxis(mask, axis, 0)
        changes = np.flatnonzero((inner[1:] != inner[:-1]).any(axis=(1, 2)))
        # Between voxel n and n + 1, by which side the object lies on.
        steps = {int(n): (inner[n + 1] != inner[n], inner[n]) for n in changes}
        total += sum(int(changed.sum()) for changed, _ in steps.values())
        marked = {n: np.zeros_like(changed) for n, (changed, _) in steps.items()}
        for grid in grids:
            across = [np.arange(n) for n in np.delete(mask.shape, axis)]
            low, high = patch_edges(grid, axis)
            others = [patch_edges(grid, other) for other in range(3) if other != axis]
            beside = [(at >= first) & (at <= last) for at, (first, last) in zip(across, others, strict=True)]
            for edge, is_upper in ((low + moved, False), (high + moved, True)):
                for n in (int(np.floor(edge)), int(np.ceil(edge)) - 1):
                    if n in steps and abs(n + 0.5 - edge) <= 0.5:
                        changed, is_object_before = steps[n]
                        cut = changed & (is_object_before == is_upper)
                        marked[n] |= cut & beside[0][:, None] & beside[1][None, :]
        on_faces += sum(int(at.sum()) for at in marked.values())
    return total, on_faces


def patch_edges(grid: PatchGrid, axis: int) -> tuple[float, float]:
    """Where a patch begins and ends along a native axis, as float indices; the middle of voxel n is n."""
    column = grid.axes.index(axis)
    corners = grid.to_volume @ np.array([[-0.5] * 3 + [1], [grid.size - 0.5] * 3 + [1]]).T
    first, last = sorted(corners[grid.axes[column]])
    return float(first), float(last)


if __name__ == "__main__":
    main()
