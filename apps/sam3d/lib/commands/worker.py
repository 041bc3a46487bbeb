"""`worker`: a process that takes a server's orders."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lib.commands.arguments import add_certificates, add_settings, certificates_of, natural, set_threads, settings_of
from lib.errors import SettingsError

if TYPE_CHECKING:
    from lib.cluster.orders import ImageReference
    from lib.images.volumes import Volume


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("scheduler", metavar="ADDRESS", help="as in tls://host:8786")
    options.add_argument(
        "--root", type=Path, metavar="DIR", help="the server's folder of studies, as this machine sees it"
    )
    options.add_argument("--host", metavar="ADDRESS", help="own address to listen at; the one towards the scheduler")
    options.add_argument("--gpus", type=natural, metavar="N", help="GPUs to declare (1 with --device cuda, else 0)")
    options.add_argument("--threads", type=natural, metavar="N", help="CPU threads of PyTorch")
    add_settings(options, "device")
    add_certificates(options)


def run(args: argparse.Namespace) -> int:
    """take a server's orders from a scheduler: one process a GPU, or for some cores (docs/cluster.md)"""
    from lib.cluster.security import Access, check_installed

    check_installed()
    access = Access(args.scheduler, **certificates_of(args))
    if args.root is not None and not args.root.is_dir():
        raise SettingsError(f"there is no folder {args.root}: mount the studies there, or leave --root away")

    import torch

    from lib.cluster.carrying import Place, take_orders
    from lib.cluster.dask_nodes import host_towards, serve_worker
    from lib.network.devices import device_named
    from lib.works import draft, evaluate, score

    set_threads(args.threads)
    device = device_named(settings_of(args).device)
    works = {score.NAME: score.score, draft.NAME: draft.draft, evaluate.NAME: evaluate.evaluate}
    take_orders(works, Place(str(device), args.root and args.root.resolve(), _open_series))
    gpus = args.gpus if args.gpus is not None else int(device.type == "cuda")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    host = args.host or host_towards(access)
    serve_worker(access, host, {"GPU": gpus} if gpus else {}, lambda at: print(f"worker at {at}", flush=True))
    return 0


def _open_series(image: ImageReference, limit_bytes: int) -> Volume:
    """The way to archives, which few workers need and which takes seconds to load."""
    from lib.datastore.series_for_workers import open_series

    return open_series(image, limit_bytes)
