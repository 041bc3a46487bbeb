"""`demo`: a server with something to click on."""

from __future__ import annotations

import argparse
from pathlib import Path

from lib.commands.arguments import add_settings, settings_of
from lib.settings import APP


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--studies", type=Path, required=True, metavar="DIR", help="folder of images; made if empty")
    options.add_argument("--port", type=int, default=8000, help="another one is taken if this is in use (8000)")
    add_settings(options, "labels")


def run(args: argparse.Namespace) -> int:
    """serve demo studies on this machine and say what to click"""
    from lib.demo import free_port, prepare, serve

    labels = settings_of(args).labels if args.labels else ()
    return serve(APP, prepare(args.studies), free_port(args.port), labels)
