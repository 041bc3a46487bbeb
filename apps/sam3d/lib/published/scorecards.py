"""A test by random points on disk: a row per case as CSV, the published table with ours below, and pictures."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lib.datasets.known import KnownDataset
from lib.evaluation.figures import draw_curves, draw_overlays, draw_sizes
from lib.parity.parameter_counts import ParameterCounts
from lib.published.protocol import PointResult, PointTest
from lib.published.results import Pair, comparison, points_named

Row = list[object]
MOST_TOGETHER = 6


def write_point_scorecards(
    results: Sequence[PointResult],
    notes: Sequence[str],
    weights: Mapping[str, Any],
    dataset: KnownDataset,
    test: PointTest,
    counts: ParameterCounts,
    folder: Path,
) -> str:
    """Write cases.csv, summary.json, table.md, dice.png, sizes.png, overlays.png and a picture of each case into a
    folder; returns the table."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "cases.csv").open("w", newline="") as file:
        csv.writer(file).writerows(_rows(results, test.counts))
    own = {count: _percents(results, count) for count in test.counts}
    title = f"{dataset.title} ({len(results)} cases)"
    table = comparison(dataset.name, title, own, f"{counts.trained / 1e6:.2f} M")
    lines = [
        table,
        f"Ours: {len(results)} cases, points drawn with seed {test.seed}; NSD of our rows at {test.tolerance_mm:g} mm.",
    ]
    (folder / "table.md").write_text("\n\n".join([*lines, *(f"- {note}" for note in notes)]) + "\n")
    summary = {
        "weights": weights,
        "dataset": dataset.name,
        "target": dataset.target,
        "seed": test.seed,
        "tolerance_mm": test.tolerance_mm,
        "percent": {str(count): {"dice": pair[0], "nsd": pair[1]} for count, pair in own.items()},
        "left_out": list(notes),
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    _draw(results, test.counts, folder)
    return table


def _rows(results: Sequence[PointResult], counts: Sequence[int]) -> list[Row]:
    header: Row = ["case", "voxels", "ml"]
    header += [f"{score}_{count}" for count in counts for score in ("dice", "nsd", "seconds")]
    return [header, *([*_facts(result), *_scores(result, counts)] for result in results)]


def _facts(result: PointResult) -> Row:
    return [result.target.case, result.target.voxels, f"{result.target.ml:.3f}"]


def _scores(result: PointResult, counts: Sequence[int]) -> Row:
    scores = [result.scores[count] for count in counts]
    return [cell for score in scores for cell in (f"{score.dice:.4f}", f"{score.nsd:.4f}", f"{score.seconds:.2f}")]


def _percents(results: Sequence[PointResult], count: int) -> Pair:
    """Mean Dice and NSD over cases, in percent."""
    scores = [result.scores[count] for result in results]
    return (
        round(100 * float(np.mean([score.dice for score in scores])), 2),
        round(100 * float(np.mean([score.nsd for score in scores])), 2),
    )


def _draw(results: Sequence[PointResult], counts: Sequence[int], folder: Path) -> None:
    dices = [[result.scores[count].dice for count in counts] for result in results]
    draw_curves({"sam3d": dices}, folder / "dice.png", counts, "points")
    by_count = {points_named(count): [row[place] for row in dices] for place, count in enumerate(counts)}
    draw_sizes([result.target.ml for result in results], by_count, folder / "sizes.png")
    shown = [(str(result), result.snapshot) for result in results]
    draw_overlays(shown[:MOST_TOGETHER], folder / "overlays.png")
    for result, titled in zip(results, shown, strict=True):
        name = re.sub(r"[^\w.-]+", "_", result.target.case)
        (folder / "cases").mkdir(exist_ok=True)
        draw_overlays([titled], folder / "cases" / f"{name}.png")
