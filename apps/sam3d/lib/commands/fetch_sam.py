"""`fetch-sam`: SAM's official 2D weights."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lib.weights.fetch import SAM_WEIGHTS, fetch


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("variant", choices=sorted(SAM_WEIGHTS), help="size of the network")
    options.add_argument("--to", type=Path, default=Path(), metavar="DIR", help="folder for the file (this one)")


def run(args: argparse.Namespace) -> int:
    """fetch SAM's official 2D weights, to train from; an interrupted fetch goes on where it was"""

    def show(done: int, total: int | None) -> None:
        of = f" of {total / 1e6:.0f}" if total else ""
        print(f"\r{done / 1e6:.0f}{of} MB", end="", file=sys.stderr, flush=True)

    path = fetch(SAM_WEIGHTS[args.variant], args.to, show)
    print(f"\n{path} is complete: train from it with --conf variant {args.variant} --conf sam_checkpoint {path}")
    return 0
