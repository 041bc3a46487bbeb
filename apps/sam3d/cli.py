"""Commands beside the server: `python apps/sam3d/cli.py --help` lists them.

What a command needs is imported by that command, so that `fetch-sam` does not wait for PyTorch.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from lib.datasets.known import DATASETS, FOLDER, KnownDataset
from lib.errors import Sam3DError, SettingsError
from lib.fetch import SAM_WEIGHTS, fetch, sha256_of
from lib.recipes import RECIPES, TUNINGS
from lib.settings import CONF_KEYS, PRESETS, VARIANTS, Settings, TrainingSettings

APP = Path(__file__).resolve().parent
FILLER = APP.parents[1] / "tests" / "golden" / "fill.py"
FAMILIES = ("ct", "mr")
PARTS = ("training", "validation", "test")


def parity_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("folder", type=Path, metavar="DIR", help="folder of golden cases (.npz)")


def parity(args: argparse.Namespace) -> int:
    """run every golden case of a folder; exit with 1 if one lies above the tolerances"""
    from lib.golden import check_folder, load_filler, tuned_parameters

    outcomes = []
    for verdict in check_folder(args.folder, load_filler(FILLER)):
        print(verdict.line, flush=True)
        outcomes.append(verdict.is_passed)
    print(f"{outcomes.count(True)} passed, {outcomes.count(False)} failed, {outcomes.count(None)} skipped")
    print(tuned_parameters())
    return 0 if True in outcomes and False not in outcomes else 1


def evaluate_options(options: argparse.ArgumentParser) -> None:
    source = options.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--data", type=Path, metavar="DIR", help="*_image.nii.gz with *_label.nii.gz, an MSD folder or a datalist"
    )
    source.add_argument("--phantoms", type=_count, metavar="N", help="so many held-out synthetic cases instead")
    options.add_argument("--out", type=Path, required=True, metavar="DIR", help="where tables and pictures go")
    options.add_argument(
        "--protocol",
        choices=("interactive", "published", "automatic"),
        default="interactive",
        help="clicks that correct errors, random points at once as published, or no point (interactive)",
    )
    _add_dataset(options)
    options.add_argument(
        "--part", choices=("training", "validation", "test"), default="test", help="of --splits (test)"
    )
    options.add_argument("--points", type=_count, nargs="+", metavar="N", help="published protocol: points (1 3 10)")
    options.add_argument("--seed", type=_natural, default=0, metavar="N", help="of the random points (0)")
    options.add_argument("--tolerance-mm", type=float, metavar="MM", help="of NSD (2; 5 but for clicks, as published)")
    options.add_argument("--clicks", type=_count, default=10, metavar="N", help="clicks for each target (10)")
    options.add_argument("--max-targets", type=_count, default=20, metavar="N", help="most labels of one case (20)")
    options.add_argument("--only", default="", metavar="TEXT", help="only cases with this text in their names")
    options.add_argument("--baselines", action="store_true", help="region growing and random walker, too")
    options.add_argument("--family", choices=FAMILIES, default="ct", help="kind of the phantoms (ct)")
    options.add_argument("--threads", type=_count, metavar="N", help="CPU threads of PyTorch")
    _add_settings(options, "checkpoint", "variant", "preset", "spacing_mm", "device", "precision")


def evaluate(args: argparse.Namespace) -> int:
    """score the network on labelled cases: click by click, or by random points as published"""
    _set_threads(args.threads)
    return _evaluate_by_clicks(args) if args.protocol == "interactive" else _evaluate_by_points(args)


def _evaluate_by_clicks(args: argparse.Namespace) -> int:
    from lib.evaluation import TOLERANCE_MM, Result, evaluate
    from lib.predictor import load_predictor
    from lib.scorecards import averages, write_scorecards

    # A phantom may be all organ, without the fat and air that tell CT from MR; but its kind is known.
    args.preset = args.preset or (args.family if args.phantoms else None)
    predictor = load_predictor(_settings(args))
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


def _evaluate_by_points(args: argparse.Namespace) -> int:
    from lib.parameter_counts import ParameterCounts, explained
    from lib.published.protocol import AUTOMATIC, COUNTS, TOLERANCE_MM, PointResult, PointTest, Subject, evaluate_points
    from lib.published.scorecards import write_point_scorecards

    dataset = _dataset(args)
    counts = AUTOMATIC if args.protocol == "automatic" else tuple(args.points or COUNTS)
    test = PointTest(counts, args.tolerance_mm or TOLERANCE_MM, args.seed)
    if args.checkpoint and not args.checkpoint.endswith(".safetensors"):
        args.preset = args.preset or dataset.preset  # published weights bring no card that says it
    subject = Subject.of(_settings(args))
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
    if not results:
        raise SettingsError(f"no target was found with --only {args.only!r}: see the lines above, or name another text")
    return results, notes


def _chosen_cases(args: argparse.Namespace) -> Iterable[Any]:
    from lib.datasets.splitting import read_split
    from lib.labelled_cases import cases_in, phantom_cases, with_value

    cases = phantom_cases(args.phantoms, args.family) if args.phantoms else cases_in(args.data)
    chosen = (case for case in cases if args.only in case.name)
    if args.splits is not None:
        part = set(read_split(args.splits).part(args.part))
        chosen = (case for case in chosen if case.name in part)
    if args.dataset is None and args.target is None:
        return chosen
    return (with_value(case, _dataset(args).target) for case in chosen)


def pretrain_options(options: argparse.ArgumentParser) -> None:
    source = options.add_mutually_exclusive_group(required=True)
    source.add_argument("--synthetic", action="store_true", help="on synthetic patches without end")
    _add_dataset(options, source=source)
    options.add_argument("--data", type=Path, metavar="DIR", help="an MSD folder, a folder of pairs or a datalist")
    options.add_argument("--out", type=_safetensors, required=True, metavar="FILE", help="the weights (.safetensors)")
    options.add_argument("--folder", type=Path, required=True, metavar="DIR", help="state to go on from, and the log")
    options.add_argument("--recipe", choices=RECIPES, default=RECIPES[0], help="of a data set: clicks, or as published")
    options.add_argument("--tune", choices=TUNINGS, help="what learns; chosen by recipe and weights unless named")
    options.add_argument("--variant", choices=sorted(VARIANTS), default="tiny", help="size of the network (tiny)")
    options.add_argument("--preset", choices=sorted(PRESETS), help="how a data set's voxel values are normalised")
    options.add_argument("--steps", type=_count, metavar="N", help="optimiser steps (3000; published: 500 epochs)")
    options.add_argument("--batch", type=_count, metavar="N", help="patches of a step (4; published: 1)")
    options.add_argument("--seed", type=_natural, default=0, metavar="N", help="of weights, patches and clicks (0)")
    options.add_argument(
        "--rounds", type=_count, default=3, metavar="N", help="simulated clicks on a patch, in the mean (3)"
    )
    options.add_argument("--learning-rate", type=float, metavar="X", help="largest step size; 0.002 for random weights")
    options.add_argument("--checkpoint", type=Path, metavar="FILE", help="weights to begin with, not random ones")
    options.add_argument("--sam-checkpoint", type=Path, metavar="FILE", help="SAM's own weights to begin with")
    options.add_argument("--spacing-mm", type=float, default=1.0, metavar="MM", help="to use the weights at (1.0)")
    options.add_argument(
        "--zooms",
        type=float,
        nargs="+",
        default=[1.0, 2.0, 4.0],
        metavar="X",
        help="times that, for what is larger (1 2 4; published: 1)",
    )
    options.add_argument("--weights-version", default="1", metavar="TEXT", help="what the card calls the weights (1)")
    options.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto", help="(auto)")
    options.add_argument(
        "--activation-checkpointing",
        choices=("auto", "on", "off"),
        default="auto",
        help="compute blocks twice to keep less of them: on but for tiny (auto)",
    )
    options.add_argument("--cache-gib", type=float, default=64.0, metavar="X", help="disk for prepared cases (64)")
    options.add_argument("--threads", type=_count, metavar="N", help="CPU threads of PyTorch")
    options.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")


def pretrain(args: argparse.Namespace) -> int:
    """train a network on a data set or on synthetic patches, or go on where that was interrupted"""
    _set_threads(args.threads)
    return _pretrain_on_patches(args) if args.synthetic else _pretrain_on_dataset(args)


def _pretrain_on_dataset(args: argparse.Namespace) -> int:
    from lib.dataset_training import DatasetOrder, prepare, train
    from lib.distributed import torchrun_team
    from lib.network.weights import save_weights
    from lib.parameter_counts import explained

    if args.data is None:
        raise SettingsError(f"--dataset {args.dataset} does not say where the files are: name the place with --data")
    order = DatasetOrder(
        **{
            name: getattr(args, name)
            for name in ("data", "folder", "recipe", "variant", "checkpoint", "sam_checkpoint")
        },
        **{name: getattr(args, name) for name in ("splits", "preset", "tune", "steps", "batch", "learning_rate")},
        **{name: getattr(args, name) for name in ("rounds", "seed", "spacing_mm", "device", "cache_gib")},
        dataset=_dataset(args),
        zooms=tuple(args.zooms),
        has_bfloat16=_has_bfloat16(args),
        is_checkpointed=args.activation_checkpointing == "on"
        or (args.activation_checkpointing == "auto" and args.variant != "tiny"),
        version=args.weights_version,
    )
    prepared = prepare(order)  # before a team forms, for its members wait ten minutes at most
    with torchrun_team(args.device) as team:
        network, card = train(order, prepared, team)
        if team.is_leader:
            print(explained())
            print(f"{args.out}: sha256 {save_weights(network, card, args.out).sha256}")
    return 0


def _pretrain_on_patches(args: argparse.Namespace) -> int:
    from lib.distributed import torchrun_team
    from lib.network.weights import Card, load_weights, save_weights
    from lib.pretraining import PretrainingPlan, pretrain

    usual = PretrainingPlan()
    plan = PretrainingPlan(
        args.steps or usual.steps,
        args.batch or usual.batch_size,
        args.learning_rate or usual.learning_rate,
        seed=args.seed,
        has_bfloat16=_has_bfloat16(args),
        zooms_mm=tuple(args.spacing_mm * zoom for zoom in args.zooms),
        clicks=replace(usual.clicks, rounds=args.rounds),
    )
    parent = load_weights(args.checkpoint) if args.checkpoint else None
    start = parent[0].state_dict() if parent else None
    with torchrun_team(args.device) as team:
        network = pretrain(VARIANTS[args.variant], plan, args.folder, args.device, start, team)
        if not team.is_leader:
            return 0
    card = Card(
        variant=args.variant,
        network=VARIANTS[args.variant],
        intensity=PRESETS["ct"],
        spacing_mm=args.spacing_mm,
        zooms=tuple(args.zooms),
        version=args.weights_version,
        is_trained=True,
        has_background_clicks=True,
        has_automatic_mode=plan.clicks.automatic_share > 0,
        description=f"trained on synthetic patches only, by {plan}",
        parent_sha256=parent[1].sha256 if parent else None,
    )
    print(f"{args.out}: sha256 {save_weights(network, card, args.out).sha256}")
    return 0


def _add_dataset(options: argparse.ArgumentParser, source: Any = None) -> None:
    """Which set of labelled cases, what in it is sought, and who trains and tests."""
    group = source or options
    group.add_argument("--dataset", choices=sorted(DATASETS), help="a published set; folder: any other")
    options.add_argument("--target", type=_count, metavar="N", help="value of the label that is sought; the set's own")
    options.add_argument("--splits", type=Path, metavar="FILE", help="splits.json of a run: who trains, and who tests")


def _dataset(args: argparse.Namespace) -> KnownDataset:
    dataset = DATASETS[args.dataset or FOLDER]
    return replace(dataset, target=args.target) if args.target else dataset


def _has_bfloat16(args: argparse.Namespace) -> bool:
    import torch

    from lib.network.precision import has_bfloat16

    return has_bfloat16(torch.device(args.device)) if args.precision == "auto" else args.precision == "bfloat16"


def fetch_sam_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("variant", choices=sorted(SAM_WEIGHTS), help="size of the network")
    options.add_argument("--to", type=Path, default=Path(), metavar="DIR", help="folder for the file (this one)")


def fetch_sam(args: argparse.Namespace) -> int:
    """fetch SAM's official 2D weights, to train from; an interrupted fetch goes on where it was"""

    def show(done: int, total: int | None) -> None:
        of = f" of {total / 1e6:.0f}" if total else ""
        print(f"\r{done / 1e6:.0f}{of} MB", end="", file=sys.stderr, flush=True)

    path = fetch(SAM_WEIGHTS[args.variant], args.to, show)
    print(f"\n{path} is complete: train from it with --conf variant {args.variant} --conf sam_checkpoint {path}")
    return 0


