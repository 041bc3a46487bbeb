"""The progress file: finite, whole, and honest about runs that were killed."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from lib.errors import TrainingError
from lib.retraining.progress import FILE, KEEPING, RUNNING, STOPPED, Progress, ProgressFile, bar


def test_progress_comes_back_as_it_was_told(tmp_path: Path) -> None:
    file = ProgressFile(tmp_path)
    assert file.read() == Progress()
    told = Progress(RUNNING, "training", 3, 20, 0.5, 0.7, 12.5, {"base": 0.6})
    with file.locked():
        file.write(told)
        assert file.read() == told


def test_a_run_that_was_killed_says_so(tmp_path: Path) -> None:
    file = ProgressFile(tmp_path)
    with file.locked():
        file.write(Progress(RUNNING, "training", 3, 20, scores={"v1": 0.7}))
    found = file.read()
    assert (found.state, found.sentence) == (STOPPED, "stopped in epoch 4 of 20; nothing was changed")
    assert (found.epoch, found.scores) == (3, {"v1": 0.7})


@pytest.mark.parametrize(
    ("sentence", "said"),
    [
        (KEEPING, "stopped while writing down the new version: the version before is served or, whole, the new one"),
        ("measuring", "stopped after epoch 20, while measuring; nothing was changed"),
    ],
)
def test_a_run_that_was_killed_at_its_end_does_not_say_too_much(tmp_path: Path, sentence: str, said: str) -> None:
    file = ProgressFile(tmp_path)
    with file.locked():
        file.write(Progress(RUNNING, sentence, 20, 20))
    assert file.read().sentence == said


def test_scores_are_those_of_one_set_of_weights() -> None:
    progress = Progress(scores={"base": 0.6}, parent="a")
    assert progress.score_of("base", "a") == 0.6
    assert progress.score_of("base", "b") == 0.0
    assert progress.score_of("v1", "a") == 0.0


def test_only_one_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib.retraining.held.PAUSE_S", 0.0)
    file = ProgressFile(tmp_path)
    assert not file.is_running()
    with file.locked():
        assert file.is_running()
        with pytest.raises(TrainingError, match="a training run is going on: wait"), file.locked():
            pass
    assert not file.is_running()


def test_numbers_that_json_has_not_are_left_out(tmp_path: Path) -> None:
    file = ProgressFile(tmp_path)
    file.write(Progress(loss=math.nan, dice=math.inf, seconds=1.5))
    written = json.loads((tmp_path / FILE).read_text(), parse_constant=lambda name: pytest.fail(name))
    assert "loss" not in written
    assert "dice" not in written
    assert file.read() == Progress(seconds=1.5)


@pytest.mark.parametrize("content", ["", "{", "[]", '"text"', '{"unknown": 1}', "\x00"])
def test_a_damaged_file_says_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    assert ProgressFile(tmp_path).read() == Progress()


def test_the_bar_by_eye() -> None:
    assert [bar(n, 4, 8) for n in (0, 1, 4)] == ["[--------]", "[##------]", "[########]"]
