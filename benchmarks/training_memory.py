"""What one training step keeps in memory and how long it takes: plain, round by round, and with checkpoints.

    python benchmarks/training_memory.py --variant tiny
    python benchmarks/training_memory.py --variant vit_b --rounds 1    # about 12 GB and some minutes on a CPU

`plain` is `training_step` of lib.learning.training, whose graph holds every round; `rounds` differentiates each round
by itself; `checkpointed` also keeps only the inputs of the encoder's blocks. Each runs in a process of its own. Saved
tensors are counted by autograd's hooks, every storage once and parameters not at all. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import torch
from support.report import report

from lib.learning.training import ClickPlan, backward_step, training_step
from lib.network.build import build_sam3d
from lib.settings import VARIANTS
from lib.synthesis.patches import training_patch, training_rng

MODES = ("plain", "rounds", "checkpointed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=sorted(VARIANTS), default="tiny")
    parser.add_argument("--rounds", type=int, default=3, help="clicks of the step (3)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--bfloat16", action="store_true", help="autocast")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--mode", choices=MODES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.mode:
        print(json.dumps(one_step(args)))
        return
    found = {}
    for mode in args.modes:
        done = subprocess.run([sys.executable, *sys.argv, "--mode", mode], capture_output=True, text=True, check=False)
        lines = done.stdout.splitlines()
        found[mode] = json.loads(lines[-1]) if done.returncode == 0 else {"failed": why(done)}
    report("training_memory", variant=args.variant, rounds=args.rounds, device=args.device, steps=found)


def why(done: subprocess.CompletedProcess[str]) -> str:
    """What a step ended with that did not come to its end; whoever is killed says nothing."""
    if done.returncode == -signal.SIGKILL:
        return "killed by the system, which it does to whoever takes more memory than there is"
    return done.stderr.strip()[-300:] or f"exit code {done.returncode}"


def one_step(args: argparse.Namespace) -> dict[str, Any]:
    """Figures of one step, after a short one to warm up where that costs nothing."""
    device, settings = torch.device(args.device), VARIANTS[args.variant]
    network = build_sam3d(settings, seed=0).to(device)
    network.freeze_sam()
    network.image_encoder.is_checkpointed = args.mode == "checkpointed"
    found = training_patch(training_rng(0, 0), settings.patch_size)
    patch, target = (torch.from_numpy(np.asarray(each, np.float32))[None, None].to(device) for each in found)
    plan = ClickPlan(rounds=args.rounds, automatic_share=0.0)
    if args.variant == "tiny":
        step(network, patch, target, plan, args)
    before = peak_bytes(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    counter = SavedTensors({p.untyped_storage().data_ptr() for p in network.parameters()})
    with torch.autograd.graph.saved_tensors_hooks(counter.keep, counter.give):
        start = time.perf_counter()
        loss = step(network, patch, target, plan, args)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    return {
        "loss": round(loss, 6),
        "saved_mib_at_most": round(counter.most / 2**20, 1),
        "peak_mib": round(peak_bytes(device) / 2**20, 1),
        "peak_mib_before_the_step": round(before / 2**20, 1),
        "step_s": round(seconds, 2),
    }


def step(network: Any, patch: torch.Tensor, target: torch.Tensor, plan: ClickPlan, args: argparse.Namespace) -> float:
    network.zero_grad(set_to_none=True)
    rng = np.random.default_rng(0)
    if args.mode != "plain":
        return backward_step(network, patch, target, plan, rng, has_bfloat16=args.bfloat16)[0]
    with torch.autocast(patch.device.type, torch.bfloat16, enabled=args.bfloat16):
        loss, _ = training_step(network, patch, target, plan, [rng])
    loss.backward()
    return float(loss.detach())


def peak_bytes(device: torch.device) -> int:
    """The most that was ever in use: of the GPU's memory by tensors, else of the machine's by this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Kept:
    """A saved tensor; tells when nobody needs it any more."""

    def __init__(self, tensor: torch.Tensor, counter: SavedTensors) -> None:
        self.tensor, self.counter = tensor, counter

    def __del__(self) -> None:
        self.counter.drop(self.tensor)


class SavedTensors:
    """Counts the bytes that autograd keeps, at each moment, every storage once."""

    def __init__(self, parameters: set[int]) -> None:
        self.parameters = parameters
        self.users: dict[int, int] = {}
        self.now = self.most = 0

    def keep(self, tensor: torch.Tensor) -> Kept:
        storage = tensor.untyped_storage()
        pointer = storage.data_ptr()
        if pointer not in self.parameters:
            self.users[pointer] = self.users.get(pointer, 0) + 1
            self.now += storage.nbytes() if self.users[pointer] == 1 else 0
            self.most = max(self.most, self.now)
        return Kept(tensor, self)

    def drop(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        pointer = storage.data_ptr()
        if pointer in self.users:
            self.users[pointer] -= 1
            if not self.users[pointer]:
                del self.users[pointer]
                self.now -= storage.nbytes()

    @staticmethod
    def give(kept: Kept) -> torch.Tensor:
        return kept.tensor


if __name__ == "__main__":
    main()
