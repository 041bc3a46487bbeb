"""Files that say something for as long as their writer lives."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from lib.errors import TrainingError
from lib.retraining import held
from lib.retraining.held import HeldFile

APP = Path(__file__).parents[2] / "apps" / "sam3d"
HOLDER = """
import sys, time
from pathlib import Path
from lib.retraining.held import HeldFile
with HeldFile(Path(sys.argv[1]), "").holding("theirs"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_it_is_held_until_its_process_is_killed_and_says_what_that_wrote(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    mine = HeldFile(path, "somebody has it")
    assert (mine.is_held(), mine.text()) == (False, "")
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, cwd=APP, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            assert (mine.is_held(), mine.text()) == (True, "theirs")
            with pytest.raises(TrainingError, match="somebody has it"), mine.holding("mine"):
                pass
        finally:
            process.kill()
    assert (mine.is_held(), mine.text()) == (False, "theirs")
    with mine.holding("mine"):
        assert (HeldFile(path, "somebody has it").is_held(), HeldFile(path, "somebody has it").text()) == (True, "mine")
    assert (mine.is_held(), mine.text()) == (False, "mine")


def test_what_it_says_is_on_the_disk_before_the_hold_is_worth_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, synced = tmp_path / "file", list[str]()
    monkeypatch.setattr(held.os, "fsync", lambda _: synced.append(path.read_text()))
    with HeldFile(path, "").holding("mine"):
        assert synced == ["mine"]


def test_a_file_system_without_locks_is_said_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(held.fcntl, "flock", refused)
    with (
        pytest.raises(TrainingError, match=rf"{tmp_path.name} takes no locks \(No locks available\)"),
        HeldFile(tmp_path / "file", "").holding("mine"),
    ):
        pass
