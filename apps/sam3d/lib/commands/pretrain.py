"""`pretrain`: weights from a set of labelled cases, or from synthetic volumes and groups of real ones."""

from __future__ import annotations

import argparse
from pathlib import Path

from lib.commands.arguments import (
    add_dataset,
    count,
    dataset_of,
    has_bfloat16_operands,
    natural,
    safetensors_file,
    set_threads,
)
from lib.errors import SettingsError
from lib.learning.recipes import RECIPES, TUNINGS
from lib.settings import PRESETS, VARIANTS


def add_options(options: argparse.ArgumentParser) -> None:
    source = options.add_mutually_exclusive_group(required=True)
    source.add_argument("--synthetic", action="store_true", help="on synthetic volumes without end")
    add_dataset(options, source=source)
    options.add_argument("--cases", type=Path, metavar="FILE", help="groups of real cases beside synthetic ones (JSON)")
    options.add_argument("--cases-folder", type=Path, metavar="DIR", help="where they are, if not beside that file")
    options.add_argument("--freeze-encoder", action="store_true", help="leave the encoder of --checkpoint as it is")
    options.add_argument("--data", type=Path, metavar="DIR", help="an MSD folder, a folder of pairs or a datalist")
    options.add_argument(
        "--out", type=safetensors_file, required=True, metavar="FILE", help="the weights (.safetensors)"
    )
    options.add_argument("--folder", type=Path, required=True, metavar="DIR", help="state to go on from, and the log")
    options.add_argument("--recipe", choices=RECIPES, default=RECIPES[0], help="of a data set: clicks, or as published")
    options.add_argument("--tune", choices=TUNINGS, help="what learns; chosen by recipe and weights unless named")
    options.add_argument("--variant", choices=sorted(VARIANTS), default="tiny", help="size of the network (tiny)")
    options.add_argument("--preset", choices=sorted(PRESETS), help="how a data set's voxel values are normalised")
    options.add_argument("--steps", type=count, metavar="N", help="optimiser steps (3000; published: 500 epochs)")
    options.add_argument("--minutes", type=float, metavar="X", help="synthetic: train for so long in place of --steps")
    options.add_argument("--batch", type=count, metavar="N", help="samples of a step (4; synthetic: 3; published: 1)")
    options.add_argument("--seed", type=natural, default=0, metavar="N", help="of weights, patches and clicks (0)")
    options.add_argument(
        "--rounds", type=count, default=3, metavar="N", help="simulated clicks on a patch, in the mean (3)"
    )
    options.add_argument("--learning-rate", type=float, metavar="X", help="largest step size; 0.002 for random weights")
    options.add_argument("--checkpoint", type=Path, metavar="FILE", help="weights to begin with, not random ones")
    options.add_argument("--sam-checkpoint", type=Path, metavar="FILE", help="SAM's own weights to begin with")
    options.add_argument("--spacing-mm", type=float, default=1.0, metavar="MM", help="to use the weights at (1.0)")
    options.add_argument("--weights-version", default="1", metavar="TEXT", help="what the card calls the weights (1)")
    options.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto", help="(auto)")
    options.add_argument(
        "--activation-checkpointing",
        choices=("auto", "on", "off"),
        default="auto",
        help="compute blocks twice to keep less of them: on but for tiny (auto)",
    )
    options.add_argument("--cache-gib", type=float, default=64.0, metavar="X", help="disk for prepared cases (64)")
    options.add_argument("--threads", type=count, metavar="N", help="CPU threads of PyTorch")
    options.add_argument(
        "--device", default="cpu", help="cpu, cuda, or cuda:0 for all processes of torchrun on one GPU (cpu)"
    )


def run(args: argparse.Namespace) -> int:
    """train a network on a data set or on synthetic volumes, or go on where that was interrupted"""
    set_threads(args.threads)
    return _pretrain_on_chains(args) if args.synthetic else _pretrain_on_dataset(args)


def _pretrain_on_dataset(args: argparse.Namespace) -> int:
    from lib.learning.distributed import torchrun_team
    from lib.network.weights import save_weights
    from lib.parity.parameter_counts import explained
    from lib.pretraining.dataset_training import DatasetOrder, prepare, train

    if args.data is None:
        raise SettingsError(f"--dataset {args.dataset} does not say where the files are: name the place with --data")
    order = DatasetOrder(
        **{
            name: getattr(args, name)
            for name in ("data", "folder", "recipe", "variant", "checkpoint", "sam_checkpoint")
        },
        **{name: getattr(args, name) for name in ("splits", "preset", "tune", "steps", "batch", "learning_rate")},
        **{name: getattr(args, name) for name in ("rounds", "seed", "spacing_mm", "device", "cache_gib")},
        dataset=dataset_of(args),
        has_bfloat16=has_bfloat16_operands(args),
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


def _pretrain_on_chains(args: argparse.Namespace) -> int:
    from lib.learning.distributed import torchrun_team
    from lib.network.weights import Card, load_weights, save_weights
    from lib.pretraining.chain_training import ChainPlan, pretrain
    from lib.pretraining.pools import read_groups

    groups = read_groups(args.cases, args.cases_folder) if args.cases else []
    usual = ChainPlan()
    plan = ChainPlan(
        args.steps or usual.steps,
        args.batch or usual.batch_size,
        args.learning_rate or usual.learning_rate,
        seed=args.seed,
        minutes=args.minutes,
        has_bfloat16=has_bfloat16_operands(args),
        is_encoder_frozen=args.freeze_encoder,
        groups=tuple(group.name for group in groups),
    )
    parent = load_weights(args.checkpoint) if args.checkpoint else None
    start = parent[0].state_dict() if parent else None
    with torchrun_team(args.device) as team:
        network = pretrain(VARIANTS[args.variant], plan, args.folder, args.device, start, team, groups)
        if not team.is_leader:
            return 0
    real = f" and {sum(len(group.cases) for group in groups)} real cases" if groups else " only, no patient image"
    card = Card(
        variant=args.variant,
        network=VARIANTS[args.variant],
        intensity=PRESETS["ct"],
        spacing_mm=args.spacing_mm,
        version=args.weights_version,
        is_trained=True,
        has_background_clicks=True,
        has_automatic_mode=True,
        description=f"trained on synthetic volumes{real}, by {plan}",
        parent_sha256=parent[1].sha256 if parent else None,
    )
    print(f"{args.out}: sha256 {save_weights(network, card, args.out).sha256}")
    return 0
