"""The network against recorded answers of the published one, and against its own."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from golden import fill
from golden.make_tiny import GOLDEN, META, NETWORK, SmallFiller, filled_network
from lib.network import image_encoder, layers, mask_decoder, prompt_encoder
from lib.network.adapter import SpatialAdapter
from lib.network.build import build_sam3d
from lib.parity.inference import ParityResult, case_meta, check_case, fill_parameters
from lib.settings import VARIANTS

PUBLISHED = Path(__file__).parents[2].parent / "shared" / "parity" / "golden"
ABSENT = pytest.param(None, marks=pytest.mark.skip(reason="the recorded cases are not here: ../shared/parity/golden"))


@pytest.fixture(scope="module")
def vit_b_filled_with():
    """A function: the one ViT-B of this module, its parameters filled for a salt."""
    network = build_sam3d(VARIANTS["vit_b"])
    salts = []

    def filled(salt):
        if salts != [salt]:
            fill_parameters(network, fill, salt)
            salts[:] = [salt]
        return network

    return filled


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("path", sorted(PUBLISHED.glob("case_*.npz")) or [ABSENT], ids=lambda path: path and path.stem)
def test_vit_b_has_the_published_networks_parity(path, vit_b_filled_with):
    with np.load(path, allow_pickle=False) as stored:
        salt = case_meta(stored)["salt"]
    result = check_case(vit_b_filled_with(salt), fill, path)
    print(result)
    assert result.is_passed, str(result)
    assert result.compared >= 50


def test_the_fillers_numbers_are_those_of_the_recordings():
    def digest(array):
        return hashlib.sha256(array.tobytes()).hexdigest()[:16]

    assert digest(fill.fill("encoder.blocks.0.attn.qkv.weight", (2304, 768))) == "b88fd7cd3d3ae763"
    assert digest(fill.fill("encoder.blocks.3.attn.lr", ())) == "66c3287af189d087"
    assert digest(fill.make_input(1)) == "ebb2e497f90d2e04"


def test_the_small_golden_case_has_parity():
    result = check_case(filled_network(), SmallFiller, GOLDEN)
    print(result)
    assert result.is_passed, str(result)
    assert result.compared == 45
    assert GOLDEN.stat().st_size < 300_000


def without_gain(network, patch):
    for block in network.image_encoder.blocks:
        block.attn.lr.fill_(1.0)


def shifted_on_odd_blocks(network, patch):
    grid, size = NETWORK.grid_size, NETWORK.window_size
    for index, block in enumerate(network.image_encoder.blocks):
        block.shift = size // 2 if index % 2 else 0
        block.regions = layers.window_regions(grid, size, block.shift) if block.shift else None


def unmasked(network, patch):
    for block in network.image_encoder.blocks:
        block.regions = None


def rolled_the_other_way(network, patch):
    patch.setattr(image_encoder.Block, "_rolled", staticmethod(lambda x, shift: x.roll((-shift,) * 3, dims=(1, 2, 3))))


def with_the_tanh_gelu(network, patch):
    for block in network.image_encoder.blocks:
        block.mlp.act = nn.GELU(approximate="tanh")


def adapters_that_subtract(network, patch):
    def forward(self, x):
        y = F.relu(self.conv(F.relu(self.linear1(x)).movedim(-1, 1))).movedim(1, -1)
        return x + self.linear2(y)

    patch.setattr(SpatialAdapter, "forward", forward)


def tables_cut_rather_than_resampled(network, patch):
    def cut(q_size, k_size, table):
        start = (len(table) - (2 * q_size - 1)) // 2
        offsets = torch.arange(q_size)[:, None] - torch.arange(k_size)[None] + k_size - 1
        return table[start : start + 2 * q_size - 1][offsets]

    patch.setattr(layers, "get_rel_pos", cut)


def upsampled_by_half_pixels(network, patch):
    patch.setattr(
        mask_decoder, "upsample", lambda x: F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)
    )


def points_with_swapped_axes(network, patch):
    sample = prompt_encoder.PromptEncoder.sample
    patch.setattr(
        prompt_encoder.PromptEncoder, "sample", lambda self, feature, points: sample(self, feature, points.flip(-1))
    )


def points_clamped_to_the_patch(network, patch):
    sample = prompt_encoder.PromptEncoder.sample
    patch.setattr(
        prompt_encoder.PromptEncoder, "sample", lambda self, feature, points: sample(self, feature, points.clamp(0, 31))
    )


WRONG = [
    without_gain,
    shifted_on_odd_blocks,
    unmasked,
    rolled_the_other_way,
    with_the_tanh_gelu,
    adapters_that_subtract,
    tables_cut_rather_than_resampled,
    upsampled_by_half_pixels,
    points_with_swapped_axes,
    points_clamped_to_the_patch,
]


@pytest.mark.parametrize("mistake", WRONG, ids=lambda mistake: mistake.__name__)
def test_a_wrong_network_loses_parity(mistake, monkeypatch):
    network = filled_network()
    mistake(network, monkeypatch)
    result = check_case(network, SmallFiller, GOLDEN)
    print(result)
    assert result.worst_deviation > 2 * result.worst_tolerance


def test_parity_misses_no_tensor_and_no_nan(tmp_path):
    with np.load(GOLDEN, allow_pickle=False) as golden:
        stored = dict(golden)
    for name, values in {"tokens": np.full(512, np.nan, np.float32), "unheard_of": np.zeros(512, np.float32)}.items():
        path = tmp_path / f"{name}.npz"
        np.savez(path, **{**stored, f"{name}/shape": stored["tokens/shape"], f"{name}/values": values})
        result = check_case(filled_network(), SmallFiller, path)
        assert not result.is_passed
        assert (result.worst_tensor, result.worst_deviation) == (name, np.inf)


def test_parity_says_what_deviates_and_counts_mask_voxels():
    result = ParityResult("case_x", 50, "head5", 4.4e-5, 3e-4, 3)
    assert result.is_passed
    assert str(result) == (
        "case_x: pass, 50 tensors, largest deviation 4.40e-05 (tolerance 3e-04) in head5, mask off by 3 voxels"
    )
    assert "FAIL" in str(replace(result, mask_voxels_off=21))
    assert "FAIL" in str(replace(result, worst_deviation=3.1e-4))
    assert META["case"] == GOLDEN.stem
