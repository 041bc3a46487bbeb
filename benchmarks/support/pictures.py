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


def draw_scaling(found: Mapping[str, Mapping[str, Mapping[str, float]]], path: Path) -> None:
    """Time above and memory below, one column for each thing that grows, written as PNG."""
    figure = Figure(figsize=(3.0 * len(found), 4.6), layout="constrained")
    axes = figure.subplots(2, len(found), squeeze=False)
    for column, (what, points) in enumerate(found.items()):
        names, places = list(points), np.arange(len(points))
        for key, colour in (("first_s", BEFORE), ("later_s", AFTER)):
            if key in points[names[0]]:
                times = [1000 * points[name][key] for name in names]
                axes[0, column].plot(places, times, "o-", color=colour, markersize=3, label=f"{key[:-2]} click")
        sizes = [points[name]["peak_mib"] for name in names]
        axes[1, column].plot(places, sizes, "o-", color=AFTER, markersize=3, label="largest, all included")
        if "volume_mib" in points[names[0]]:
            volume = [points[name]["volume_mib"] for name in names]
            axes[1, column].plot(places, volume, "o--", color=BEFORE, markersize=3, label="the volume alone")
        for place in axes[:, column]:
            place.set_xticks(places, names, rotation=30 if what == "volume" else 0, fontsize=7)
            place.set_ylim(bottom=0)
            place.grid(alpha=0.25)
            place.spines[["top", "right"]].set_visible(False)
            place.tick_params(labelsize=7)
            place.legend(frameon=False, fontsize=7)
        axes[0, column].set_title(f"against {what}", fontsize=9)
    axes[0, 0].set_ylabel("ms of processor time", fontsize=8)
    axes[1, 0].set_ylabel("MiB", fontsize=8)
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
