"""Where a cluster is, and what proves that one belongs to it: an address and three PEM files."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from lib.errors import SettingsError

INSTALL = "make setup CLUSTER=1"
ADDRESS = re.compile(r"(?P<kind>[a-z]+)://(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_.-]+):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True)
class Access:
    """A cluster's scheduler as this machine reaches it. `ca`, `cert` and `key` are PEM files, all of them or none."""

    address: str
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        check_address(self.address)
        named = [path for path in (self.ca, self.cert, self.key) if path is not None]
        if self.address.startswith("tls://") and len(named) < 3:
            raise SettingsError(
                f"{self.address} needs cluster_ca, cluster_cert and cluster_key: see `cli.py cluster --help`"
            )
        if self.address.startswith("tcp://") and named:
            raise SettingsError(f"{self.address} uses no certificates: write tls://, or leave cluster_ca away")
        for path in named:
            if not path.is_file():
                raise SettingsError(f"there is no certificate file {path.name} where the settings look for it")

    @property
    def host(self) -> str:
        return self.address.partition("://")[2].rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])


def check_address(text: str) -> str:
    """The address of a scheduler as it is; SettingsError where nobody should be reached by it."""
    found = ADDRESS.fullmatch(text)
    if text.startswith("ray://"):
        raise SettingsError(
            f"cluster is {text!r}: the engine is Dask, so start `cli.py scheduler` and write tls://host:8786"
        )
    if found is None or found["kind"] not in ("tls", "tcp") or not 0 < int(found["port"]) < 65536:
        raise SettingsError(
            f"cluster is {text!r}: write tls://host:8786, or tcp://127.0.0.1:8786 for this machine alone"
        )
    if found["kind"] == "tcp" and not is_loopback(found["host"].strip("[]")):
        raise SettingsError(f"cluster is {text!r}: tcp:// asks nobody who they are, so write tls://, or 127.0.0.1")
    return text


def is_loopback(host: str) -> bool:
    """Whether an address in digits is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_installed() -> None:
    """SettingsError, which names the command that installs it, where the engine is not there."""
    if find_spec("distributed") is None:
        raise SettingsError(
            f"work over several machines needs packages that are not installed: run `{INSTALL}`, or "
            "`pip install --no-deps --require-hashes -r requirements/cluster.lock`"
        )
