"""What a device computes in: single precision, or bfloat16 operands where that is fast."""

from __future__ import annotations

import torch

from lib.errors import SettingsError


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 itself: a step is then several times faster, where it is not, slower."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    asked = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # PyTorch has no public name for it
    return bool(asked()) if asked else False


def operand_type(precision: str, device: torch.device) -> torch.dtype:
    """What `auto`, `fp32` or `bf16` means on a device; SettingsError where it has no bf16."""
    if precision == "fp32" or (precision == "auto" and not has_bfloat16(device)):
        return torch.float32
    if not has_bfloat16(device):
        raise SettingsError(f"precision is 'bf16', which this machine's {device.type} does not compute in: use auto")
    return torch.bfloat16