def convert_weights_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("checkpoint", type=Path, metavar="PUBLISHED.pth", help="a published 3DSAM-adapter checkpoint")
    options.add_argument("--out", type=_safetensors, required=True, metavar="FILE", help="the weights (.safetensors)")
    options.add_argument("--preset", choices=sorted(PRESETS), required=True, help="what the weights were trained for")
    _add_settings(options, "variant")


def convert_weights(args: argparse.Namespace) -> int:
    """write published weights in our own format, with the card that says how to use them"""
    from lib.checkpoints import open_network
    from lib.network.weights import save_weights

    network, card = open_network(_settings(args))
    card = save_weights(network, replace(card, parent_sha256=sha256_of(args.checkpoint)), args.out)
    print(f"{args.out}: {card.variant}, {card.version}, preset {args.preset}, sha256 {card.sha256}")
    return 0


def update_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--studies", required=True, metavar="DIR", help="the server's --studies: a folder, or a URL")
    _add_settings(options, "labels", "model_folder", "variant", "checkpoint", "sam_checkpoint", "preset", "spacing_mm")
    _add_settings(options, "device", *(field.name for field in fields(TrainingSettings)))


def update(args: argparse.Namespace) -> int:
    """fine-tune on submitted labels, as Update Model does; exit with 1 if nothing better came of it"""
    from lib.datastore.opening import open_datastore
    from lib.retraining import retrain
    from lib.trainers.annotated import annotated_cases
    from lib.trainers.tracking import tracking_handlers

    settings = _settings(args)
    if "://" not in args.studies and not Path(args.studies).is_dir():
        raise SettingsError(f"there is no folder {args.studies}: name the one that the server was started with")
    datastore = open_datastore(args.studies, settings.labels, lambda: "")
    if datastore is None:
        raise SettingsError(f"only MONAI Label's server knows the way to {args.studies}: start the training there")
    result = retrain(settings, annotated_cases(datastore), tracking_handlers)
    print(result.sentence)
    return 0 if result.is_published else 1


