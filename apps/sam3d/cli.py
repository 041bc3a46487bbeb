"""Commands beside the server: `python apps/sam3d/cli.py --help` lists them.

What a command needs is imported by that command, so that `fetch-sam` does not wait for PyTorch.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lib.errors import Sam3DError, SettingsError
from lib.fetch import SAM_WEIGHTS, fetch, sha256_of
from lib.settings import CONF_KEYS, PRESETS, VARIANTS, Settings

APP = Path(__file__).resolve().parent
FILLER = APP.parents[1] / "tests" / "golden" / "fill.py"
FAMILIES = ("ct", "mr")


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
    source.add_argument("--data", type=Path, metavar="DIR", help="*_image.nii.gz with *_label.nii.gz, or an MSD folder")
    source.add_argument("--phantoms", type=_count, metavar="N", help="so many held-out synthetic cases instead")
    options.add_argument("--out", type=Path, required=True, metavar="DIR", help="where tables and pictures go")
    options.add_argument("--clicks", type=_count, default=10, metavar="N", help="clicks for each target (10)")
    options.add_argument("--max-targets", type=_count, default=20, metavar="N", help="most labels of one case (20)")
    options.add_argument("--only", default="", metavar="TEXT", help="only cases with this text in their names")
    options.add_argument("--baselines", action="store_true", help="region growing and random walker, too")
    options.add_argument("--family", choices=FAMILIES, default="ct", help="kind of the phantoms (ct)")
    options.add_argument("--threads", type=_count, metavar="N", help="CPU threads of PyTorch")
    _add_settings(options, "checkpoint", "variant", "preset", "spacing_mm", "device")


def evaluate(args: argparse.Namespace) -> int:
    """score the network on labelled cases, click by click"""
    from lib.evaluation import Result, evaluate
    from lib.labelled_cases import cases_in, phantom_cases
    from lib.predictor import load_predictor
    from lib.scorecards import averages, write_scorecards

    _set_threads(args.threads)
    # A phantom may be all organ, without the fat and air that tell CT from MR; but its kind is known.
    args.preset = args.preset or (args.family if args.phantoms else None)
    predictor = load_predictor(_settings(args))
    cases = phantom_cases(args.phantoms, args.family) if args.phantoms else cases_in(args.data)
    outcomes = []
    chosen = (case for case in cases if args.only in case.name)
    for outcome in evaluate(predictor, chosen, args.clicks, args.max_targets, args.baselines):
        print(outcome, flush=True)
        outcomes.append(outcome)
    results = [outcome for outcome in outcomes if isinstance(outcome, Result)]
    if not results:
        raise SettingsError(f"no target was found with --only {args.only!r}: see the lines above, or name another text")
    write_scorecards(
        results, [outcome for outcome in outcomes if isinstance(outcome, str)], predictor.card.as_json(), args.out
    )
    print(averages(results))
    return 0


def pretrain_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--synthetic", action="store_true", required=True, help="on synthetic patches, the only kind")
    options.add_argument("--out", type=_safetensors, required=True, metavar="FILE", help="the weights (.safetensors)")
    options.add_argument("--folder", type=Path, required=True, metavar="DIR", help="state to go on from, and the log")
    options.add_argument("--variant", choices=sorted(VARIANTS), default="tiny", help="size of the network (tiny)")
    options.add_argument("--steps", type=_count, default=3000, metavar="N", help="optimiser steps (3000)")
    options.add_argument("--batch", type=_count, default=4, metavar="N", help="patches of a step (4)")
    options.add_argument("--seed", type=int, default=0, metavar="N", help="of weights, patches and clicks (0)")
    options.add_argument(
        "--rounds", type=_count, default=3, metavar="N", help="simulated clicks on a patch, in the mean (3)"
    )
    options.add_argument("--learning-rate", type=float, default=2e-3, metavar="X", help="largest step size (0.002)")
    options.add_argument("--checkpoint", type=Path, metavar="FILE", help="weights of ours to begin with, not random ones")
    options.add_argument("--spacing-mm", type=float, default=1.0, metavar="MM", help="to use the weights at (1.0)")
    options.add_argument(
        "--zooms",
        type=float,
        nargs="+",
        default=[1.0, 2.0, 4.0],
        metavar="X",
        help="times that, for what is larger (1 2 4)",
    )
    options.add_argument("--weights-version", default="1", metavar="TEXT", help="what the card calls the weights (1)")
    options.add_argument("--threads", type=_count, metavar="N", help="CPU threads of PyTorch")
    options.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")


def pretrain(args: argparse.Namespace) -> int:
    """train a network from nothing, or go on where that was interrupted"""
    import torch

    from lib.distributed import torchrun_team
    from lib.finetuning import has_bfloat16
    from lib.network.weights import Card, load_weights, save_weights
    from lib.pretraining import PretrainingPlan, pretrain

    _set_threads(args.threads)
    plan = PretrainingPlan(args.steps, args.batch, args.learning_rate, seed=args.seed)
    zooms_mm = tuple(args.spacing_mm * zoom for zoom in args.zooms)
    is_fast = has_bfloat16(torch.device(args.device))
    plan = replace(
        plan, clicks=replace(plan.clicks, rounds=args.rounds), zooms_mm=zooms_mm, has_bfloat16=is_fast
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


def _safetensors(text: str) -> Path:
    if not text.endswith(".safetensors"):
        raise argparse.ArgumentTypeError(f"{text!r} does not end in .safetensors")
    return Path(text)


if __name__ == "__main__":
    sys.exit(main())
