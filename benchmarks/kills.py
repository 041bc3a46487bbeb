"""Twenty SIGKILLs, ten of them in the middle of a publication: does every following click get a whole version?

    python benchmarks/kills.py

Ten training processes of a running server are killed at random moments; ten publications, each in a process of its own,
kill themselves before their first, second, ... operation on a file. After every kill one click is sent. Prints one line
of JSON; exits with 1 if a click failed or was answered by a version that was never whole.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import requests
from support.cases import AnnotatedCase, new_family
from support.report import report
from support.server import Client, serving

from lib.interactive.clicks import first_click
from lib.settings import Settings
from lib.weights.versions import VersionStore, open_served, versions_folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random", type=int, default=10, help="kills of training processes (10)")
    parser.add_argument("--publishing", type=int, default=10, help="kills of publications (10)")
    parser.add_argument("--longest", type=float, default=60.0, help="seconds after which a training is killed at last")
    parser.add_argument(
        "--conf", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"), help="as the server's"
    )
    parser.add_argument("--publish", nargs=2, metavar=("FOLDER", "STEP"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.publish:
        publish_and_die(Path(args.publish[0]), int(args.publish[1]), dict(args.conf))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        return run(args, Path(folder))


def run(args: argparse.Namespace, folder: Path) -> int:
    """Kill, click, count."""
    studies, truths = folder / "studies", folder / "truths"
    for path in (studies, truths):
        path.mkdir()
    cases = new_family(4, studies, truths)
    chance, outcomes = random.Random(0), []
    with serving(folder, studies, dict(args.conf)) as client:
        for case in cases:
            client.submit(case.name, case.label)
        for _ in range(args.random):
            moment = kill_training(client, chance.uniform(1.0, args.longest))
            outcomes.append({"killed": "training", **moment, **click(client, cases[0])})
        for step in range(args.publishing):
            subprocess.run(
                [sys.executable, __file__, "--publish", str(folder / "model"), str(step), *_as_options(args.conf)],
                check=False,
            )
            outcomes.append({"killed": "publication", "before_step": step, **click(client, cases[0])})
        store = store_of(folder / "model", dict(args.conf))
        whole = {store.parent.version} | {f"{store.parent.version}+{name}" for name in store.published()}
        left = store.clean_leftovers()
    failed = [each for each in outcomes if each.get("error") or each["version"] not in whole]
    report("kills", kills=len(outcomes), failed=len(failed), outcomes=outcomes, published=store.published(), left=left)
    return 1 if failed else 0


def kill_training(client: Client, after_s: float) -> dict[str, Any]:
    """Start a training run and kill its process after some seconds; what it was doing then."""
    client.post("/train/sam3d", {})
    limit = time.monotonic() + after_s
    while time.monotonic() < limit:
        time.sleep(0.05)
    state = client.get("/info/")["train_stats"]["sam3d"]
    for child in psutil.Process(client.process.pid).children(recursive=True):
        if "monailabel.interfaces.utils.app" in " ".join(child.cmdline()):
            child.send_signal(signal.SIGKILL)
    while (client.get("/train/") or {}).get("status") in ("SUBMITTED", "RUNNING"):
        time.sleep(0.2)
    return {"after_s": round(after_s, 1), "doing": state["message"], "epoch": state["epoch"]}


def click(client: Client, case: AnnotatedCase) -> dict[str, Any]:
    """One click, and who answered."""
    try:
        mask, version = client.click(case.name, [list(first_click(case.truth(), case.spacing()))], [])
    except requests.RequestException as error:
        return {"error": str(error), "version": ""}
    return {"version": version, "voxels": int(mask.sum())}


def store_of(model_folder: Path, conf: dict[str, str]) -> VersionStore:
    settings = Settings.from_conf({"labels": "lesion", **conf, "model_folder": str(model_folder)})
    return VersionStore(versions_folder(settings), open_served(settings).base)


def publish_and_die(model_folder: Path, step: int, conf: dict[str, str]) -> None:
    """Publish what is served once more, and be killed before operation `step` on a file."""
    settings = Settings.from_conf({"labels": "lesion", **conf, "model_folder": str(model_folder)})
    served = open_served(settings)
    left = [step]

    def watched(function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return function(*arguments, **options)

        return call

    for owner, name in ((Path, "open"), (Path, "replace"), (Path, "unlink"), (Path, "mkdir"), (os, "fsync")):
        setattr(owner, name, watched(getattr(owner, name)))
    served.store.publish(served.network, served.card, settings.training.versions_kept)


def _as_options(conf: list[list[str]]) -> list[str]:
    return [word for key, value in conf for word in ("--conf", key, value)]


if __name__ == "__main__":
    raise SystemExit(main())
