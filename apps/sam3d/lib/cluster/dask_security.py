"""The engine's form of who one is."""

from __future__ import annotations

from distributed.security import Security

from lib.cluster.security import Access


def security_of(access: Access) -> Security | None:
    """What Dask is to prove itself with, and to ask of others; None on this machine alone."""
    if access.ca is None:
        return None
    files = {
        f"tls_{role}_{part}": str(path)
        for role in ("client", "scheduler", "worker")
        for part, path in (("cert", access.cert), ("key", access.key))
    }
    return Security(tls_ca_file=str(access.ca), require_encryption=True, **files)
