"""Curves for the docs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLUMNS = 4
BEFORE, AFTER = "#8a8a8a", "#1565c0"

Curves = Mapping[str, Sequence[float]]


def draw_adaptation(before: Curves, after: Curves, title: str, path: Path) -> None:
    """Dice against clicks before and after, one panel a case and the mean first, written as PNG."""
    panels = {"mean": (_mean(before), _mean(after))} | {name: (before[name], after[name]) for name in before}
    rows = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(2.4 * COLUMNS, 2.1 * rows + 0.7), layout="constrained")
    axes = figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False).ravel()
    for place, (name, (first, second)) in zip(axes, panels.items(), strict=False):
        _panel(place, name, first, second)
    for place in axes[len(panels) :]:
        place.set_visible(False)
    lines = axes[0].get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle(title, fontsize=11)
    figure.supylabel("Dice, after 1 to 5 clicks", fontsize=9)
    figure.savefig(path, dpi=110)


def _panel(place: Axes, name: str, first: Sequence[float], second: Sequence[float]) -> None:
    clicks = np.arange(1, len(first) + 1)
    place.plot(clicks, first, "o--", color=BEFORE, markersize=3, linewidth=1.2, label="before Update Model")
    place.plot(clicks, second, "o-", color=AFTER, markersize=3, linewidth=1.6, label="after")
    place.set_title(name, fontsize=9, fontweight="bold" if name == "mean" else "normal")
    place.set_ylim(0, 1)
    place.set_xticks(clicks)
    place.grid(alpha=0.25)
    place.spines[["top", "right"]].set_visible(False)
    place.tick_params(labelsize=8)


def _mean(curves: Curves) -> list[float]:
    means: list[float] = np.mean([list(each) for each in curves.values()], axis=0).tolist()
    return means
