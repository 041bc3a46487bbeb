"""A click as an annotator waits for it: from the HTTP request to the last byte of the mask, on a large CT.

    python benchmarks/click_over_http.py

A server with the demo model on two cores' threads; an image of 512 x 512 x 300 voxels that is open already. The first
click on a patch, then later ones, each adding a click, foreground and background in turn. Times end when the mask is
unpacked, those named `received` with the reply's last byte; `around` is the share of the latter that a later click is
not in the network. Prints one line of JSON; exits with 1 above 2 s or 0.4 s.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import zlib
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from requests_toolbelt.multipart.decoder import MultipartDecoder
from support.report import report
from support.server import LABEL, Client, serving
from support.volumes import with_balls

IMAGE = "large"
FIRST_LIMIT_S, LATER_LIMIT_S = 2.0, 0.4
NETWORK = ("encode", "decode")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=[512, 512, 300], metavar="N")
    parser.add_argument("--later", type=int, default=10, help="later clicks (10)")
    parser.add_argument("--precision", default="auto")
    args = parser.parse_args()
    volume = with_balls(tuple(args.shape))
    with tempfile.TemporaryDirectory() as folder:
        studies = Path(folder) / "studies"
        studies.mkdir()
        volume.save(studies / f"{IMAGE}.nii")
        with serving(Path(folder), studies, {"precision": args.precision}) as client:
            return run(client, volume.middles[0], args)


def run(client: Client, middle: np.ndarray, args: argparse.Namespace) -> int:
    asked(client, [], [])
    first = asked(client, [middle.tolist()], [])
    rng = np.random.default_rng(0)
    clicks: tuple[list[Any], list[Any]] = ([middle.tolist()], [])
    later = []
    for number in range(args.later):
        reach = 8 if number % 2 else 22
        step = rng.normal(size=3)
        clicks[1 - number % 2].append((middle + np.rint(reach * step / np.linalg.norm(step))).astype(int).tolist())
        later.append(asked(client, *clicks))
    later_s = median(each["seconds"] for each in later)
    report(
        "click_over_http",
        shape=args.shape,
        precision=args.precision,
        first_s=first["seconds"],
        later_s=later_s,
        later_slowest_s=max(each["seconds"] for each in later),
        later_received_s=median(each["received_s"] for each in later),
        later_received_bytes=median(each["received_bytes"] for each in later),
        around=round(median(1 - each["network_s"] / each["received_s"] for each in later), 3),
        encoded=[each["n_encoded"] for each in (first, *later)],
        decoded=[each["n_decoded"] for each in (first, *later)],
        first_steps_ms=first["latencies_ms"],
        later_steps_ms={
            step: round(median(each["latencies_ms"].get(step, 0.0) for each in later), 1)
            for step in later[-1]["latencies_ms"]
        },
    )
    return int(first["seconds"] > FIRST_LIMIT_S or later_s > LATER_LIMIT_S)


def asked(client: Client, foreground: list[Any], background: list[Any]) -> dict[str, Any]:
    """The params of an answer, with how long it took and how much of that the network."""
    params = {LABEL: foreground, "background": background, "result_extension": ".nrrd", "result_dtype": "uint8"}
    start = time.perf_counter()
    answer = client.http.post(
        f"{client.url}/infer/sam3d", params={"image": IMAGE}, files={"params": (None, json.dumps(params))}, stream=True
    )
    received = answer.raw.read(decode_content=False)
    received_s = time.perf_counter() - start
    answer.raise_for_status()
    content = zlib.decompress(received) if answer.headers.get("content-encoding") == "deflate" else received
    seconds = time.perf_counter() - start
    parts = MultipartDecoder(content, answer.headers["content-type"]).parts
    found: dict[str, Any] = json.loads(
        next(part.text for part in parts if b'"params"' in part.headers[b"Content-Disposition"])
    )
    network_s = sum(found["latencies_ms"].get(step, 0.0) for step in NETWORK) / 1000
    times = {"seconds": round(seconds, 3), "received_s": round(received_s, 3), "network_s": network_s}
    return {**found, **times, "received_bytes": len(received)}


if __name__ == "__main__":
    raise SystemExit(main())
