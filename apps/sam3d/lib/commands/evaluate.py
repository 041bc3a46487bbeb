"""`evaluate`: tables and pictures of what the network reaches on labelled cases."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lib.commands.arguments import (
    CLUSTER,
    add_dataset,
    add_settings,
    count,
    dataset_of,
    natural,
    set_threads,
    settings_of,
)
from lib.errors import SettingsError

FAMILIES = ("ct", "mr")


def add_options(options: argparse.ArgumentParser) -> None:
    source = options.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--data", type=Path, metavar="DIR", help="*_image.nii.gz with *_label.nii.gz, an MSD folder or a datalist"
    )
    source.add_argument("--phantoms", type=count, metavar="N", help="so many held-out synthetic cases instead")
    options.add_argument("--out", type=Path, required=True, metavar="DIR", help="where tables and pictures go")
    options.add_argument(
        "--protocol",
        choices=("interactive", "published", "automatic"),
        default="interactive",
        help="clicks that correct errors, random points at once as published, or no point (interactive)",
    )
    add_dataset(options)
    options.add_argument(
        "--part", choices=("training", "validation", "test"), default="test", help="of --splits (test)"
    )
    options.add_argument("--points", type=count, nargs="+", metavar="N", help="published protocol: points (1 3 10)")
    options.add_argument("--seed", type=natural, default=0, metavar="N", help="of the random points (0)")
    options.add_argument("--tolerance-mm", type=float, metavar="MM", help="of NSD (2; 5 but for clicks, as published)")
    options.add_argument("--clicks", type=count, default=10, metavar="N", help="clicks for each target (10)")
    options.add_argument("--max-targets", type=count, default=20, metavar="N", help="most labels of one case (20)")
    options.add_argument("--only", default="", metavar="TEXT", help="only cases with this text in their names")
    options.add_argument("--baselines", action="store_true", help="region growing, random walker and geodesic, too")
    options.add_argument("--family", choices=FAMILIES, default="ct", help="kind of the phantoms (ct)")
    options.add_argument("--threads", type=count, metavar="N", help="CPU threads of PyTorch")
    add_settings(options, "checkpoint", "variant", "preset", "spacing_mm", "device", "precision", *CLUSTER)


def run(args: argparse.Namespace) -> int:
    """score the network on labelled cases: click by click, or by random points as published"""
    set_threads(args.threads)
    if args.cluster and (args.protocol != "interactive" or args.data is None):
        raise SettingsError(
            "--cluster goes with --data and clicks: leave it away, or leave --protocol and --phantoms away"
        )
    return _evaluate_by_clicks(args) if args.protocol == "interactive" else _evaluate_by_points(args)


def _evaluate_by_clicks(args: argparse.Namespace) -> int:
    from lib.evaluation.protocol import TOLERANCE_MM, Result, evaluate
    from lib.evaluation.scorecards import averages, write_scorecards
    from lib.interactive.predictor import load_predictor

    # A phantom may be all organ, without the fat and air that tell CT from MR; but its kind is known.
    args.preset = args.preset or (args.family if args.phantoms else None)
    if args.cluster:
        return _evaluate_together(args)
    predictor = load_predictor(settings_of(args))
    outcomes = evaluate(
        predictor,
        _chosen_cases(args),
        args.clicks,
        args.max_targets,
        args.baselines,
        args.tolerance_mm or TOLERANCE_MM,
    )
    results, notes = _told(outcomes, Result, args)
    write_scorecards(results, notes, predictor.card.as_json(), args.out)
    print(averages(results))
    return 0


def _evaluate_together(args: argparse.Namespace) -> int:
    from functools import lru_cache

    from lib.cluster.link import Link
    from lib.evaluation.protocol import TOLERANCE_MM, Game, Result
    from lib.evaluation.scorecards import averages, write_scorecards
    from lib.interactive.predictor import load_predictor
    from lib.weights.checkpoints import open_network
    from lib.works.evaluate import evaluate_together

    settings = settings_of(args)
    link = Link(settings.cluster)
    root = (args.data if args.data.is_dir() else args.data.parent).resolve()
    game = Game(args.clicks, args.tolerance_mm or TOLERANCE_MM, args.baselines)
    here = lru_cache(maxsize=1)(lambda: load_predictor(settings))
    found = []
    for number, outcome in evaluate_together(link, settings, here, _chosen_cases(args), root, game, args.max_targets):
        print(outcome, flush=True)
        found.append((number, outcome))
    link.close()
    ordered = [outcome for _, outcome in sorted(found, key=lambda each: each[0])]  # of one case as they came
    results = [each for each in ordered if isinstance(each, Result)]
    _refuse_none(results, args)
    notes = [each for each in ordered if isinstance(each, str)]
    write_scorecards(results, notes, open_network(settings)[1].as_json(), args.out)
    print(averages(results))
    return 0


def _evaluate_by_points(args: argparse.Namespace) -> int:
    from lib.parity.parameter_counts import ParameterCounts, explained
    from lib.published.protocol import AUTOMATIC, COUNTS, TOLERANCE_MM, PointResult, PointTest, Subject, evaluate_points
    from lib.published.scorecards import write_point_scorecards

    dataset = dataset_of(args)
    counts = AUTOMATIC if args.protocol == "automatic" else tuple(args.points or COUNTS)
    test = PointTest(counts, args.tolerance_mm or TOLERANCE_MM, args.seed)
    if args.checkpoint and not args.checkpoint.endswith(".safetensors"):
        args.preset = args.preset or dataset.preset  # published weights bring no card that says it
    subject = Subject.of(settings_of(args))
    results, notes = _told(evaluate_points(subject, _chosen_cases(args), dataset, test), PointResult, args)
    weights, sizes = subject.predictor.card.as_json(), ParameterCounts.of(subject.network)
    print(write_point_scorecards(results, notes, weights, dataset, test, sizes, args.out))
    print(explained())
    return 0


def _told(outcomes: Iterable[Any], kind: type[Any], args: argparse.Namespace) -> tuple[list[Any], list[str]]:
    """Outcomes printed as they come, sorted into results and what was left out."""
    results: list[Any] = []
    notes: list[str] = []
    for outcome in outcomes:
        print(outcome, flush=True)
        (results if isinstance(outcome, kind) else notes).append(outcome)
    _refuse_none(results, args)
    return results, notes


def _refuse_none(results: list[Any], args: argparse.Namespace) -> None:
    if not results:
        raise SettingsError(f"no target was found with --only {args.only!r}: see the lines above, or name another text")


def _chosen_cases(args: argparse.Namespace) -> Iterable[Any]:
    from lib.datasets.labelled_cases import cases_in, phantom_cases, with_value
    from lib.datasets.splitting import read_split

    cases = phantom_cases(args.phantoms, args.family) if args.phantoms else cases_in(args.data)
    chosen = (case for case in cases if args.only in case.name)
    if args.splits is not None:
        part = set(read_split(args.splits).part(args.part))
        chosen = (case for case in chosen if case.name in part)
    if args.dataset is None and args.target is None:
        return chosen
    return (with_value(case, dataset_of(args).target) for case in chosen)
