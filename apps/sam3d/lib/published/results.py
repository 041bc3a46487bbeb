"""What was published, and ours beside it: arXiv 2306.13465, table 1, and a reproduction of its pancreas part.

Dice and NSD (5 mm) in percent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

SETS = ("kits", "pancreas", "lits", "colon")
TITLES = ("Kidney tumour", "Pancreas tumour", "Liver tumour", "Colon cancer")

# Dice and NSD.
Pair = tuple[float, float]


@dataclass(frozen=True)
class Row:
    """One method; `scores` by set, `tuned` its trained parameters in words."""

    method: str
    scores: Mapping[str, Pair] = field(default_factory=dict)
    tuned: str = "–"


def _row(method: str, tuned: str, *numbers: float) -> Row:
    pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
    return Row(method, dict(zip(SETS, pairs, strict=True)), tuned)


PUBLISHED = (
    _row("nnU-Net", "30.76 M", 73.07, 77.47, 41.65, 62.54, 60.10, 75.41, 43.91, 52.52),
    _row("TransBTS", "32.33 M", 40.79, 37.74, 31.90, 41.62, 34.69, 49.47, 17.05, 21.63),
    _row("nnFormer", "149.49 M", 45.14, 42.28, 36.53, 53.97, 45.54, 60.67, 24.28, 32.19),
    _row("Swin-UNETR", "62.19 M", 65.54, 72.04, 40.57, 60.05, 50.26, 64.32, 35.21, 42.94),
    _row("UNETR++", "55.70 M", 56.49, 60.04, 37.25, 53.59, 37.13, 51.99, 25.36, 30.68),
    _row("3D UX-Net", "53.01 M", 57.59, 58.55, 34.83, 52.56, 45.54, 60.67, 28.50, 32.73),
    _row("SAM-B, 1 point a slice", "–", 36.30, 29.86, 24.01, 26.74, 6.71, 7.63, 28.83, 33.63),
    _row("3DSAM-adapter, 1 point a volume", "25.46 M", 73.78, 83.86, 54.09, 76.27, 54.78, 69.55, 48.35, 63.65),
    _row("SAM-B, 3 points a slice", "–", 39.66, 34.85, 29.80, 33.24, 7.87, 6.76, 35.26, 39.31),
    _row("3DSAM-adapter, 3 points a volume", "25.46 M", 74.91, 84.35, 54.92, 77.57, 56.30, 70.02, 49.43, 65.02),
    _row("SAM-B, 10 points a slice", "–", 40.07, 34.96, 30.55, 32.91, 8.56, 5.97, 39.14, 42.70),
    _row("3DSAM-adapter, 10 points a volume", "25.46 M", 75.95, 84.92, 57.47, 79.62, 56.61, 69.52, 49.99, 65.67),
    Row("reproduction, 1 point a volume", {"pancreas": (42.43, 65.20)}, "25.46 M"),
    Row("reproduction, 3 points a volume", {"pancreas": (46.17, 67.43)}, "25.46 M"),
    Row("reproduction, 10 points a volume", {"pancreas": (49.56, 71.82)}, "25.46 M"),
)


def comparison(name: str, title: str, own: Mapping[int, Pair], tuned: str) -> str:
    """The published table with our rows below, as Markdown. `own` has percents by the number of points; a set that was
    not published, by its `title`, gets a column of its own."""
    sets, titles = (SETS, TITLES) if name in SETS else ((*SETS, name), (*TITLES, title))
    ours = [Row(f"ours, {_answer(count)}", {name: pair}, tuned) for count, pair in own.items()]
    header = ["method", *(f"{each} {score}" for each in titles for score in ("Dice", "NSD")), "tuned parameters"]
    rows = [[row.method, *_cells(row, sets), row.tuned] for row in (*PUBLISHED, *ours)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *rows])


def _cells(row: Row, sets: Sequence[str]) -> list[str]:
    """Dice and NSD of each set, empty where nothing is known."""
    pairs = [row.scores.get(each) for each in sets]
    return [cell for pair in pairs for cell in ([f"{value:.2f}" for value in pair] if pair else ["", ""])]


def _answer(count: int) -> str:
    return f"{points_named(count)} a volume" if count else points_named(count)


def points_named(count: int) -> str:
    if count == 0:
        return "automatic"
    return f"{count} point{'s' if count > 1 else ''}"
