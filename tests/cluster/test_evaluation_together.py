"""`cli.py evaluate --cluster`: the table of one process."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import cli
from lib.datasets.labelled_cases import cases_in, phantom_cases
from lib.errors import ClusterError
from lib.evaluation.protocol import Game
from lib.settings import Settings
from lib.works.evaluate import evaluate_order
from nodes import Nodes
from serving import write_study


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    folder = tmp_path / "cases"
    folder.mkdir()
    for number in range(4):
        array = np.random.default_rng(number).normal(0, 200, (24, 22, 20)).astype(np.int16)
        label = np.zeros(array.shape, np.uint8)
        label[4 + number : 12, 5:14, 6:13] = 1
        label[15:20, 5:10, 6:9] = 2 if number % 2 else 0
        write_study(folder / f"c{number}_image.nii.gz", array)
        write_study(folder / f"c{number}_label.nii.gz", label)
    return folder


def table(folder: Path) -> object:
    """What was measured, without what depends on the machine's pace."""
    (path,) = folder.glob("*.json")
    return without_seconds(json.loads(path.read_text()))


def without_seconds(value: object) -> object:
    if isinstance(value, dict):
        return {name: without_seconds(each) for name, each in value.items() if "seconds" not in name}
    return [without_seconds(each) for each in value] if isinstance(value, list) else value


@pytest.mark.slow
def test_workers_come_to_the_table_of_one_process(tmp_path: Path, cases: Path, weights: Path) -> None:
    told = ["evaluate", "--data", str(cases), "--clicks", "2", "--checkpoint", str(weights), "--precision", "fp32"]
    assert cli.main([*told, "--device", "cpu", "--out", str(tmp_path / "alone")]) == 0
    with Nodes(tmp_path / "own") as own:
        scheduler = own.scheduler()
        workers = [own.worker(scheduler.address, cases) for _ in range(2)]
        assert all(worker.address for worker in workers)
        assert cli.main([*told, "--cluster", scheduler.address, "--out", str(tmp_path / "together")]) == 0
    assert table(tmp_path / "together") == table(tmp_path / "alone")
    names = sorted(path.name for path in (tmp_path / "alone").iterdir())
    assert sorted(path.name for path in (tmp_path / "together").iterdir()) == names


def test_what_cannot_travel_is_refused_in_a_sentence(
    tmp_path: Path, cases: Path, capsys: pytest.CaptureFixture
) -> None:
    told = ["evaluate", "--phantoms", "2", "--cluster", "tcp://127.0.0.1:9", "--out", str(tmp_path / "out")]
    assert cli.main(told) == 2
    assert "--cluster goes with --data and clicks" in capsys.readouterr().err
    (case, *_) = cases_in(cases)
    order = evaluate_order(case, cases, Game(2), 20, Settings())
    assert (order.image.path, order.settings["label"]) == ("c0_image.nii.gz", "c0_label.nii.gz")
    with pytest.raises(ClusterError, match="does not lie below"):
        evaluate_order(case, tmp_path / "elsewhere", Game(2), 20, Settings())
    with pytest.raises(ClusterError, match="does not lie below"):
        evaluate_order(next(phantom_cases(1, "ct")), cases, Game(2), 20, Settings())
