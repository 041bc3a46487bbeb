"""A hundred SIGKILLs: is every label that was acknowledged still there, and does every click get a whole version?

    python benchmarks/kills.py

A server that stores one label after the other is killed at random moments, and started again; training processes of a
running server are killed at random moments; publications, each in a process of its own, kill themselves before their
first, second, ... operation on a file. After every kill one click is sent. Prints one line of JSON; exits with 1 if a
label was lost, or a click failed or was answered by a version that was never whole.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import psutil
import requests
from support.cases import AnnotatedCase, new_family
from support.report import report
from support.server import Client, serving

from lib.datastore.history import LabelHistory, digest
from lib.datastore.listed import HISTORY_FOLDER
from lib.interactive.clicks import first_click
from lib.settings import Settings
from lib.weights.versions import VersionStore, open_served, versions_folder

SAVED_SHAPE = (24, 24, 24)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--saving", type=int, default=34, help="kills of a server that stores labels (34)")
    parser.add_argument("--random", type=int, default=33, help="kills of training processes (33)")
    parser.add_argument("--publishing", type=int, default=33, help="kills of publications (33)")
    parser.add_argument("--longest", type=float, default=30.0, help="seconds after which a training is killed at last")
    parser.add_argument(
        "--conf", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"), help="as the server's"
    )
    parser.add_argument("--publish", nargs=2, metavar=("FOLDER", "STEP"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.publish:
        publish_and_die(Path(args.publish[0]), int(args.publish[1]), dict(args.conf))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        saved = kill_saving(args.saving, Path(folder) / "saving", dict(args.conf))
        failed = kill_training_and_publishing(args, Path(folder))
        report("kills", **saved, **failed)
        return 1 if saved["labels_lost"] or saved["labels_half"] or failed["failed"] else 0


def kill_saving(count: int, folder: Path, conf: dict[str, str]) -> dict[str, Any]:
    """Kill a server while it stores labels, again and again; what became of the labels that it acknowledged."""
    studies = folder / "studies"
    studies.mkdir(parents=True)
    rng, chance = np.random.default_rng(0), random.Random(1)
    grey = rng.normal(40.0, 20.0, SAVED_SHAPE).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(grey, np.eye(4)), studies / "case.nii.gz")
    acknowledged: set[str] = set()
    for number in range(count + 1):
        with serving(folder, studies, {"score_share": "0", **conf}) as client:
            client.click("case", [[8, 8, 8]], [])
            if number < count:  # the last one only looks, and cleans up
                killing = threading.Timer(chance.uniform(0.05, 3.0), client.process.kill)
                killing.start()
                acknowledged |= submit_until_killed(client, folder, rng)
                killing.join()
    found = stored_labels(studies)
    current = digest(studies / "labels" / "final" / "case.nii.gz")
    history = LabelHistory(studies / HISTORY_FOLDER).versions("case", "final")
    left = [path.name for path in studies.rglob(".*") if path.name not in (".lock", ".serving")]
    return {
        "saving_kills": count,
        "labels_acknowledged": len(acknowledged),
        "labels_stored": len(history),
        "labels_lost": len(acknowledged - found),
        "labels_half": len(history) - len(found) + (current not in found),
        "label_leftovers": left,
    }


def submit_until_killed(client: Client, folder: Path, rng: np.random.Generator) -> set[str]:
    """Store labels of noise, none like another, until the server is gone; sha256 of those that were acknowledged."""
    acknowledged = set()
    path = folder / "label.nii.gz"
    while True:
        label = rng.integers(0, 2, SAVED_SHAPE).astype(np.uint8)
        nibabel.save(nibabel.Nifti1Image(label, np.eye(4)), path)
        try:
            client.submit("case", path)
        except requests.RequestException:
            return acknowledged
        acknowledged.add(digest(path))


def stored_labels(studies: Path) -> set[str]:
    """sha256 of the labels in the history that are whole."""
    versions = LabelHistory(studies / HISTORY_FOLDER).versions("case", "final")
    return {each.sha256 for each in versions if each.file.is_file() and digest(each.file) == each.sha256}


def kill_training_and_publishing(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Kill, click, count."""
    studies, truths = folder / "studies", folder / "truths"
    for path in (studies, truths):
        path.mkdir()
    cases = new_family(4, studies, truths)
    chance, outcomes = random.Random(0), []
    with serving(folder, studies, dict(args.conf)) as client:
        for case in cases:
            client.submit(case.name, case.label)
        store = store_of(folder / "model", dict(args.conf))
        whole = {store.parent.version}
        for _ in range(args.random):
            moment = kill_training(client, chance.uniform(1.0, args.longest))
            outcomes.append({"killed": "training", **moment, **click(client, cases[0])})
        for step in range(args.publishing):
            subprocess.run(
                [sys.executable, __file__, "--publish", str(folder / "model"), str(step), *_as_options(args.conf)],
                check=False,
            )
            outcomes.append({"killed": "publication", "before_step": step, **click(client, cases[0])})
            whole |= {f"{store.parent.version}+{name}" for name in store.published()}  # old ones are removed later
        left = store.clean_leftovers()
    failed = [each for each in outcomes if each.get("error") or each["version"] not in whole]
    return {
        "kills": len(outcomes),
        "failed": len(failed),
        "failures": failed,
        "published": store.published(),
        "left": left,
    }


def kill_training(client: Client, after_s: float) -> dict[str, Any]:
    """Start a training run and kill its process after some seconds; what it was doing then."""
    client.post("/train/sam3d", {})
    limit = time.monotonic() + after_s
    while time.monotonic() < limit:
        time.sleep(0.05)
    state = client.get("/info/")["train_stats"]["sam3d"]
    for child in psutil.Process(client.process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it ended by itself, just now
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
