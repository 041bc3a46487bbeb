"""The commands, each run as a user runs it: a process of its own, from another folder."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from lib.errors import SettingsError
from lib.network.build import build_sam3d
from lib.network.weights import Card, load_weights, published_name, save_weights
from lib.parity.golden import load_filler
from lib.retraining.progress import ProgressFile
from lib.settings import PRESETS, VARIANTS
from lib.weights.versions import open_served
from network.small_runs import ball_cases, small_settings

CLI = Path(__file__).parents[2] / "apps" / "sam3d" / "cli.py"
SHARED_GOLDEN = Path(__file__).parents[2].parent / "shared" / "parity" / "golden"
SMALL = replace(VARIANTS["tiny"], patch_size=16, window_size=2, sam_window_size=2, embed_dim=24)


def run(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A command, run in a folder that is not the checkout."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HOME": str(folder)}
    return subprocess.run(
        [sys.executable, str(CLI), *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=850,
        check=False,
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A network too small to be good, with papers that let it answer."""
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_weights(build_sam3d(SMALL, seed=3), Card("tiny", SMALL, PRESETS["ct"], 1.5, is_trained=True), path)
    return path


def test_help_names_every_command(tmp_path):
    done = run(tmp_path, "--help")
    assert done.returncode == 0
    for name in ("parity", "evaluate", "pretrain", "fetch-sam", "convert-weights", "update", "rollback", "demo"):
        assert name in done.stdout
    assert "dicomweb" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["evaluate", "--data", ".", "--out", "o", "--clics", "3"], "unrecognized arguments: --clics 3"),
        (["evaluate", "--out", "o"], "one of the arguments --data --phantoms is required"),
        (["evaluate", "--phantoms", "0", "--out", "o"], "'0' is no whole number from 1 up"),
        (["fetch-sam", "vit_x"], "invalid choice: 'vit_x'"),
        (["pretrain", "--synthetic", "--out", "x.pth", "--folder", "f"], "'x.pth' does not end in .safetensors"),
        (["serve"], "invalid choice: 'serve'"),
    ],
)
def test_unknown_arguments_are_refused(tmp_path, arguments, sentence):
    done = run(tmp_path, *arguments)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["evaluate", "--data", ".", "--out", "o", "--checkpoint", "none.pth"], "there is no file none.pth"),
        (["evaluate", "--data", ".", "--out", "o", "--spacing-mm", "ten"], "spacing_mm is 'ten'"),
        (["convert-weights", "none.pth", "--out", "x.safetensors", "--preset", "colon"], "there is no file none.pth"),
        (["parity", "."], "holds no golden case"),
        (["update", "--studies", "gone"], "there is no folder gone: name the one that the server was started with"),
        (["update", "--studies", ".", "--max-epochs", "0"], "max_epochs is '0': it must be a whole number from 1"),
        (
            ["pretrain", "--synthetic", "--cases", "none.json", "--folder", "run", "--out", "x.safetensors"],
            "none.json is no list of case groups",
        ),
        (["rollback", "--model-folder", "model"], "the base weights are served: there is no version to roll back"),
    ],
)
def test_what_cannot_be_done_is_one_line(tmp_path, arguments, sentence):
    done = run(tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("cli.py: ")
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_phantoms_are_evaluated(tmp_path, weights):
    options = ["--clicks", 2, "--checkpoint", weights, "--device", "cpu", "--threads", 1]
    done = run(tmp_path, "evaluate", "--phantoms", 1, "--out", "scores", *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("phantom_ct_000, label 1, sam3d: Dice ")
    assert "| sam3d | 1 |" in done.stdout
    out = tmp_path / "scores"
    assert {path.name for path in out.iterdir()} == {
        *("targets.csv", "summary.json", "tables.md", "dice.png", "sizes.png", "overlays.png")
    }
    (row,) = csv.DictReader((out / "targets.csv").read_text().splitlines())
    summary = json.loads((out / "summary.json").read_text())
    assert float(row["dice_1"]) == pytest.approx(summary["methods"]["sam3d"]["dice"]["1"], abs=1e-4)
    assert summary["weights"]["variant"] == "tiny"


def test_a_folder_is_evaluated_with_baselines(tmp_path, weights):
    label = np.zeros((24, 24, 16), np.uint8)
    label[6:16, 6:16, 4:12] = 1
    image = (100 * label - 60 + np.random.default_rng(0).normal(size=label.shape) * 3).astype(np.int16)
    for name in ("block_1", "other_2"):
        nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), tmp_path / f"{name}_image.nii.gz")
        nibabel.save(nibabel.Nifti1Image(label, np.eye(4)), tmp_path / f"{name}_label.nii.gz")
    options = ["--clicks", 1, "--checkpoint", weights, "--only", "block", "--baselines"]
    done = run(tmp_path, "evaluate", "--data", tmp_path, "--out", "scores", *options)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "scores" / "targets.csv").read_text().splitlines()))
    assert [(row["case"], row["method"]) for row in rows] == [
        ("block_1", "sam3d"),
        ("block_1", "region growing"),
        ("block_1", "random walker"),
        ("block_1", "geodesic"),
    ]
    assert all(float(row["dice_1"]) > 0.9 for row in rows[1:])