def calibrate_scores_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--phantoms", type=_count, default=36, metavar="N", help="so many synthetic cases (36)")
    options.add_argument("--out", type=Path, metavar="FILE", help="the table (the one that the app reads)")
    options.add_argument("--threads", type=_count, metavar="N", help="CPU threads of PyTorch")
    _add_settings(options, "checkpoint", "variant", "device")


def calibrate_scores(args: argparse.Namespace) -> int:
    """fit the table by which Next Sample turns disagreement into expected clicks, for other weights"""
    import json

    from lib.checkpoints import open_network
    from lib.network.weights import write_atomically
    from lib.scoring.calibration import TABLE
    from lib.scoring.phantom_trials import calibrated, judged, trials

    _set_threads(args.threads)
    settings = _settings(args)
    network, card = open_network(settings)
    found = []
    for trial in trials(network, card, settings, args.phantoms):
        print(trial, flush=True)
        found.append(trial)
    quality = judged(found)
    content = {**calibrated(found).as_json(), "weights": card.version, "quality": quality}
    write_atomically(args.out or TABLE, (json.dumps(content, indent=1) + "\n").encode())
    print(json.dumps(quality))
    return 0


def rollback_options(options: argparse.ArgumentParser) -> None:
    _add_settings(options, "model_folder", "variant", "checkpoint")


