"""`scheduler`: what hands orders of a server to workers."""

from __future__ import annotations

import argparse
import ipaddress

from lib.commands.arguments import add_certificates, certificates_of, natural
from lib.errors import SettingsError


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="own address to listen at (127.0.0.1)")
    options.add_argument("--port", type=natural, default=8786, metavar="N", help="0: any that is free (8786)")
    add_certificates(options)


def run(args: argparse.Namespace) -> int:
    """hand a server's orders to workers on this and other machines (docs/cluster.md)"""
    from lib.cluster.security import Access, check_installed

    check_installed()
    files = certificates_of(args)
    try:
        ipaddress.ip_address(args.host)
    except ValueError:
        raise SettingsError(f"--host is {args.host!r}: write one of this machine's addresses in digits") from None
    kind, host = ("tls" if files else "tcp"), (f"[{args.host}]" if ":" in args.host else args.host)
    access = Access(f"{kind}://{host}:{args.port or 1}", **files)

    from lib.cluster.dask_nodes import serve_scheduler

    serve_scheduler(access, args.port, lambda address: print(f"scheduler at {address}", flush=True))
    return 0