def test_nothing_to_evaluate_is_said(tmp_path, weights):
    options = ["--clicks", 1, "--checkpoint", weights, "--only", "nothing like it"]
    done = run(tmp_path, "evaluate", "--phantoms", 1, "--out", "scores", *options)
    assert done.returncode == 2
    assert "no target was found with --only 'nothing like it'" in done.stderr
    assert not (tmp_path / "scores").exists()


def test_parity_names_what_it_skips_and_what_is_broken(tmp_path):
    folder = tmp_path / "golden"
    folder.mkdir()
    meta = np.array(json.dumps({"input_seed": 1, "salt": ""}))
    np.savez(folder / "train.npz", loss=1.0, meta=meta)
    np.savez(folder / "no_meta.npz", logits_ds4=np.zeros(3))
    (folder / "garbled.npz").write_bytes(b"PK\x03\x04 and then nothing")
    (folder / "text.npz").write_text("not at all")
    done = run(tmp_path, "parity", folder)
    assert done.returncode == 1, done.stderr
    garbled, no_meta, text, train, counts, tuned = done.stdout.splitlines()
    for line, name in ((garbled, "garbled"), (no_meta, "no_meta"), (text, "text")):
        assert line.startswith(f"{name}: FAIL, not a complete golden case")
    assert train == "train: skipped, it records no logits of an inference"
    assert counts == "0 passed, 3 failed, 1 skipped"
    assert tuned.startswith("vit_b: 25,462,400 tuned parameters as the method trains it, 263,424 of them")


def test_the_filler_is_a_file_of_the_checkout(tmp_path):
    with pytest.raises(SettingsError, match=r"fill\.py is not where a checkout has it, in tests/golden"):
        load_filler(tmp_path / "fill.py")


def test_a_folder_without_any_inference_case_does_not_pass(tmp_path):
    np.savez(tmp_path / "train.npz", loss=1.0, meta=np.array("{}"))
    assert run(tmp_path, "parity", ".").returncode == 1


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.skipif(not SHARED_GOLDEN.is_dir(), reason="no recorded cases: shared/parity/golden is absent")
def test_a_recorded_case_passes(tmp_path):
    folder = tmp_path / "golden"
    folder.mkdir()
    (folder / "case_a.npz").write_bytes((SHARED_GOLDEN / "case_a.npz").read_bytes())
    done = run(tmp_path, "parity", folder)
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith("case_a: pass, ")
    assert "1 passed, 0 failed, 0 skipped" in done.stdout


@pytest.mark.slow
def test_pretraining_ends_in_weights_with_a_card_and_goes_on(tmp_path):
    options = ["--synthetic", "--folder", "state", "--batch", 1, "--threads", 1, "--spacing-mm", 1.5]
    done = run(tmp_path, "pretrain", "--out", "new.safetensors", "--steps", 1, *options)
    assert done.returncode == 0, done.stderr
    network, card = load_weights(tmp_path / "new.safetensors")
    assert network.settings == VARIANTS["tiny"]
    assert (card.is_trained, card.has_background_clicks, card.has_automatic_mode, card.spacing_mm) == (
        True,
        True,
        True,
        1.5,
    )
    assert card.sha256 in done.stdout
    other = run(tmp_path, "pretrain", "--out", "new.safetensors", "--steps", 2, *options)
    assert other.returncode == 2
    assert "state holds a run of another plan" in other.stderr


def test_published_weights_are_converted_with_their_preset(tmp_path):
    network = build_sam3d(VARIANTS["tiny"], seed=1)
    parts = {"encoder": {}, "prompt_encoder": {}, "decoder": {}}
    for name, tensor in network.state_dict().items():
        component, _, rest = published_name(name).partition(".")
        parts[component][rest] = tensor
    path = tmp_path / "tiny_published.pth"
    content = {"encoder_dict": parts["encoder"], "decoder_dict": parts["decoder"]}
    torch.save({**content, "feature_dict": [parts["prompt_encoder"]] * 4}, path)
    done = run(tmp_path, "convert-weights", path, "--out", "x.safetensors", "--preset", "pancreas")
    assert done.returncode == 0, done.stderr
    converted, card = load_weights(tmp_path / "x.safetensors")
    assert card.intensity == PRESETS["pancreas"]
    assert card.is_trained
    assert len(card.parent_sha256) == 64
    for name, tensor in network.state_dict().items():
        assert torch.equal(converted.state_dict()[name], tensor)


@pytest.mark.slow
def test_labels_of_a_studies_folder_are_learned(tmp_path):
    settings = small_settings(tmp_path)
    final = tmp_path / "studies" / "labels" / "final"
    final.mkdir(parents=True)
    for case in ball_cases(tmp_path / "studies", 2):
        case.label.rename(final / case.image.name)
    options = ["--checkpoint", settings.checkpoint, "--model-folder", settings.model_folder, "--labels", "lesion"]
    options += ["--device", "cpu", "--max-epochs", "1", "--steps-per-epoch", "2", "--click-rounds", "1"]
    done = run(tmp_path, "update", "--studies", "studies", *options, "--publish-margin", "1")
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("v1 not published: mean Dice over clicks 1 to 5 ")
    assert "the gain is not the 1 asked for" in done.stdout
    assert "epoch   1 of 1 [####################]" in done.stderr
    served = open_served(settings)
    assert (served.name, list(served.store.candidates())) == ("base", ["v1"])
    assert ProgressFile(settings.model_folder).read().sentence == done.stdout.strip()
