"""One training run over several processes: each takes its share of every step's patches, and gradients are summed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.multiprocessing.spawn import spawn

from lib.errors import TrainingError

# A rank that is this long in coming has died.
PATIENCE = timedelta(minutes=10)
AGREE = "give them one --folder that their machines share, the same options and the same files"


@dataclass(frozen=True)
class Team:
    """How many processes train together, which of them this one is, and which on its machine."""

    size: int = 1
    rank: int = 0
    local_rank: int = 0

    @property
    def is_leader(self) -> bool:
        """Whether this process measures, reports and publishes."""
        return self.rank == 0

    def share(self, start: int, count: int) -> range:
        """This process's part of the numbers from `start`: contiguous, so that all parts in order are the whole."""
        return range(start + count * self.rank // self.size, start + count * (self.rank + 1) // self.size)

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Give every process the sum of all their gradients; a parameter without one counts as 0."""
        if self.size == 1:
            return
        parameters = list(parameters)
        flat = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters])
        flat = _sum_of_all(flat)
        for parameter, gradient in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = gradient.view_as(parameter).clone()

    def check_agreement(self, beginning: str) -> None:
        """TrainingError in every process unless all of them begin with the same, told in a few words."""
        if self.size == 1:
            return
        told: list[Any] = [None] * self.size
        distributed.all_gather_object(told, beginning)
        if len(set(told)) > 1:
            each = "; ".join(f"process {rank}: {words}" for rank, words in enumerate(told))
            raise TrainingError(f"the processes do not begin alike ({each}): {AGREE}")

    def sum_values(self, values: list[float], device: torch.device) -> list[float]:
        """Give every process the sums of all their values."""
        if self.size == 1:
            return values
        total = _sum_of_all(torch.tensor(values, dtype=torch.float64, device=device))
        return [float(value) for value in total]


def _sum_of_all(tensor: Tensor) -> Tensor:
    """The sum of all processes' tensors, on the same device."""
    # Processes that share a GPU meet in main memory: NCCL wants a GPU for each.
    shared = tensor.cpu() if distributed.get_backend() == "gloo" else tensor
    distributed.all_reduce(shared)
    return shared.to(tensor.device)


def run_together(size: int, backend: str, work: Callable[..., Any], *arguments: Any) -> None:
    """Call `work(team, *arguments)` in `size` processes; returns when all have, and passes on what one raised.

    `work` and `arguments` travel to new interpreters by pickling, so `work` is a function of a module.
    """
    with tempfile.TemporaryDirectory() as folder:
        meeting = (Path(folder) / "meeting").as_uri()
        spawn(_member, (size, backend, meeting, work, arguments), nprocs=size)


def _member(rank: int, size: int, backend: str, meeting: str, work: Callable[..., Any], arguments: Any) -> None:
    with joined(Team(size, rank, rank), backend, meeting) as team:
        work(team, *arguments)


@contextmanager
def joined(team: Team, backend: str, meeting: str) -> Iterator[Team]:
    """Be a member of a process group while the enclosed lines run. `meeting` is a URL, such as `env://` of torchrun."""
    if backend == "nccl":
        torch.cuda.set_device(team.local_rank)  # each machine counts its GPUs from 0
    distributed.init_process_group(backend, meeting, PATIENCE, world_size=team.size, rank=team.rank)
    try:
        yield team
    finally:
        distributed.destroy_process_group()


@contextmanager
def torchrun_team(device: str) -> Iterator[Team]:
    """The team that torchrun started this process in, on one machine or several; one alone where it did not. On `cuda`
    each process has a GPU of its own; on a named one, such as `cuda:0`, all those of a machine share it."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Team()
        return
    backend = "nccl" if device == "cuda" else "gloo"
    team = Team(size, int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"]))
    with joined(team, backend, "env://"):
        yield team
