"""What a click costs beside the published computation: seconds, step by step, memory, and how far the answers differ.

    python benchmarks/click_cost.py                  # about three minutes on two cores, most of them the published way
    python benchmarks/click_cost.py --rounds 3       # medians of three

The published computation (benchmarks/support/published.py), ours in single precision and ours in bfloat16 answer the
same click on the same random weights, each in a process of its own, one after the other. The published one does the
same again for each click; of ours, the first on a patch and later ones are measured. `cpu_s` is processor time of all
threads, which other programs on the machine hardly change. Peak memory is the largest resident size during the clicks.
Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from support.memory import forget_peak, peak_bytes
from support.published import PublishedNetwork
from support.report import REPOSITORY, report
from support.steps import Steps
from torch import Tensor

from lib.network.build import build_sam3d
from lib.network.fast.blocks import FastAttention, FastBlock
from lib.network.fast.choice import for_clicks
from lib.network.fast.decoder import FastHead, FastMaskDecoder, Fusion
from lib.network.fast.encoder import FastNeck
from lib.network.fast.prompt import FastPromptEncoder
from lib.network.precision import has_bfloat16
from lib.network.sam3d import Sam3D
from lib.parity.golden import VARIANT, load_filler
from lib.parity.inference import fill_parameters
from lib.settings import VARIANTS

CPU = torch.device("cpu")
FILLER = REPOSITORY / "tests" / "golden" / "fill.py"
SEED = 11
N_LATER = 5
# Steps of ours; what a first click takes beside them is linear layers, norms and residuals of the blocks.
STEPS: tuple[tuple[type, str, str], ...] = (
    (FastBlock, "_neighbourhoods", "adapters"),
    (FastAttention, "__call__", "attention with qkv and proj"),
    (FastNeck, "__call__", "necks"),
    (FastHead, "__call__", "heads"),
    (Fusion, "added", "fusion"),
    (FastPromptEncoder, "__call__", "prompt encoder"),
    (FastMaskDecoder, "_last_convolution", "last convolution"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1, help="how often everything is measured (1)")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch (2)")
    parser.add_argument("--modes", nargs="+", choices=["published", "fp32", "bf16"], help="all unless named")
    parser.add_argument("--measure", nargs=2, metavar=("MODE", "FILE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.measure:
        print(json.dumps(measured(args.measure[0], Path(args.measure[1]))))
        return
    modes = args.modes or ["published", "fp32", *(["bf16"] if has_bfloat16(CPU) else [])]
    with tempfile.TemporaryDirectory() as folder:
        rounds = [
            {mode: in_own_process(mode, args.threads, Path(folder)) for mode in modes} for _ in range(args.rounds)
        ]
        answers = {mode: np.load(Path(folder) / f"{mode}.npy") for mode in modes}
    medians = {mode: _medians([each[mode] for each in rounds]) for mode in modes}
    base = medians[modes[0]]
    ratios = {
        mode: {
            "first": round(base["first_s"] / medians[mode]["first_s"], 2),
            "later": round(base["later_s"] / medians[mode]["later_s"], 1),
            "first_cpu": round(base["first_cpu_s"] / medians[mode]["first_cpu_s"], 2),
            "later_cpu": round(base["later_cpu_s"] / medians[mode]["later_cpu_s"], 1),
            "peak": round(medians[mode]["peak_gb"] / base["peak_gb"], 3),
            **_deviation(answers[modes[0]], answers[mode]),
        }
        for mode in modes[1:]
    }
    report("click_cost", variant=VARIANT, threads=args.threads, rounds=args.rounds, **medians, against_the_first=ratios)


def in_own_process(mode: str, threads: int, folder: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--threads", str(threads), "--measure", mode, str(folder / f"{mode}.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def measured(mode: str, answer: Path) -> dict[str, Any]:
    """Figures of a first and later clicks; the first click's logits go to a file."""
    network, patch = _filled()
    points = torch.tensor([[[64.0, 64.0, 64.0]]])
    if mode == "published":
        published = PublishedNetwork(network.state_dict(), network.settings)
        return _published(published, patch, points, answer)
    fast = for_clicks(network, mode, CPU)
    del network
    return _ours(fast, patch, points, answer)


