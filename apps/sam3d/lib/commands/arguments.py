"""What several commands are told alike, and how it is read."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from lib.datasets.known import DATASETS, FOLDER, KnownDataset
from lib.settings import CONF_KEYS, Settings

CERTIFICATES = ("cluster_ca", "cluster_cert", "cluster_key")
CLUSTER = ("cluster", *CERTIFICATES, "cluster_wait_s")


def add_settings(options: argparse.ArgumentParser, *keys: str) -> None:
    """Options for keys of --conf, checked as those are."""
    for key in keys:
        options.add_argument(f"--{key.replace('_', '-')}", help=CONF_KEYS[key].help)


def add_certificates(options: argparse.ArgumentParser) -> None:
    """Options for the three PEM files of a machine of a cluster."""
    add_settings(options, *CERTIFICATES)


def certificates_of(args: argparse.Namespace) -> dict[str, Path]:
    """Those files by what they are."""
    cluster = settings_of(args).cluster
    found = {"ca": cluster.cluster_ca, "cert": cluster.cluster_cert, "key": cluster.cluster_key}
    return {name: path for name, path in found.items() if path is not None}


def settings_of(args: argparse.Namespace) -> Settings:
    given = {key: value for key, value in vars(args).items() if key in CONF_KEYS and value is not None}
    return Settings.from_conf(given)


def add_dataset(options: argparse.ArgumentParser, source: Any = None) -> None:
    """Which set of labelled cases, what in it is sought, and who trains and tests."""
    group = source or options
    group.add_argument("--dataset", choices=sorted(DATASETS), help="a published set; folder: any other")
    options.add_argument("--target", type=count, metavar="N", help="value of the label that is sought; the set's own")
    options.add_argument("--splits", type=Path, metavar="FILE", help="splits.json of a run: who trains, and who tests")


def dataset_of(args: argparse.Namespace) -> KnownDataset:
    dataset = DATASETS[args.dataset or FOLDER]
    return replace(dataset, target=args.target) if args.target else dataset


def set_threads(count: int | None) -> None:
    import torch

    if count is not None:
        torch.set_num_threads(count)


def has_bfloat16_operands(args: argparse.Namespace) -> bool:
    import torch

    from lib.network.precision import has_bfloat16

    return has_bfloat16(torch.device(args.device)) if args.precision == "auto" else args.precision == "bfloat16"


def count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 up")
    return int(text)


def natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 up")
    return int(text)


def share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to below 1")
    return value


def safetensors_file(text: str) -> Path:
    if not text.endswith(".safetensors"):
        raise argparse.ArgumentTypeError(f"{text!r} does not end in .safetensors")
    return Path(text)
