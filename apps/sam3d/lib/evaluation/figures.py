"""Pictures of an evaluation: Dice against clicks, and targets in three planes with the outlines of truth and masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lib.boxes import Index, bounding_box
from lib.geometry import PatchGrid
from lib.images.preprocess import intensity_of, looks_like_hounsfield
from lib.images.volumes import Volume
from lib.settings import PRESETS

Mask = NDArray[np.bool_]

PLANES = ("axial", "coronal", "sagittal")
SIDE = 160  # pixels of a plane
MARGIN_MM, MOST_MM = 15.0, 500.0
COLOURS = ("#00e676", "#ffb000", "#ff4081")
TRUTH, CLICKS = "truth", ("after the first click", "after the last click")


@dataclass(frozen=True)
class Snapshot:
    """Three planes through a click, seen as radiologists do: image (3, P, P) uint8, and of each outlined mask, by name
    and in the order of COLOURS, the coverage (3, P, P), 0 to 1."""

    image: NDArray[np.uint8]
    masks: Mapping[str, NDArray[np.float32]]

    @classmethod
    def of(
        cls, volume: Volume, label: Mask, masks: Sequence[Mask], click: Index, names: Sequence[str] = CLICKS
    ) -> Snapshot:
        """Of a target and the first and last mask found, called `names`, on the volume's own grid (I, J, K); of the
        first alone where there is one name."""
        box = bounding_box(label)
        assert box is not None
        reach = [max(at - part.start, part.stop - at) for at, part in zip(click, box, strict=True)]
        side_mm = min(MOST_MM, 2 * float((volume.spacing * reach).max()) + 2 * MARGIN_MM)
        grid = PatchGrid.around(volume.affine, click, SIDE, side_mm / SIDE)
        outlined = (label, masks[0], masks[-1])[: 1 + len(names)]
        shown = [_planes(grid.sample(mask, fill=0)) for mask in outlined]
        return cls(_windowed(volume, grid), dict(zip((TRUTH, *names), shown, strict=True)))


def draw_overlays(snapshots: Sequence[tuple[str, Snapshot]], path: Path) -> None:
    """One row of three planes for each titled snapshot, as a PNG."""
    figure = Figure(figsize=(9, 3.2 * len(snapshots)), layout="constrained", facecolor="white")
    axes = figure.subplots(len(snapshots), len(PLANES), squeeze=False)
    for row, (title, snapshot) in zip(axes, snapshots, strict=True):
        row[0].set_title(title, loc="left", fontsize=9)
        for plane, panel in enumerate(row):
            panel.imshow(snapshot.image[plane], cmap="gray", vmin=0, vmax=255)
            for coverage, colour in zip(snapshot.masks.values(), COLOURS, strict=False):
                if coverage[plane].max() > 0.5 > coverage[plane].min():
                    panel.contour(coverage[plane], [0.5], colors=[colour], linewidths=1.2)
            panel.set_axis_off()
    for name, colour in zip(snapshots[0][1].masks, COLOURS, strict=False):
        axes[0, 0].plot([], [], color=colour, label=name)
    figure.legend(loc="outside lower center", ncols=len(COLOURS), fontsize=9)
    figure.savefig(path, dpi=100)


def draw_curves(
    curves: Mapping[str, Sequence[Sequence[float]]],
    path: Path,
    counts: Sequence[int] | None = None,
    unit: str = "clicks",
) -> None:
    """Dice (targets, counts) of each method against the number of clicks, 1, 2, ... unless `counts` says otherwise, as
    a PNG: the mean and the middle half."""
    figure = Figure(figsize=(6, 4), layout="constrained", facecolor="white")
    panel = figure.subplots()
    for method, rows in curves.items():
        dices = np.asarray(rows)
        clicks = np.arange(1, dices.shape[1] + 1) if counts is None else np.asarray(counts)
        (line,) = panel.plot(clicks, dices.mean(axis=0), marker="o", label=f"{method}, mean of {len(dices)} targets")
        low, high = np.percentile(dices, [25, 75], axis=0)
        panel.fill_between(clicks, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    panel.set(xlabel=unit, ylabel="Dice", ylim=(0, 1), xticks=clicks)
    panel.grid(alpha=0.3)
    panel.legend(loc="lower right", fontsize=9)
    figure.savefig(path, dpi=100)


def draw_sizes(ml: Sequence[float], scores: Mapping[str, Sequence[float]], path: Path) -> None:
    """Dice of each target against its size in ml, on a scale of powers of ten, for each named answer; as a PNG."""
    figure = Figure(figsize=(6, 4), layout="constrained", facecolor="white")
    panel = figure.subplots()
    for name, dices in scores.items():
        panel.scatter(ml, dices, label=name, alpha=0.7, s=28)
    panel.set(xlabel="size of the target, ml", ylabel="Dice", ylim=(0, 1), xscale="log")
    panel.grid(alpha=0.3)
    panel.legend(loc="lower right", fontsize=9)
    figure.savefig(path, dpi=100)


def _windowed(volume: Volume, grid: PatchGrid) -> NDArray[np.uint8]:
    """Grey values of the planes: CT in a soft-tissue window, anything else between its outer percentiles."""
    window = PRESETS["ct"] if looks_like_hounsfield(volume) else intensity_of(volume, PRESETS["mr"])
    planes = _planes(grid.sample(volume.array, fill=window.low))
    grey = (planes - window.low) / max(window.high - window.low, 1e-6) * 255
    return np.clip(grey, 0, 255).astype(np.uint8)


def _planes(cube: NDArray[np.float32]) -> NDArray[np.float32]:
    """The middle planes of (P, P, P), axes (d, h, w), with the patient's right and front on the left, head up."""
    middle = len(cube) // 2
    return np.stack([cube[middle, ::-1, ::-1], cube[::-1, middle, ::-1], cube[::-1, ::-1, middle]])
