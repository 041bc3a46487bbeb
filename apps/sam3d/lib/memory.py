"""How much memory training takes, and how much there is: refused before hours are lost, not after."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from lib.errors import TrainingError
from lib.settings import NetworkSettings

GIB = 2**30
CPU_OUT_OF_MEMORY = "can't allocate memory"
MEMINFO = Path("/proc/meminfo")
# PyTorch, MONAI and a volume under preparation.
BASE_GIB = 1.0
WAY_OUT = (
    "give --activation-checkpointing on, a smaller --variant or --precision bfloat16, or stop what else runs here; a "
    "smaller --batch does not help, for patches are learned from one by one"
)


@dataclass(frozen=True)
class Thrift:
    """What saves memory: blocks computed twice, and values of half the size."""

    is_checkpointed: bool = False
    has_bfloat16: bool = False


def check_memory(variant: str, network: NetworkSettings, thrift: Thrift, device: torch.device) -> None:
    """Raises TrainingError where training needs more memory than the device has left."""
    needed, free = training_gib(network, thrift), free_gib(device)
    if free is not None and needed > free:
        raise TrainingError(f"training {variant} takes about {needed:.1f} GiB and {free:.1f} GiB are free: {WAY_OUT}")


def training_gib(network: NetworkSettings, thrift: Thrift) -> float:
    """An estimate, on the low side, so that nothing is refused that would do: for ViT-B in single precision 9 GiB where
    blocks are computed twice (10 were measured) and 35 where not (35 were reported)."""
    tokens, cells = network.grid_size**3, (network.patch_size // 2) ** 3
    window = network.window_size**3
    # Values that a block keeps for its derivative: token-wise ones, and the attention of every token to its window.
    block = tokens * (14 * network.embed_dim + 3 * network.num_heads * window // 2)
    kept = block * (1 if thrift.is_checkpointed else network.depth) + tokens * network.embed_dim * network.depth
    decoder = 6 * cells * (4 * network.head_dim + 1)
    weights = 5 * 12 * network.depth * network.embed_dim**2
    # Norms and the loss stay in single precision.
    share = 0.6 if thrift.has_bfloat16 else 1.0
    return BASE_GIB + 4 * (share * (kept + decoder) + weights) / GIB


def free_gib(device: torch.device) -> float | None:
    """What is left on a GPU, or of the machine's memory; None where nobody knows."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0] / GIB)
    try:
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024 / GIB
    except (OSError, ValueError, KeyError):
        return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the GPU's or the machine's memory has run out; PyTorch raises a bare RuntimeError for the latter."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or CPU_OUT_OF_MEMORY in str(error)
