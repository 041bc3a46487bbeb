"""One training step against the published network's, and a small one against our own."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from golden import fill
from golden.make_tiny import filled_network
from golden.make_tiny_training import GOLDEN, SmallTrainingFiller
from lib.network.build import build_sam3d
from lib.parity import training as training_parity
from lib.parity.inference import case_meta, fill_parameters
from lib.parity.training import check_training, group_of
from lib.settings import VARIANTS

RECORDED = Path(__file__).parents[2].parent / "shared" / "parity" / "golden" / "train.npz"
WANTED = "SAM3D_VIT_B_TRAINING"


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.skipif(not RECORDED.is_file(), reason="the recorded step is not here: ../shared/parity/golden/train.npz")
@pytest.mark.skipif(not os.environ.get(WANTED), reason=f"needs 10 GB and minutes: set {WANTED}=1 to run it")
def test_vit_b_trains_as_published() -> None:
    with np.load(RECORDED, allow_pickle=False) as stored:
        salt = case_meta(stored)["salt"]
    network = build_sam3d(VARIANTS["vit_b"])
    fill_parameters(network, fill, salt)
    result = check_training(network, fill, RECORDED)
    print(result)
    assert result.is_passed, str(result)
    assert result.compared > 150


def test_the_small_recorded_step_is_met() -> None:
    result = check_training(filled_network(), SmallTrainingFiller, GOLDEN)
    print(result)
    assert result.is_passed, str(result)
    assert result.compared > 100
    assert GOLDEN.stat().st_size < 300_000


def test_the_recorded_groups_are_those_of_the_method() -> None:
    with np.load(GOLDEN, allow_pickle=False) as stored:
        names = {name.split("/")[1] for name in stored if name.startswith("group/")}
    assert names == {*training_parity.GROUPS, "adapters", "prompt_encoder", "decoder"}
    assert group_of("encoder.blocks.3.adapter.conv.bias") == "adapters"
    assert group_of("encoder.blocks.3.attn.rel_pos_d") == "rel_pos_d"
    assert group_of("prompt_encoder.transformer.layers.0.norm1.weight") == "prompt_encoder"


def without_the_dice(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = torch.nn.CrossEntropyLoss()
    monkeypatch.setattr(training_parity, "segmentation_loss", lambda logits, target: loss(logits, target[:, 0].long()))


def with_one_point_less(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = training_parity.training_gradients
    monkeypatch.setattr(
        training_parity, "training_gradients", lambda network, filler, seed, at: whole(network, filler, seed, at[1:])
    )


def with_half_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = training_parity.training_gradients

    def halved(*arguments):
        loss, gradients = whole(*arguments)
        return loss, {name: g / 2 if name == "encoder.depth_embed" else g for name, g in gradients.items()}

    monkeypatch.setattr(training_parity, "training_gradients", halved)


@pytest.mark.parametrize("mistake", [without_the_dice, with_one_point_less, with_half_a_gradient])
def test_a_wrong_step_is_noticed(mistake, monkeypatch: pytest.MonkeyPatch) -> None:
    mistake(monkeypatch)
    result = check_training(filled_network(), SmallTrainingFiller, GOLDEN)
    print(result)
    assert not result.is_passed
    assert "FAIL" in str(result)
