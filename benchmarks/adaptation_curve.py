"""What each further annotated case is worth: Update Model on more and more cases of a folder, measured on the others.

    python benchmarks/adaptation_curve.py --data DIR --folder build/curve --picture docs/images/adaptation-curve.png

The cases of the folder (`*_image.nii.gz` beside `*_label.nii.gz`) are dealt anew with each seed: half may be annotated,
half are unseen. For each number of annotated cases the trainer begins with the demo model, trains with its defaults,
and publishes or not; what is then served answers one click (and further ones) in the middle of each unseen target. What
is done is kept in `--folder`, a file for each seed and number, so that a run that was stopped goes on, and several may
share the seeds. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from support.curves import draw_adaptation_curve
from support.report import report

from lib.datasets.labelled_cases import opened_later
from lib.datasets.listing import labelled_cases
from lib.evaluation.protocol import Result, evaluate
from lib.interactive.predictor import Predictor
from lib.learning.cases import Case
from lib.network.devices import device_named
from lib.network.fast.choice import for_clicks
from lib.retraining.retrain import retrain
from lib.settings import Settings
from lib.weights.versions import open_served

Dices = dict[str, list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("build/curve"))
    parser.add_argument("--numbers", type=int, nargs="+", default=[1, 3, 5, 8], help="annotated cases (1 3 5 8)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--clicks", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--picture", type=Path, metavar="PNG")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    cases = list(labelled_cases(args.data).cases)
    cells = [
        reached(args, seed, number, *dealt(cases, seed, number)) for seed in args.seeds for number in [0, *args.numbers]
    ]
    tables = {
        f"dice_at_{click}": [[mean_dice(cell, click) for cell in cells if cell["seed"] == seed] for seed in args.seeds]
        for click in dict.fromkeys((1, args.clicks))
    }
    if args.picture:
        title = f"Update Model on {args.data.name}: Dice after one click, {len(cases) // 2} unseen cases"
        draw_adaptation_curve([0, *args.numbers], tables["dice_at_1"], title, args.picture)
    report(
        "adaptation_curve",
        data=args.data.name,
        seeds=args.seeds,
        annotated=[0, *args.numbers],
        means={name: np.round(np.mean(table, axis=0), 4).tolist() for name, table in tables.items()},
        by_seed={name: np.round(table, 4).tolist() for name, table in tables.items()},
        published=[sum(cell["is_published"] for cell in cells if cell["annotated"] == n) for n in args.numbers],
        training_s=[round(cell["seconds"]) for cell in cells],
    )


def dealt(cases: Sequence[Case], seed: int, number: int) -> tuple[list[Case], list[Case]]:
    """The first cases of this seed's order that are annotated, and the half of all that never is."""
    order = np.random.default_rng(seed).permutation(len(cases))
    half = len(cases) // 2
    return [cases[place] for place in order[:number]], [cases[place] for place in order[half:]]


def reached(
    args: argparse.Namespace, seed: int, number: int, annotated: Sequence[Case], unseen: Sequence[Case]
) -> dict[str, Any]:
    """What one seed and number of annotated cases came to: from its file, or done now."""
    path = args.folder / f"seed{seed}-{number:02}.json"
    if path.exists():
        kept: dict[str, Any] = json.loads(path.read_text())
        return kept
    settings = Settings(labels=("lesion",))
    settings = replace(
        settings,
        model_folder=args.folder / f"model{seed}-{number:02}",
        training=replace(settings.training, train_seed=seed),
    )
    cell: dict[str, Any] = {"seed": seed, "annotated": number, "is_published": False, "sentence": "", "seconds": 0.0}
    if annotated:
        result = retrain(settings, annotated)
        cell |= {"is_published": result.is_published, "sentence": result.sentence, "seconds": result.seconds}
    cell["dices"] = served_dices(settings, unseen, args.clicks)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(cell))
    print(f"seed {seed}, {number} annotated: {mean_dice(cell, 1):.3f} {cell['sentence']}", flush=True)
    return cell


def served_dices(settings: Settings, unseen: Sequence[Case], n_clicks: int) -> Dices:
    """Dice after each click on the one target of each case, answered by what is served."""
    served = open_served(settings)
    device = device_named(settings.device)
    network = for_clicks(served.network.to(device).eval(), settings.precision, device)
    predictor = Predictor(network, served.card, settings, device)
    found = evaluate(predictor, map(opened_later, unseen), n_clicks, max_targets=1)
    return {each.target.case: each.dices for each in found if isinstance(each, Result)}


def mean_dice(cell: dict[str, Any], click: int) -> float:
    return float(np.mean([dices[click - 1] for dices in cell["dices"].values()]))


if __name__ == "__main__":
    main()
