"""From a folder of labelled cases to a table and served weights, by the commands alone."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from lib.network.weights import load_weights
from network.small_runs import ball, write_case
from test_cli import run

pytestmark = pytest.mark.slow


def decathlon(folder: Path, count: int = 4) -> Path:
    """A set as of the Medical Segmentation Decathlon: organs of value 1 with a bright ball of 2 in them."""
    cases = []
    for number in range(count):
        label = np.uint8(1) + ball((8.0 + number, 10.0, 10.0))
        case = write_case(folder / "all", f"x_{number}", label > 1, label, seed=number)
        for path, part in ((case.image, "imagesTr"), (case.label, "labelsTr")):
            (folder / part).mkdir(exist_ok=True)
            path.rename(folder / part / f"x_{number}.nii.gz")
        cases.append({"image": f"./imagesTr/x_{number}.nii.gz", "label": f"./labelsTr/x_{number}.nii.gz"})
    names = {"0": "background", "1": "pancreas", "2": "cancer"}
    (folder / "dataset.json").write_text(json.dumps({"labels": names, "training": cases}))
    return folder


def test_a_set_is_trained_on_tested_and_tabled(tmp_path):
    data = decathlon(tmp_path / "set")
    options = ["--dataset", "pancreas", "--data", data, "--recipe", "published", "--steps", 2, "--threads", 1]
    done = run(tmp_path, "pretrain", *options, "--folder", "run", "--out", "new.safetensors")
    assert done.returncode == 0, done.stderr
    _, card = load_weights(tmp_path / "new.safetensors")
    assert card.intensity.std == 63.422806
    assert card.sha256 in done.stdout
    assert "vit_b: 25,199,232 tuned parameters; published 25.46 M" in done.stdout
    split = json.loads((tmp_path / "run" / "splits.json").read_text())
    assert [len(split[part]) for part in ("training", "validation", "test")] == [2, 1, 1]
    (entry,) = map(json.loads, (tmp_path / "run" / "log.jsonl").read_text().splitlines())
    assert entry["step"] == 2

    scored = ["--dataset", "pancreas", "--data", data, "--splits", "run/splits.json", "--checkpoint", "new.safetensors"]
    done = run(tmp_path, "evaluate", *scored, "--protocol", "published", "--out", "scores", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    (row,) = csv.DictReader((tmp_path / "scores" / "cases.csv").read_text().splitlines())
    assert [row["case"]] == split["test"]
    summary = json.loads((tmp_path / "scores" / "summary.json").read_text())
    assert summary["percent"]["10"]["dice"] == pytest.approx(100 * float(row["dice_10"]), abs=0.01)
    assert (summary["tolerance_mm"], summary["target"]) == (5.0, 2)
    table = done.stdout[done.stdout.index("| method |") :]
    assert "| 3DSAM-adapter, 1 point a volume | 73.78 | 83.86 | 54.09 | 76.27 |" in table
    assert f"| ours, 10 points a volume |  |  | {summary['percent']['10']['dice']:.2f} |" in table

    done = run(tmp_path, "evaluate", *scored, "--clicks", 1, "--out", "clicks", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    (row,) = csv.DictReader((tmp_path / "clicks" / "targets.csv").read_text().splitlines())
    assert (row["case"], row["label"]) == (split["test"][0], "cancer")  # and not the organ of value 1
    done = run(tmp_path, "evaluate", *scored, "--protocol", "automatic", "--out", "auto", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert "| ours, automatic |" in done.stdout


def test_what_cannot_be_trained_on_is_one_line(tmp_path):
    data = decathlon(tmp_path / "set", count=2)
    options = ["--dataset", "pancreas", "--data", data, "--folder", "run", "--out", "new.safetensors"]
    done = run(tmp_path, "pretrain", *options, "--target", 1, "--dataset", "folder")
    assert done.stderr.splitlines()[-1].startswith("cli.py: no case with the target is left for training")
    (data / "imagesTr" / "x_1.nii.gz").unlink()
    done = run(tmp_path, "pretrain", *options)
    assert done.returncode == 2
    assert done.stderr == (
        "cli.py: 1 of 1 cases cannot be used: x_1 has a label or an image only: mend them, or take their files away\n"
    )
    done = run(tmp_path, "pretrain", *options[:2], *options[4:])
    assert done.stderr == "cli.py: --dataset pancreas does not say where the files are: name the place with --data\n"
