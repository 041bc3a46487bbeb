"""`update`: Update Model without a server."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from lib.commands.arguments import add_settings, settings_of
from lib.errors import SettingsError
from lib.settings import TrainingSettings


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--studies", required=True, metavar="DIR", help="the server's --studies: a folder, or a URL")
    add_settings(options, "labels", "model_folder", "variant", "checkpoint", "sam_checkpoint", "spacing_mm")
    add_settings(options, "preset", "clip_low", "clip_high", "mean", "std")
    add_settings(options, "device", *(field.name for field in fields(TrainingSettings)))


def run(args: argparse.Namespace) -> int:
    """fine-tune on submitted labels, as Update Model does; exit with 1 if nothing better came of it"""
    from lib.datastore.opening import open_datastore
    from lib.retraining.retrain import retrain
    from lib.trainers.annotated import annotated_cases
    from lib.trainers.tracking import tracking_handlers

    settings = settings_of(args)
    if "://" not in args.studies and not Path(args.studies).is_dir():
        raise SettingsError(f"there is no folder {args.studies}: name the one that the server was started with")
    datastore = open_datastore(args.studies, settings.labels, lambda: "")
    if datastore is None:
        raise SettingsError(f"only MONAI Label's server knows the way to {args.studies}: start the training there")
    result = retrain(settings, annotated_cases(datastore, settings.training.train_on), tracking_handlers)
    print(result.sentence)
    return 0 if result.is_published else 1
