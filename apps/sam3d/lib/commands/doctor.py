"""`doctor`: what is wrong with an installation, and how to mend it."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lib.errors import SettingsError

if TYPE_CHECKING:
    from lib.diagnosis.findings import Finding


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--studies", required=True, help="folder or DICOMweb URL, as the server is given it")
    options.add_argument(
        *("--conf",), nargs=2, action="append", default=[], metavar=("KEY", "VALUE"), help="as the server is given it"
    )
    options.add_argument("--port", type=int, default=8000, help="where the server listens (8000)")
    options.add_argument("--images", type=int, default=20, metavar="N", help="most images of a folder to open (20)")


def run(args: argparse.Namespace) -> int:
    """look at everything that a server needs, and say what is wrong and how to mend it; 1 if anything is"""
    from lib.diagnosis.findings import Verdict

    logging.disable(logging.WARNING)  # what is amiss is printed below
    wrong = 0
    for finding in _findings(args):
        print(finding, flush=True)
        wrong += finding.verdict is Verdict.WRONG
    print(f"{wrong} wrong" if wrong else "nothing wrong")
    return 1 if wrong else 0


def _findings(args: argparse.Namespace) -> Iterator[Finding]:
    """Each area in turn; a broken environment is told before what it breaks."""
    from lib.diagnosis import login, machine, weights
    from lib.diagnosis.findings import Verdict, wrong
    from lib.settings import Settings

    is_sound = True
    for finding in machine.environment():
        yield finding
        is_sound = is_sound and finding.verdict is not Verdict.WRONG
    conf = dict(args.conf)
    try:
        settings = Settings.from_conf(conf)
    except SettingsError as error:
        yield wrong("settings", str(error), "mend this --conf")
        settings = Settings()
    if is_sound:
        from lib.datastore.opening import folder_of_labels, is_archive
        from lib.diagnosis import studies

        folder = folder_of_labels(args.studies)
        if is_archive(args.studies):
            yield from studies.archive(args.studies)
        else:
            yield from studies.folder(Path(args.studies).expanduser().absolute(), folder, args.images)
        yield from studies.labels(folder)
        places = {"labels": folder, "versions": settings.model_folder}
        yield from machine.disks(places)
        yield from machine.locks(places)
        yield from weights.weights(settings)
        yield from machine.gpu(settings.device)
        yield from login.login(conf)
    yield from machine.port(args.port)
