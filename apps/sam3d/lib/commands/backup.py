"""`backup`: labels, versions and scores as one file."""

from __future__ import annotations

import argparse
from pathlib import Path

from lib.commands.arguments import add_settings, settings_of


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--studies", required=True, help="folder or DICOMweb URL, as the server is given it")
    options.add_argument("--to", type=Path, required=True, metavar="FILE", help="a tar file, which must not exist yet")
    add_settings(options, "model_folder")


def run(args: argparse.Namespace) -> int:
    """write all labels, trained versions and scores to one file, also while the server runs"""
    from lib.datastore.backups import back_up
    from lib.datastore.opening import folder_of_labels

    count = back_up(folder_of_labels(args.studies), settings_of(args).model_folder, args.to.absolute())
    print(f"{count} files are in {args.to}")
    return 0