def _published(network: PublishedNetwork, patch: Tensor, points: Tensor, answer: Path) -> dict[str, Any]:
    """One click: the next one computes the same again, whatever was clicked before."""
    forget_peak()
    total = Steps()
    with total.timed("click"):
        logits = network.click(patch, points + 5)
    peak = peak_bytes()
    np.save(answer, logits.numpy())
    seconds, cpu_s = total.seconds["click"], total.cpu_seconds["click"]
    steps = network.steps.rounded()
    return _figures((seconds, seconds), (cpu_s, cpu_s), peak, 0, steps, steps)


def _ours(network: Sam3D, patch: Tensor, points: Tensor, answer: Path) -> dict[str, Any]:
    total, first, later = Steps(), Steps(), []
    labels = torch.ones(points.shape[:2])
    forget_peak()
    with total.timed("first"), _stepwise(first):
        embedding = network.encode(patch)
        network.decode(embedding, points, labels)
    for _ in range(N_LATER):
        once, steps = Steps(), Steps()
        with once.timed("later"), _stepwise(steps):
            logits = network.decode(embedding, points + 5, labels)
        later.append((once.seconds["later"], once.cpu_seconds["later"], steps.rounded()))
    peak = peak_bytes()
    np.save(answer, logits.numpy())
    later_s, later_cpu_s, later_steps = sorted(later, key=lambda each: each[0])[N_LATER // 2]
    seconds, cpu_s = (total.seconds["first"], later_s), (total.cpu_seconds["first"], later_cpu_s)
    return _figures(seconds, cpu_s, peak, embedding.nbytes, first.rounded(), later_steps)


def _figures(
    seconds: tuple[float, float],
    cpu_seconds: tuple[float, float],
    peak: int,
    embedding: int,
    first: dict[str, float],
    later: dict[str, float],
) -> dict[str, Any]:
    """Both pairs are of a first and a later click; steps are by the clock."""
    first_s, later_s = seconds
    return {
        "first_s": round(first_s, 3),
        "later_s": round(later_s, 3),
        "first_cpu_s": round(cpu_seconds[0], 3),
        "later_cpu_s": round(cpu_seconds[1], 3),
        "peak_gb": round(peak / 1e9, 2),
        "embedding_mib": round(embedding / 2**20, 1),
        "first_steps_s": {**first, "everything else": round(first_s - sum(first.values()), 3)},
        "later_steps_s": {**later, "everything else": round(later_s - sum(later.values()), 3)},
    }


@contextmanager
def _stepwise(steps: Steps) -> Iterator[None]:
    """Time the methods of STEPS while the enclosed lines run."""
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in STEPS]
    for (owner, name, original), (_, _, title) in zip(originals, STEPS, strict=True):
        setattr(owner, name, _timed(original, steps, title))
    try:
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


def _timed(method: Any, steps: Steps, title: str) -> Any:
    def run(*args: Any) -> Any:
        with steps.timed(title):
            return method(*args)

    return run


def _filled() -> tuple[Sam3D, Tensor]:
    """The network with the golden cases' random weights, and a patch of theirs."""
    filler = load_filler(FILLER)
    network = build_sam3d(VARIANTS[VARIANT])
    fill_parameters(network, filler)
    network.requires_grad_(False)
    return network, torch.from_numpy(filler.make_input(SEED))[None, None]


def _medians(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The median of every figure; nested ones likewise."""
    return {
        key: _medians([each[key] for each in rounds])
        if isinstance(value, dict)
        else round(median(each[key] for each in rounds), 3)
        for key, value in rounds[0].items()
    }


def _deviation(expected: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """How far logits lie apart, and the Dice of their masks."""
    masks = [logits[:, 1] > logits[:, 0] for logits in (expected, found)]
    common = np.count_nonzero(masks[0] & masks[1])
    dice = 2 * common / max(1, sum(np.count_nonzero(mask) for mask in masks))
    return {"largest_deviation": float(f"{np.abs(expected - found).max():.2g}"), "mask_dice": round(float(dice), 4)}


if __name__ == "__main__":
    main()
