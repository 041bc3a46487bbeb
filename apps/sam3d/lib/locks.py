"""Whether locks in a folder keep two machines apart: tried, and read from the table of mounts, for a lock that this
machine alone sees looks like any other."""

from __future__ import annotations

import fcntl
import tempfile
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
# What makes locks on a network's file system this machine's own: NFS before version 4, and SMB.
OWN_LOCKS = frozenset({"nolock", "local_lock=flock", "local_lock=all", "nobrl"})
WAY_OUT = "mount it by NFS of version 4"


def fault_of_locks(folder: Path, mounts: Path = MOUNTS) -> str:
    """Why locks in a folder, or in what it would be made in, may not keep another machine out, in a sentence; empty
    where nothing is known against them."""
    place = next(path for path in (folder, *folder.parents) if path.exists()).resolve()
    if refusal := _refusal(place):
        return (
            f"the file system of {folder.name} takes no locks ({refusal}), so that two servers would not notice each "
            f"other: {WAY_OUT}"
        )
    kind, options = _mount_of(place, mounts)
    if kind in ("nfs", "cifs", "smb3") and (own := OWN_LOCKS & options):
        return f"locks in {folder.name} are seen by this machine alone ({min(own)}): {WAY_OUT}, if others use it, too"
    if kind == "nfs":
        return f"{folder.name} is mounted by an NFS before version 4, whose locks outlive a crash: {WAY_OUT}"
    return ""


def _refusal(place: Path) -> str:
    try:
        with tempfile.TemporaryFile(dir=place, prefix=".probe-") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                return error.strerror or str(error)
    except OSError:  # nothing can be written there, which is told elsewhere
        pass
    return ""


def _mount_of(place: Path, mounts: Path) -> tuple[str, frozenset[str]]:
    """The kind of a folder's file system, and the options that it is mounted with; nothing where no table says it."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return "", frozenset()
    found, at = ("", frozenset[str]()), Path()
    for line in lines:
        own, _, shared = line.partition(" - ")
        mounted, words = Path(_plain(own.split()[4])), shared.split()
        # The last of those mounted at one place covers the others.
        if place.is_relative_to(mounted) and len(mounted.parts) >= len(at.parts):
            options = frozenset(f"{own.split()[5]},{words[-1]}".split(","))
            found, at = (words[0], options), mounted
    return found


def _plain(name: str) -> str:
    """A path of the table, which writes spaces and the like in octal."""
    for code in ("040", "011", "012", "134"):
        name = name.replace(f"\\{code}", chr(int(code, 8)))
    return name
