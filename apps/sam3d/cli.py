"""Commands beside the server: `python apps/sam3d/cli.py --help` lists them; `lib/commands` has a module for each.

What a command needs is imported as it runs, so that `fetch-sam` does not wait for PyTorch.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType

from lib.commands import (
    backup,
    calibrate_scores,
    cluster,
    convert_weights,
    demo,
    dicomweb,
    doctor,
    draft,
    evaluate,
    export,
    fetch_sam,
    parity,
    pretrain,
    restore,
    rollback,
    scheduler,
    update,
    worker,
)
from lib.errors import Sam3DError

COMMANDS: Mapping[str, ModuleType] = {
    "parity": parity,
    "evaluate": evaluate,
    "pretrain": pretrain,
    "fetch-sam": fetch_sam,
    "convert-weights": convert_weights,
    "update": update,
    "draft": draft,
    "export": export,
    "calibrate-scores": calibrate_scores,
    "rollback": rollback,
    "doctor": doctor,
    "backup": backup,
    "restore": restore,
    "demo": demo,
    "dicomweb": dicomweb,
    "cluster": cluster,
    "scheduler": scheduler,
    "worker": worker,
}


def make_parser() -> argparse.ArgumentParser:
    """Each command's `add_options` says what it may be told, and the first line of its `run` what it does."""
    top = argparse.ArgumentParser(prog="cli.py", description="sam3d's commands beside the server")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        purpose = command.run.__doc__
        options = commands.add_parser(name, help=purpose, description=purpose, allow_abbrev=False)
        options.set_defaults(run=command.run)
        command.add_options(options)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code of a command: 2 with one line on stderr where it was asked for something impossible."""
    args = make_parser().parse_args(arguments)
    logging.basicConfig(format="%(asctime)s %(message)s")
    logging.getLogger("lib").setLevel(logging.INFO)  # other packages' loggers only warn
    try:
        return int(args.run(args))
    except Sam3DError as error:
        print(f"cli.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
