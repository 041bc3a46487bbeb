"""Folders whose locks do not keep two machines apart are named, by what this machine's table of mounts says."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from lib import locks
from lib.locks import fault_of_locks

OWN = "are seen by this machine alone"
KINDS = {
    "nfs4 rw,vers=4.2,local_lock=none": "",
    "nfs rw,vers=3,local_lock=none": "is mounted by an NFS before version 4",
    "nfs rw,vers=3,nolock,local_lock=all": OWN,
    "nfs rw,vers=3,local_lock=flock": OWN,
    "nfs rw,vers=3,local_lock=posix": "is mounted by an NFS before version 4",
    "cifs rw,vers=3.1.1": "",
    "cifs rw,vers=3.1.1,nobrl": OWN,
    "ext4 rw,nolock": "",
}


def table(tmp_path: Path, *mounts: tuple[Path, str]) -> Path:
    """A table of mounts: places, and kinds with their options."""
    path = tmp_path / "mountinfo"
    lines = ["21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw"]
    for number, (place, kind) in enumerate(mounts, start=30):
        name, options = kind.split()
        escaped = str(place).replace("\\", r"\134").replace(" ", r"\040")
        lines.append(
            f"{number} 21 0:{number} / {escaped} rw,relatime shared:{number} - {name} server:/export {options}"
        )
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_a_mount_is_told_by_its_kind_and_options(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "a folder" / "model"
    folder.mkdir(parents=True)
    found = fault_of_locks(folder, table(tmp_path, (tmp_path / "a folder", kind)))
    assert KINDS[kind] in found
    assert bool(found) == bool(KINDS[kind])
    assert "mount it by NFS of version 4" in found or not found


def test_the_innermost_and_last_mount_counts_and_a_folder_to_come_is_where_it_will_be(tmp_path: Path) -> None:
    inner, bad, good = tmp_path / "inner", "nfs rw,vers=3,nolock", "nfs4 rw,vers=4.2"
    inner.mkdir()
    assert not fault_of_locks(inner / "model", table(tmp_path, (inner, good), (tmp_path, bad)))
    assert not fault_of_locks(inner / "model", table(tmp_path, (inner, bad), (inner, good)))
    assert OWN in fault_of_locks(inner / "model" / "new", table(tmp_path, (inner, good), (inner, bad)))
    assert not fault_of_locks(tmp_path / "innermost", table(tmp_path, (inner, bad)))


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    assert not fault_of_locks(tmp_path)
    monkeypatch.setattr(locks.fcntl, "flock", refused)
    assert f"the file system of {tmp_path.name} takes no locks (No locks available)" in fault_of_locks(tmp_path)


def test_without_a_table_nothing_is_said(tmp_path: Path) -> None:
    assert not fault_of_locks(tmp_path, tmp_path / "none")
