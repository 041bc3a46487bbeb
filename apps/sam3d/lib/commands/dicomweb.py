"""`dicomweb`: a folder of DICOM files as an archive."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--folder", type=Path, required=True, metavar="DIR", help="DICOM files, in any sub-folders")
    options.add_argument("--port", type=int, default=8042, help="port of this machine (8042)")


def run(args: argparse.Namespace) -> int:
    """serve a folder of DICOM files to this machine by DICOMweb, for demos and tests"""
    from lib.dicomweb.server import serve

    serve(args.folder, args.port)
    return 0
