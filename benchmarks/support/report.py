"""One line of JSON for each result, with what it was measured on."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

REPOSITORY = Path(__file__).parents[2]


def report(benchmark: str, **values: Any) -> None:
    """Print a result."""
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    about = {"commit": _commit(), "machine": machine, "cores": os.cpu_count(), "torch": torch.__version__}
    print(json.dumps({"benchmark": benchmark, **values, **about}), flush=True)


def _commit() -> str:
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