def rollback(args: argparse.Namespace) -> int:
    """serve the trained version before the current one, in the end the weights it all began with"""
    from lib.versions import roll_back

    print(roll_back(_settings(args)))
    return 0


def demo_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--studies", type=Path, required=True, metavar="DIR", help="folder of images; made if empty")
    options.add_argument("--port", type=int, default=8000, help="another one is taken if this is in use (8000)")


def demo(args: argparse.Namespace) -> int:
    """serve demo studies on this machine and say what to click"""
    from lib.demo import free_port, prepare, serve

    return serve(APP, prepare(args.studies), free_port(args.port))


def dicomweb_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--folder", type=Path, required=True, metavar="DIR", help="DICOM files, in any sub-folders")
    options.add_argument("--port", type=int, default=8042, help="port of this machine (8042)")


def dicomweb(args: argparse.Namespace) -> int:
    """serve a folder of DICOM files to this machine by DICOMweb, for demos and tests"""
    from lib.dicomweb.server import serve

    serve(args.folder, args.port)
    return 0


Options = Callable[[argparse.ArgumentParser], None]
Command = Callable[[argparse.Namespace], int]
COMMANDS: Mapping[str, tuple[Options, Command]] = {
    "parity": (parity_options, parity),
    "evaluate": (evaluate_options, evaluate),
    "pretrain": (pretrain_options, pretrain),
    "fetch-sam": (fetch_sam_options, fetch_sam),
    "convert-weights": (convert_weights_options, convert_weights),
    "update": (update_options, update),
    "calibrate-scores": (calibrate_scores_options, calibrate_scores),
    "rollback": (rollback_options, rollback),
    "demo": (demo_options, demo),
    "dicomweb": (dicomweb_options, dicomweb),
}


