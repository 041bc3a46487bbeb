"""How much "Update Model" gains on unseen cases of what was annotated, over HTTP, while a client goes on clicking.

    python benchmarks/adaptation.py                                    # 4 phantoms of a new family; 6 unseen ones
    python benchmarks/adaptation.py --data DIR --train 8               # the first 8 of a folder; all others unseen
    python benchmarks/adaptation.py --data DIR --train 8 --reverse     # the last 8 of a folder; all others unseen
    python benchmarks/adaptation.py --labels shuffled                  # or inverted, empty: nothing may be published

Prints one line of JSON: Dice at 1, 3 and 5 clicks per unseen case before and after, the gate's sentence, time and
processor time of the training, and what the clicking client met. Every case has one target: all that is labelled.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import fmean

from support.cases import new_family, paired, poisoned
from support.pictures import draw_adaptation
from support.report import report
from support.server import serving

MARKS = (1, 3, 5)
PHANTOMS = 6
KINDS = ("true", "shuffled", "inverted", "empty")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of *_image.nii.gz and *_label.nii.gz")
    parser.add_argument("--train", type=int, default=4, help="cases to annotate (4)")
    parser.add_argument("--reverse", action="store_true", help="annotate the last cases, not the first")
    parser.add_argument("--unseen", type=int, help="unseen cases, at most (6 phantoms, all of --data)")
    parser.add_argument("--labels", choices=KINDS, default="true", help="what is submitted as labels")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between clicks while it trains")
    parser.add_argument(
        "--conf", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"), help="as the server's"
    )
    parser.add_argument("--keep", type=Path, help="folder to work in, and to leave behind")
    parser.add_argument("--picture", type=Path, metavar="PNG", help="also draw Dice against clicks, per unseen case")
    args = parser.parse_args()
    if args.keep:
        args.keep.mkdir(parents=True)
        measure(args, args.keep)
        return
    with tempfile.TemporaryDirectory() as folder:
        measure(args, Path(folder))


def measure(args: argparse.Namespace, folder: Path) -> None:
    """Measure, annotate, train, measure again."""
    studies, truths = folder / "studies", folder / "truths"
    for path in (studies, truths):
        path.mkdir()
    wanted = args.train + (args.unseen or PHANTOMS)
    cases = paired(args.data, studies, truths) if args.data else new_family(wanted, studies, truths)
    cases = cases[::-1] if args.reverse else cases
    annotated, unseen = cases[: args.train], cases[args.train :][: args.unseen]
    with serving(folder, studies, dict(args.conf)) as client:
        before = {case.name: client.dices(case) for case in unseen}
        for case, label in zip(annotated, poisoned(annotated, args.labels, folder), strict=True):
            client.submit(case.name, label)
        start = time.perf_counter()
        with client.clicking(unseen[0], args.every) as clicked:
            ended = client.train()
        seconds, cpu_seconds = time.perf_counter() - start, client.cpu_s_of_children()
        after = {case.name: client.dices(case) for case in unseen}
        info = client.get("/info/")
    if args.picture:
        name = args.data.name if args.data else "a new family of phantoms"
        title = f"{name}: {len(annotated)} cases annotated, {len(unseen)} unseen"
        draw_adaptation(before, after, title, args.picture)
    stats = info["train_stats"]["sam3d"]
    report(
        "adaptation",
        data=args.data.name if args.data else "coated phantoms",
        labels=args.labels,
        annotated=[case.name for case in annotated],
        **{f"dice_at_{mark}": _means(before, after, mark) for mark in MARKS},
        per_case={name: {"before": _at(before[name]), "after": _at(after[name])} for name in before},
        status=ended.get("status"),
        message=stats["message"],
        served=stats["served"],
        best_metric=stats["best_metric"],
        training_s=round(seconds, 1),
        training_cpu_s=round(cpu_seconds, 1),
        clicks_while_training=len(clicked.seconds),
        click_errors=clicked.errors,
        slowest_click_s=max(clicked.seconds, default=0.0),
        versions_met=sorted(clicked.versions),
    )


def _means(before: dict[str, list[float]], after: dict[str, list[float]], mark: int) -> dict[str, float]:
    first, second = (round(fmean(dices[mark - 1] for dices in each.values()), 4) for each in (before, after))
    return {"before": first, "after": second, "gain": round(second - first, 4)}


def _at(dices: list[float]) -> dict[int, float]:
    return {mark: dices[mark - 1] for mark in MARKS}


if __name__ == "__main__":
    main()
