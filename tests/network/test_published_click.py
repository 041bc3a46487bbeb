"""The published computation that benchmarks compare with: our network's answers, and the recorded ones."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.published import PublishedNetwork

from golden import fill
from lib.network.build import build_sam3d
from lib.network.fast.choice import for_clicks
from lib.network.precision import has_bfloat16
from lib.parity.inference import LATE_TOLERANCE, MASK_VOXEL_TOLERANCE, case_inputs, case_meta, fill_parameters
from lib.settings import VARIANTS
from network.small_networks import PUBLISHED_SMALL, small_network

CPU = torch.device("cpu")
RECORDED = Path(__file__).parents[2].parent / "shared" / "parity" / "golden"
CASES = sorted(RECORDED.glob("case_*.npz"))
ABSENT = pytest.param(None, marks=pytest.mark.skip(reason="the recorded cases are not here: ../shared/parity/golden"))


def published_parts_only(network):
    """Without what only our networks have, as the published computation knows nothing of it."""
    with torch.no_grad():
        network.prompt_encoder.background_embedding.zero_()
        for name, parameter in network.named_parameters():
            if "rel_pos" in name or "norm" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return network


@pytest.mark.parametrize("sizes", [{}, {"patch_size": 48, "window_size": 3}], ids=str)
def test_step_for_step_it_answers_as_our_network_does(sizes):
    network = published_parts_only(small_network(3, replace(PUBLISHED_SMALL, **sizes)))
    side = network.settings.patch_size
    patch = torch.randn(1, 1, side, side, side, generator=torch.Generator().manual_seed(2))
    points = torch.tensor([[[3.0, 4, 5], [20, 31, 0], [-4, 8, 9]]])
    published = PublishedNetwork(network.state_dict(), network.settings)
    logits = published.click(patch, points)
    with torch.inference_mode():
        torch.testing.assert_close(logits, network(patch, points, torch.ones(1, 3)), atol=2e-5, rtol=0)
    assert {"patch embedding", "attention", "mlp", "fusion"} <= published.steps.seconds.keys()


def recorded(path):
    with np.load(path, allow_pickle=False) as golden:
        stored = {name: golden[name] for name in golden.files}
    network = build_sam3d(VARIANTS["vit_b"])
    fill_parameters(network, fill, case_meta(stored)["salt"])
    return network, stored, *case_inputs(fill, stored)


def check(logits, stored):
    """Within the tolerances that two correct computations in single precision keep."""
    assert np.abs(logits[..., 2::4, 2::4, 2::4].numpy() - stored["logits_ds4"]).max() <= LATE_TOLERANCE
    assert abs(int((logits[:, 1] > logits[:, 0]).sum()) - int(stored["mask_voxels"])) <= MASK_VOXEL_TOLERANCE


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("path", CASES[-1:] or [ABSENT], ids=lambda path: path and path.stem)
def test_it_answers_as_recorded(path):
    network, stored, patch, points = recorded(path)
    check(PublishedNetwork(network.state_dict(), network.settings).click(patch, points), stored)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("path", CASES or [ABSENT], ids=lambda path: path and path.stem)
def test_the_network_that_serves_clicks_has_parity(path):
    """In single precision as recorded, and in bfloat16 with nearly the same mask."""
    network, stored, patch, points = recorded(path)
    labels = torch.ones(points.shape[:2])
    fast = for_clicks(network, "fp32", CPU)
    logits = fast.decode(fast.encode(patch), points, labels)
    check(logits, stored)
    if has_bfloat16(CPU):
        fast = for_clicks(network, "bf16", CPU)
        rough = fast.decode(fast.encode(patch), points, labels)
        masks = [each[:, 1] > each[:, 0] for each in (logits, rough)]
        dice = 2 * int((masks[0] & masks[1]).sum()) / sum(int(mask.sum()) for mask in masks)
        print(f"{path.stem}: mask Dice of bfloat16 against single precision {dice:.4f}")
        assert dice >= 0.99
