"""Annotators who all click at once: how many clicks an hour, how long each waits, and whether memory stays flat.

    python benchmarks/load.py                                     # 1, 4 and 16 annotators, three minutes in all
    python benchmarks/load.py --annotators 16 --minutes 3

A server with the demo model and four images of 256 x 256 x 150 voxels. Each annotator, a thread with connections of its
own, opens an image and adds a click at a time, foreground and background in turn, with a pause of half a second in
which a person would look; after ten clicks she opens the next image. Memory is the server's resident size, looked at
every second. Prints one line of JSON; exits with 1 if a click failed or memory grew by more than a tenth after the
first minute.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import requests
from support.report import report
from support.server import LABEL, REQUEST_LIMIT_S, Client, serving
from support.volumes import BallVolume, with_balls

N_IMAGES, CLICKS_EACH, PAUSE_S = 4, 10, 0.5
SHAPE = (256, 256, 150)
MOST_GROWTH = 1.1


@dataclass
class Answers:
    """What annotators met."""

    seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotators", type=int, nargs="+", default=[1, 4, 16], metavar="N")
    parser.add_argument("--minutes", type=float, default=3.0, help="of all numbers of annotators together (3)")
    args = parser.parse_args()
    volumes = [with_balls(SHAPE, seed=number) for number in range(N_IMAGES)]
    with tempfile.TemporaryDirectory() as folder:
        studies = Path(folder) / "studies"
        studies.mkdir()
        for number, volume in enumerate(volumes):
            volume.save(studies / f"image{number}.nii")
        with serving(Path(folder), studies, {}) as client, watching_memory(client) as sizes:
            start = time.monotonic()
            share_s = 60 * args.minutes / len(args.annotators)
            found = {count: together(client, volumes, count, share_s) for count in args.annotators}
            took_s = time.monotonic() - start
    early = max(size for at_s, size in sizes if at_s <= min(60.0, took_s / 2))
    late = max(size for _, size in sizes)
    report(
        "load",
        minutes=args.minutes,
        images=N_IMAGES,
        shape=SHAPE,
        annotators={str(count): _summary(answers, share_s) for count, answers in found.items()},
        memory_mib={"first_minute": early // 2**20, "after": late // 2**20},
    )
    return int(any(answers.errors for answers in found.values()) or late > MOST_GROWTH * early)


def together(client: Client, volumes: list[BallVolume], count: int, seconds: float) -> Answers:
    """So many annotators for so long."""
    answers, end = Answers(), time.monotonic() + seconds
    with ThreadPoolExecutor(count) as threads:
        users = [threads.submit(annotate, client, volumes, number, end, answers) for number in range(count)]
    for user in users:
        user.result()
    return answers


def annotate(client: Client, volumes: list[BallVolume], number: int, end: float, answers: Answers) -> None:
    """One annotator, until the end."""
    own = Client(client.url, client.log, client.process)
    rng, image = np.random.default_rng(number), number
    while time.monotonic() < end:
        middle = volumes[image % N_IMAGES].middles[0] + rng.integers(-3, 4, 3)
        clicks: dict[str, list[Any]] = {LABEL: [], "background": []}
        for click in range(CLICKS_EACH):
            step = rng.normal(size=3)
            reach = 22 if click % 2 else 6 * (click > 0)
            place = (middle + np.rint(reach * step / np.linalg.norm(step))).astype(int)
            clicks["background" if click % 2 else LABEL].append(place.tolist())
            if time.monotonic() >= end:
                return
            _click(own, f"image{image % N_IMAGES}", clicks, answers)
            time.sleep(PAUSE_S)
        image += 1


def _click(client: Client, image: str, clicks: dict[str, list[Any]], answers: Answers) -> None:
    start = time.perf_counter()
    try:
        answer = client.http.post(
            f"{client.url}/infer/sam3d",
            params={"image": image},
            files={"params": (None, json.dumps({**clicks, "result_extension": ".nrrd", "result_dtype": "uint8"}))},
            timeout=REQUEST_LIMIT_S,
        )
        answer.raise_for_status()
    except requests.RequestException as error:
        answers.errors.append(str(error)[:200])
    answers.seconds.append(time.perf_counter() - start)


@contextmanager
def watching_memory(client: Client) -> Iterator[list[tuple[float, int]]]:
    """Seconds since the start and the server's resident bytes, every second while the enclosed lines run."""
    sizes: list[tuple[float, int]] = []
    is_over, start = threading.Event(), time.monotonic()

    def look() -> None:
        while not is_over.wait(1.0):
            sizes.append((time.monotonic() - start, _resident_bytes(client.process.pid)))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield sizes
    finally:
        is_over.set()
        thread.join()


def _resident_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def _summary(answers: Answers, seconds: float) -> dict[str, Any]:
    return {
        "clicks": len(answers.seconds),
        "clicks_a_minute": round(60 * len(answers.seconds) / seconds, 1),
        "p50_s": round(float(np.median(answers.seconds)), 3),
        "p95_s": round(float(np.quantile(answers.seconds, 0.95)), 3),
        "errors": len(answers.errors),
        "first_error": answers.errors[:1],
    }


if __name__ == "__main__":
    raise SystemExit(main())
