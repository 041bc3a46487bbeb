"""`worker`: a process that takes a server's orders."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lib.commands.arguments import add_certificates, add_settings, certificates_of, natural, set_threads, settings_of
from lib.errors import SettingsError
from lib.locks import fault_of_locks

if TYPE_CHECKING:
    from lib.cluster.orders import ImageReference
    from lib.images.volumes import Volume


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("scheduler", metavar="ADDRESS", help="as in tls://host:8786")
    options.add_argument(
        "--root", type=Path, metavar="DIR", help="the server's folder of studies, as this machine sees it"
    )
    options.add_argument(
        "--model-folder", type=Path, metavar="DIR", help="the server's model folder, as this machine sees it: to train"
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
    for folder, option, what in (args.root, "--root", "studies"), (args.model_folder, "--model-folder", "model folder"):
        if folder is not None and not folder.is_dir():
            raise SettingsError(f"there is no folder {folder}: mount the {what} there, or leave {option} away")

    import torch

    from lib.cluster.carrying import Place, take_orders
    from lib.cluster.dask_nodes import host_towards, serve_worker
    from lib.network.devices import device_named
    from lib.works import draft, evaluate, score

    set_threads(args.threads)
    device = device_named(settings_of(args).device)
    gpus = args.gpus if args.gpus is not None else int(device.type == "cuda")
    model_folder = args.model_folder and args.model_folder.resolve()
    if model_folder is not None and (fault := fault_of_locks(model_folder)):
        raise SettingsError(fault)
    if model_folder is not None and not gpus:
        raise SettingsError("--model-folder is for trainings, which take a GPU: give --device cuda, or --gpus 1, too")
    works = {score.NAME: score.score, draft.NAME: draft.draft, evaluate.NAME: evaluate.evaluate}
    if model_folder is not None:  # what trains takes seconds to load
        from lib.trainers import update_order, update_work

        works[update_order.NAME] = update_work.update
    take_orders(works, Place(str(device), args.root and args.root.resolve(), _open_series, model_folder))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    host = args.host or host_towards(access)
    resources = {"GPU": gpus, "training": int(model_folder is not None)}
    declared = {name: count for name, count in resources.items() if count}
    serve_worker(access, host, declared, lambda at: print(f"worker at {at}", flush=True))
    return 0


def _open_series(image: ImageReference, limit_bytes: int) -> Volume:
    """The way to archives, which few workers need and which takes seconds to load."""
    from lib.datastore.series_for_workers import open_series

    return open_series(image, limit_bytes)
