"""What the specs measured, printed when they have run."""

from __future__ import annotations

figures: list[str] = []
