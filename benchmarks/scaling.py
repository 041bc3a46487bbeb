"""Time and memory of a click against whatever may grow: the volume, clicks, labels, patches that are kept.

    python benchmarks/scaling.py                                # about three minutes
    python benchmarks/scaling.py --plot docs/images/scaling.png

The demo model, from clicks to the reply's file. Each point is measured in a process of its own. Seconds are processor
time, all threads together, which other programs on the machine hardly change; a later click is the median of five.
Memory is the largest resident size, less that of the process before it had a volume. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from support.memory import forget_peak, peak_bytes
from support.pictures import draw_scaling
from support.report import report
from support.steps import Steps
from support.volumes import BallVolume, with_balls

from lib.images.volumes import Volume, make_volume
from lib.infers.reply import ReplyFiles, describe
from lib.interactive.predictor import Predictor, Report, load_predictor
from lib.interactive.prompts import prompts_from_request
from lib.settings import Settings

LABELS = tuple(f"label{number}" for number in range(1, 9))
MIDDLE_SHAPE = (256, 256, 256)
REPEATS = 5
SIZES = ("64x64x64", "128x128x128", "256x256x256", "512x512x300", "512x512x800")
POINTS: Mapping[str, tuple[str, ...]] = {
    "volume": SIZES,
    "clicks": ("1", "2", "5", "10", "20", "35", "50"),
    "labels": ("1", "2", "4", "8"),
    "patches": ("1", "8", "32", "128"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch (2)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the points as PNG")
    parser.add_argument("--measure", nargs=2, metavar=("WHAT", "POINT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.measure:
        what, point = args.measure
        print(json.dumps(MEASURES[what](point)))
        return
    found = {what: {point: in_own_process(what, point, args.threads) for point in POINTS[what]} for what in POINTS}
    if args.plot:
        draw_scaling(found, args.plot)
    report("scaling", threads=args.threads, **found)


def in_own_process(what: str, point: str, threads: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--threads", str(threads), "--measure", what, point]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


class Session:
    """One annotator at one volume, without a server."""

    def __init__(self, labels: tuple[str, ...] = LABELS[:1]) -> None:
        self.predictor: Predictor = load_predictor(Settings(labels=labels))
        self.predictor.warm_up()
        self.replies = ReplyFiles()
        forget_peak()
        self.before = peak_bytes()

    def ask(self, volume: Volume, clicks: Mapping[str, Any]) -> tuple[float, Report]:
        """Seconds of processor time for a request, and what was done."""
        steps = Steps()
        with steps.timed("request"):
            request = prompts_from_request(clicks, self.predictor.settings.labels, volume.shape)
            found = self.predictor.segment(volume, request)
            describe(found.label_map, found.box, self.predictor.settings.labels)
            path = self.replies.write(found.label_map, found.box, volume.affine, ".nrrd", is_compressed=False)
        path.unlink()
        return steps.cpu_seconds["request"], found.report

    def later(self, volume: Volume, clicks: Callable[[int], Mapping[str, Any]]) -> float:
        """The median over requests that bring a click which was never asked for before."""
        return round(median(self.ask(volume, clicks(number))[0] for number in range(1, REPEATS + 1)), 4)

    def peak_mib(self) -> int:
        return (peak_bytes() - self.before) // 2**20


def against_volume(point: str) -> dict[str, Any]:
    """A first and later clicks on a volume."""
    i, j, k = (int(side) for side in point.split("x"))
    session, made = Session(), with_balls((i, j, k))
    volume, middle = _volume(made), made.middles[0]
    size_mib = volume.array.nbytes / 2**20
    del made
    forget_peak()
    session.before = peak_bytes() - volume.array.nbytes
    first_s, _ = session.ask(volume, {LABELS[0]: [middle.tolist()]})
    later_s = session.later(volume, lambda n: {LABELS[0]: [middle.tolist(), _moved(middle, n)]})
    return {
        "first_s": round(first_s, 4),
        "later_s": later_s,
        "peak_mib": session.peak_mib(),
        "volume_mib": round(size_mib),
    }


def against_clicks(point: str) -> dict[str, Any]:
    """The click of that number, all in one patch, as a session gets there: five sessions' median."""
    session, made, count = Session(), with_balls(MIDDLE_SHAPE), int(point)
    volume, middle = _volume(made), made.middles[0]
    seconds = []
    for number in range(REPEATS):
        places = (middle + np.random.default_rng(number).integers(-12, 13, (count, 3))).tolist()
        if count > 1:
            session.ask(volume, {LABELS[0]: places[:-1]})
        seconds.append(session.ask(volume, {LABELS[0]: places})[0])
    return {"later_s": round(median(seconds), 4), "peak_mib": session.peak_mib()}


def against_labels(point: str) -> dict[str, Any]:
    """One more click on one of so many labels."""
    count = int(point)
    session, made = Session(LABELS[:count]), with_balls((128, 128, 512), balls=8)
    volume = _volume(made)
    clicks = {name: [place.tolist()] for name, place in zip(LABELS[:count], made.middles, strict=False)}
    first_s, _ = session.ask(volume, clicks)
    first = made.middles[0]
    later_s = session.later(volume, lambda n: {**clicks, LABELS[0]: [*clicks[LABELS[0]], _moved(first, n)]})
    return {"first_s": round(first_s, 4), "later_s": later_s, "peak_mib": session.peak_mib()}


def against_patches(point: str) -> dict[str, Any]:
    """A later click where so many patches are kept already."""
    session, made, count = Session(), with_balls(MIDDLE_SHAPE), int(point)
    volume, middle = _volume(made), made.middles[0]
    encoded = 0
    for place in np.random.default_rng(0).integers(8, np.array(MIDDLE_SHAPE) - 8, (count, 3)).tolist():
        if encoded < count - 1:
            encoded += session.ask(volume, {LABELS[0]: [place]})[1].n_encoded
    session.ask(volume, {LABELS[0]: [middle.tolist()]})
    later_s = session.later(volume, lambda n: {LABELS[0]: [middle.tolist(), _moved(middle, n)]})
    return {"later_s": later_s, "encoded": encoded + 1, "peak_mib": session.peak_mib()}


def _moved(place: NDArray[np.int64], voxels: int) -> list[int]:
    """So many voxels on along i."""
    i, j, k = place.tolist()
    return [i + voxels, j, k]


def _volume(made: BallVolume) -> Volume:
    return make_volume(made.array, made.affine)


MEASURES: Mapping[str, Callable[[str], dict[str, Any]]] = {
    "volume": against_volume,
    "clicks": against_clicks,
    "labels": against_labels,
    "patches": against_patches,
}


if __name__ == "__main__":
    main()
