"""Where a network is computed."""

from __future__ import annotations

import torch

from lib.errors import SettingsError


def device_named(name: str) -> torch.device:
    """`auto`, `cpu` or `cuda` as a device of this machine; SettingsError if it has none."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name != "cpu" and not torch.cuda.is_available():
        raise SettingsError(f"device is {name!r}, but PyTorch finds no CUDA device here: use auto or cpu")
    return torch.device(name)
