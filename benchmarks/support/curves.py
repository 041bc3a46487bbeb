"""Dice against labelled cases, for the docs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

COLOURS = {
    **{"random": "#8a8a8a", "first": "#c0a060", "diversity": "#2e7d32", "uncertainty": "#ad1457"},
    "hybrid": "#1565c0",
}


def draw_curves(found: Mapping[str, Any], base: float, path: Path) -> None:
    """One curve a strategy, the mean of its seeds in a band from the least to the greatest, written as PNG."""
    figure = Figure(figsize=(7, 4.4), layout="constrained", facecolor="white")
    panel = figure.subplots()
    for strategy, values in found.items():
        table = np.array(values["by_seed"])
        budgets, colour = values["budgets"], COLOURS.get(strategy)
        panel.plot(budgets, table.mean(axis=0), "o-", color=colour, label=f"{strategy}, {len(table)} seeds")
        panel.fill_between(budgets, table.min(axis=0), table.max(axis=0), color=colour, alpha=0.15, linewidth=0)
    panel.axhline(base, color="black", linewidth=0.8, linestyle=":", label="before anything is labelled")
    if "random" in found and 20 in found["random"]["budgets"]:
        panel.axhline(np.mean(found["random"]["by_seed"], axis=0)[-1], color="#8a8a8a", linewidth=0.8, linestyle="--")
    panel.set(xlabel="labelled cases", ylabel="Dice after one click, cases kept aside", xticks=[1, 2, 4, 8, 12, 16, 20])
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(loc="lower right", fontsize=9, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def draw_adaptation_curve(numbers: Sequence[int], table: Sequence[Sequence[float]], title: str, path: Path) -> None:
    """Dice against annotated cases: the mean of the seeds, each seed, and a band of a standard deviation, as PNG."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained", facecolor="white")
    panel = figure.subplots()
    values = np.array(table)
    mean, deviation = values.mean(axis=0), values.std(axis=0, ddof=min(1, len(values) - 1))
    panel.plot(numbers, values.T, color="#8a8a8a", linewidth=0.8, alpha=0.7)
    panel.plot(numbers, mean, "o-", color="#1565c0", label=f"mean of {len(values)} seeds")
    panel.fill_between(numbers, mean - deviation, mean + deviation, color="#1565c0", alpha=0.15, linewidth=0)
    panel.set(xlabel="annotated cases", ylabel="Dice after one click", xticks=list(numbers), title=title)
    panel.title.set_fontsize(10)
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(loc="lower right", fontsize=9, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
