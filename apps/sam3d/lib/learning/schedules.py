"""How large a step is, as a share of the largest: up in a line at first, then down to a hundredth."""

from __future__ import annotations

import math

# Of what the largest step is at the end, as published.
FINAL_SHARE = 0.01


def linear(step: int, steps: int, warmup_steps: int = 0) -> float:
    """Up in a line over the first steps, down in a line over the rest. Steps count from 0."""
    return _warmup(step, warmup_steps) or 1 - (1 - FINAL_SHARE) * _progress(step, steps, warmup_steps)


def half_cosine(step: float, steps: float, warmup_steps: int = 0) -> float:
    """Up in a line, then down along half a cosine: gently where it begins and where it ends."""
    fall = 0.5 * (1 + math.cos(math.pi * _progress(step, steps, warmup_steps)))
    return _warmup(step, warmup_steps) or FINAL_SHARE + (1 - FINAL_SHARE) * fall


def _warmup(step: float, warmup_steps: int) -> float:
    """0 where that is over."""
    return (step + 1) / warmup_steps if step < warmup_steps else 0.0


def _progress(step: float, steps: float, warmup_steps: int) -> float:
    return min(1.0, max(0, step - warmup_steps) / max(1, steps - warmup_steps))