def make_parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="cli.py", description="sam3d's commands beside the server")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for name, (add_options, command) in COMMANDS.items():
        options = commands.add_parser(name, help=command.__doc__, description=command.__doc__, allow_abbrev=False)
        options.set_defaults(command=command)
        add_options(options)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code of a command: 2 with one line on stderr where it was asked for something impossible."""
    args = make_parser().parse_args(arguments)
    logging.basicConfig(format="%(asctime)s %(message)s")
    logging.getLogger("lib").setLevel(logging.INFO)  # other packages' loggers only warn
    try:
        command: Command = args.command
        return command(args)
    except Sam3DError as error:
        print(f"cli.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _add_settings(options: argparse.ArgumentParser, *keys: str) -> None:
    """Options for keys of --conf, checked as those are."""
    for key in keys:
        options.add_argument(f"--{key.replace('_', '-')}", help=CONF_KEYS[key].help)


def _settings(args: argparse.Namespace) -> Settings:
    given = {key: value for key, value in vars(args).items() if key in CONF_KEYS and value is not None}
    return Settings.from_conf(given)


def _set_threads(count: int | None) -> None:
    import torch

    if count is not None:
        torch.set_num_threads(count)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 up")
    return int(text)


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 up")
    return int(text)


def _safetensors(text: str) -> Path:
    if not text.endswith(".safetensors"):
        raise argparse.ArgumentTypeError(f"{text!r} does not end in .safetensors")
    return Path(text)


if __name__ == "__main__":
    sys.exit(main())
