"""While one user's click encodes for ten seconds: how soon is everybody else answered?

    python benchmarks/responsiveness.py

A server with a network of random weights, as deep as it must be for an encode of about ten seconds on this machine. One
user opens a new case; until the mask comes, another clicks on a case that is encoded already, and a third asks /info/
ten times a second. The same is measured with nobody encoding. Prints one line of JSON; exits with 1 if /info/ was slow
(95th percentile of 200 ms or more) or no other click was answered meanwhile.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from support.cases import AnnotatedCase, new_family
from support.report import report
from support.server import LABEL, REQUEST_LIMIT_S, Client, serving

from lib.interactive.clicks import first_click
from lib.network.build import build_sam3d
from lib.network.weights import Card, save_weights
from lib.settings import PRESETS, VARIANTS, NetworkSettings

INFO_LIMIT_MS = 200.0
# Blocks of one stage; a network has four stages, each with one block of global attention.
MOST_BLOCKS = 64


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encode-s", type=float, default=10.0, help="how long an encode should take (10)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return run(Path(folder), args.encode_s)


def run(folder: Path, encode_s: float) -> int:
    """Measure idle, then during an encode."""
    studies, truths = folder / "studies", folder / "truths"
    for path in (studies, truths):
        path.mkdir()
    known, new = new_family(2, studies, truths)
    settings = deep_network(encode_s)
    weights = folder / "deep.safetensors"
    card = Card(network=settings, variant="deep", intensity=PRESETS["ct"], spacing_mm=1.0, is_trained=True)
    save_weights(build_sam3d(settings), card, weights)
    with serving(folder, studies, {"checkpoint": str(weights), "max_patches": "1"}) as client:
        click(client, known)
        with ThreadPoolExecutor(3) as users:
            pause: Future[None] = users.submit(time.sleep, encode_s)
            idle = others(client, known, users, pause.done)
            slow = users.submit(click, client, new)
            busy = others(client, known, users, slow.done)
    latencies_ms = slow.result()["latencies_ms"]
    is_fine = busy["info_ms"]["p95"] < INFO_LIMIT_MS and busy["cached_clicks"] > 0
    report("responsiveness", encode_ms=latencies_ms["encode"], blocks=settings.depth, idle=idle, busy=busy, ok=is_fine)
    return 0 if is_fine else 1


def deep_network(encode_s: float) -> NetworkSettings:
    """The tiny variant, wider, with as many blocks as make an encode take about `encode_s` here and now."""
    fewer, more = 1, 3
    fewer_s, more_s = (_encode_s(_network(blocks)) for blocks in (fewer, more))
    block_s = max((more_s - fewer_s) / (more - fewer), 1e-3)
    return _network(min(max(round(fewer + (encode_s - fewer_s) / block_s), fewer), MOST_BLOCKS))


def _encode_s(settings: NetworkSettings) -> float:
    network = build_sam3d(settings).eval()
    patch = torch.zeros(1, 1, *[settings.patch_size] * 3)
    with torch.inference_mode():
        network.encode(patch)
        start = time.perf_counter()
        network.encode(patch)
    return time.perf_counter() - start


def _network(blocks: int) -> NetworkSettings:
    ends = tuple(blocks * stage - 1 for stage in range(1, 5))
    return replace(VARIANTS["tiny"], embed_dim=384, num_heads=6, depth=4 * blocks, neck_blocks=ends)


def others(
    client: Client, known: AnnotatedCase, users: ThreadPoolExecutor, is_over: Callable[[], bool]
) -> dict[str, Any]:
    """How soon /info/ and clicks on a known case are answered until something is over."""
    ended = threading.Event()
    clicks = users.submit(_repeat, lambda: click(client, known), ended, 0.0)
    infos = users.submit(_repeat, lambda: _get(client, "/info/"), ended, 0.1, counts_last=True)
    while not is_over():
        time.sleep(0.01)
    ended.set()
    info_ms, click_ms = np.array(infos.result()), np.array(clicks.result())
    return {
        "info": len(info_ms),
        "info_ms": {"median": _round(np.median(info_ms)), "p95": _round(np.quantile(info_ms, 0.95))},
        "cached_clicks": len(click_ms),
        "cached_click_ms": _round(np.median(click_ms)) if len(click_ms) else None,
    }


def _repeat(ask: Callable[[], Any], ended: threading.Event, pause_s: float, counts_last: bool = False) -> list[float]:
    """Milliseconds of every request that was answered before the end; `counts_last`: or asked before it."""
    taken = []
    while not ended.wait(pause_s):
        start = time.perf_counter()
        ask()
        if counts_last or not ended.is_set():
            taken.append(1000 * (time.perf_counter() - start))
    return taken


def click(client: Client, case: AnnotatedCase) -> dict[str, Any]:
    """The params of the answer to one click, over a connection of its own."""
    at = [int(index) for index in first_click(case.truth(), case.spacing())]
    own = Client(client.url, client.log, client.process)
    answer = own.http.post(
        f"{own.url}/infer/sam3d",
        params={"image": case.name, "output": "json"},
        files={"params": (None, json.dumps({LABEL: [at]}))},
        timeout=REQUEST_LIMIT_S,
    )
    answer.raise_for_status()
    params: dict[str, Any] = answer.json()
    return params


def _get(client: Client, path: str) -> None:
    own = Client(client.url, client.log, client.process)
    own.http.get(f"{own.url}{path}", timeout=REQUEST_LIMIT_S).raise_for_status()


def _round(value: float) -> float:
    return round(float(value), 1)


if __name__ == "__main__":
    raise SystemExit(main())
