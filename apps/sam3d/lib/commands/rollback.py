"""`rollback`: back to the version before."""

from __future__ import annotations

import argparse

from lib.commands.arguments import add_settings, settings_of


def add_options(options: argparse.ArgumentParser) -> None:
    add_settings(options, "model_folder", "variant", "checkpoint")


def run(args: argparse.Namespace) -> int:
    """serve the trained version before the current one, in the end the weights it all began with"""
    from lib.weights.versions import roll_back

    print(roll_back(settings_of(args)))
    return 0
