"""`calibrate-scores`: what Next Sample's expected clicks are read from."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from lib.commands.arguments import add_settings, count, set_threads, settings_of


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--phantoms", type=count, default=36, metavar="N", help="so many synthetic cases (36)")
    options.add_argument("--out", type=Path, metavar="FILE", help="the table (the one that the app reads)")
    options.add_argument("--threads", type=count, metavar="N", help="CPU threads of PyTorch")
    add_settings(options, "checkpoint", "variant", "device")


def run(args: argparse.Namespace) -> int:
    """fit the table by which Next Sample turns disagreement into expected clicks, for other weights"""
    from lib.network.weights import write_atomically
    from lib.scoring.calibration import TABLE
    from lib.scoring.phantom_trials import calibrated, judged, trials
    from lib.weights.checkpoints import open_network

    set_threads(args.threads)
    settings = settings_of(args)
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
