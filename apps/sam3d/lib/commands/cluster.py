"""`cluster`: what the machines of a cluster need to know each other."""

from __future__ import annotations

import argparse
from pathlib import Path

from lib.commands.arguments import count

# For the machine of the server and the scheduler, and for those of workers.
USUAL_NAMES = ("server", "worker")


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("what", choices=("certificates",), help="make PEM files for tls://")
    options.add_argument("--out", type=Path, required=True, metavar="DIR", help="where ca.pem is, or will be made")
    options.add_argument(
        "--name", action="append", metavar="NAME", help=f"a machine or a kind of them ({', '.join(USUAL_NAMES)})"
    )
    options.add_argument("--days", type=count, default=825, metavar="N", help="how long they are good for (825)")


def run(args: argparse.Namespace) -> int:
    """make a private authority and certificates, without which nobody joins a cluster over tls://"""
    from lib.cluster.certificates import make_certificates

    for path in make_certificates(args.out, args.name or list(USUAL_NAMES), args.days):
        print(f"{path} and {path.stem}-key.pem")
    print("Give each machine ca.pem and its own two files. ca-key.pem makes further ones: keep it away.")
    return 0
