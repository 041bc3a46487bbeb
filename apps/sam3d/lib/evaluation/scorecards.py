"""An evaluation on disk: a row per target as CSV, tables as Markdown, figures as JSON, and pictures."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lib.evaluation.figures import Snapshot, draw_curves, draw_overlays, draw_sizes
from lib.evaluation.protocol import MARKS, Result, by_method, summarise

Row = list[object]


def write_scorecards(results: Sequence[Result], notes: Sequence[str], weights: Mapping[str, Any], folder: Path) -> None:
    """Write targets.csv, summary.json, tables.md, dice.png, sizes.png and overlays.png into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    summaries = {method: summarise(own) for method, own in by_method(results).items()}
    with (folder / "targets.csv").open("w", newline="") as file:
        csv.writer(file).writerows(target_rows(results))
    summary = {"weights": weights, "methods": summaries, "left_out": list(notes)}
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    parts = [averages(results), each_target(results), "\n".join(f"- {note}" for note in notes)]
    (folder / "tables.md").write_text("\n\n".join(part for part in parts if part) + "\n")
    draw_curves({method: [r.dices for r in own] for method, own in by_method(results).items()}, folder / "dice.png")
    own = by_method(results)[results[0].method]
    marks = {f"{mark} clicks": [r.dices[mark - 1] for r in own] for mark in _marks(results)}
    draw_sizes([r.target.ml for r in own], marks, folder / "sizes.png")
    draw_overlays(_best_median_worst(results), folder / "overlays.png")


def target_rows(results: Sequence[Result]) -> list[Row]:
    """A header, then one row per target and method."""
    counts = range(1, results[0].n_clicks + 1)
    header: Row = ["case", "label", "voxels", "ml", "method", *(f"dice_{n}" for n in counts)]
    header += [*(f"nsd_{n}" for n in counts), "worst_drop", "clicks", "patches", "encoder_calls", "seconds"]
    return [header, *map(_target_row, results)]


def _target_row(result: Result) -> Row:
    target, rounds = result.target, result.rounds
    clicks = "; ".join(f"{'+' if turn.is_foreground else '-'}{' '.join(map(str, turn.click))}" for turn in rounds)
    return [
        *(target.case, target.name, target.voxels, f"{target.ml:.3f}", result.method),
        *(f"{score:.4f}" for score in (*result.dices, *result.nsds, result.worst_drop)),
        *(clicks, sum(turn.patches for turn in rounds), sum(turn.encoder_calls for turn in rounds)),
        " ".join(f"{turn.seconds:.3f}" for turn in rounds),
    ]


def averages(results: Sequence[Result]) -> str:
    """The averages of each method, as a Markdown table."""
    marks = _marks(results)
    ends = ["AUC Dice", "NoC@0.8", f"Dice < 0.5 at {marks[-1]}", "worst drop, mean", "worst drop, most", "dropped"]
    rows = []
    for method, own in by_method(results).items():
        of = summarise(own)
        scores = [of[score][mark] for score in ("dice", "nsd") for mark in marks]
        drops = [of[key] for key in ("worst_drop_mean", "worst_drop_max", "dropped_share")]
        rows.append(
            [method, of["targets"], *scores, of["auc_dice"], of["noc_80"], of["failed_share"][marks[-1]], *drops]
        )
    return _table(["method", "targets", *_score_names(marks), *ends], rows)


def each_target(results: Sequence[Result]) -> str:
    """The scores of each target, as a Markdown table."""
    marks = _marks(results)
    rows = [
        [result.target.case, result.target.name, result.target.ml, result.method]
        + [row[mark - 1] for row in (result.dices, result.nsds) for mark in marks]
        + [result.worst_drop]
        for result in results
    ]
    return _table(["case", "label", "ml", "method", *_score_names(marks), "worst drop"], rows)


def _marks(results: Sequence[Result]) -> list[int]:
    return [mark for mark in MARKS if mark <= results[0].n_clicks]


def _score_names(marks: Sequence[int]) -> list[str]:
    return [f"{score} {mark}" for score in ("Dice", "NSD") for mark in marks]


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value).replace("|", "\\|")


def _best_median_worst(results: Sequence[Result]) -> list[tuple[str, Snapshot]]:
    """Titled snapshots of up to three of our results, ordered by their last Dice."""
    shown = [(result, result.snapshot) for result in results if result.snapshot is not None]
    shown.sort(key=lambda pair: -pair[0].dices[-1])
    picked = dict.fromkeys([0, len(shown) // 2, len(shown) - 1])
    return [(str(shown[number][0]), shown[number][1]) for number in picked]
