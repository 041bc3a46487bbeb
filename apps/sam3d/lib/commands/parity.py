"""`parity`: our network beside recorded tensors of the published one."""

from __future__ import annotations

import argparse
from pathlib import Path

FILLER = Path(__file__).resolve().parents[4] / "tests" / "golden" / "fill.py"


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("folder", type=Path, metavar="DIR", help="folder of golden cases (.npz)")


def run(args: argparse.Namespace) -> int:
    """run every golden case of a folder; exit with 1 if one lies above the tolerances"""
    from lib.parity.golden import check_folder, load_filler, tuned_parameters

    outcomes = []
    for verdict in check_folder(args.folder, load_filler(FILLER)):
        print(verdict.line, flush=True)
        outcomes.append(verdict.is_passed)
    print(f"{outcomes.count(True)} passed, {outcomes.count(False)} failed, {outcomes.count(None)} skipped")
    print(tuned_parameters())
    return 0 if True in outcomes and False not in outcomes else 1
