"""A folder of golden cases, run one by one against the network of the published size."""

from __future__ import annotations

import importlib.util
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lib.errors import SettingsError
from lib.network.build import build_sam3d
from lib.parity.inference import Filler, case_meta, check_case, fill_parameters
from lib.parity.parameter_counts import NEVER_USED, VARIANT, counts_of_variant
from lib.settings import VARIANTS


@dataclass(frozen=True)
class Verdict:
    """One file's outcome as a line to print; `is_passed` is None where the file holds nothing to run."""

    line: str
    is_passed: bool | None


def check_folder(folder: Path, filler: Filler) -> Iterator[Verdict]:
    """A verdict for every `.npz` of the folder, in order of name; SettingsError where there is none."""
    paths = sorted(folder.glob("*.npz"))
    if not paths:
        raise SettingsError(f"{folder.name} holds no golden case: name a folder of .npz files")
    network, filled_with = build_sam3d(VARIANTS[VARIANT]), None
    for path in paths:
        try:
            with np.load(path, allow_pickle=False) as stored:
                is_inference, salt = "logits_ds4" in stored, str(case_meta(stored).get("salt", ""))
            if not is_inference:
                yield Verdict(f"{path.stem}: skipped, it records no logits of an inference", None)
                continue
            if salt != filled_with:
                fill_parameters(network, filler, salt)
                filled_with = salt
            result = check_case(network, filler, path)
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            yield Verdict(f"{path.stem}: FAIL, not a complete golden case ({error})", False)
            continue
        yield Verdict(str(result), result.is_passed)


def tuned_parameters() -> str:
    """How many parameters the published method trains, in one line."""
    counts = counts_of_variant(VARIANT)
    return (
        f"{VARIANT}: {counts.as_published:,} tuned parameters as the method trains it, {NEVER_USED:,} of them in an "
        "attention of the published prompt encoder that is never used and that this network leaves away"
    )


def load_filler(path: Path) -> Filler:
    """The module that fills a case's parameters and inputs, from a file of the checkout."""
    spec = importlib.util.spec_from_file_location("golden_filler", path) if path.is_file() else None
    if spec is None or spec.loader is None:
        raise SettingsError(f"{path.name} is not where a checkout has it, in tests/golden: run this from a checkout")
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    filler: Filler = module
    return filler
