"""`restore`: back from the file that `backup` wrote."""

from __future__ import annotations

import argparse
from pathlib import Path

from lib.commands.arguments import add_settings, settings_of


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--studies", required=True, help="folder or DICOMweb URL, as the server is given it")
    options.add_argument("--backup", type=Path, required=True, metavar="FILE", help="what `cli.py backup` wrote")
    add_settings(options, "model_folder")


def run(args: argparse.Namespace) -> int:
    """put labels, trained versions and scores back from a backup, where there are none and no server runs"""
    from lib.datastore.backups import restore
    from lib.datastore.opening import folder_of_labels

    count = restore(args.backup.absolute(), folder_of_labels(args.studies), settings_of(args).model_folder)
    print(f"{count} files are back")
    return 0
