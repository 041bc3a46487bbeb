"""`convert-weights`: a published checkpoint in our own format."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from lib.commands.arguments import add_settings, safetensors_file, settings_of
from lib.settings import PRESETS
from lib.weights.fetch import sha256_of


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("checkpoint", type=Path, metavar="PUBLISHED.pth", help="a published 3DSAM-adapter checkpoint")
    options.add_argument(
        "--out", type=safetensors_file, required=True, metavar="FILE", help="the weights (.safetensors)"
    )
    options.add_argument("--preset", choices=sorted(PRESETS), required=True, help="what the weights were trained for")
    add_settings(options, "variant")


def run(args: argparse.Namespace) -> int:
    """write published weights in our own format, with the card that says how to use them"""
    from lib.network.weights import save_weights
    from lib.weights.checkpoints import open_network

    network, card = open_network(settings_of(args))
    card = save_weights(network, replace(card, parent_sha256=sha256_of(args.checkpoint)), args.out)
    print(f"{args.out}: {card.variant}, {card.version}, preset {args.preset}, sha256 {card.sha256}")
    return 0
