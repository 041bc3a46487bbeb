"""Every rewrite of lib.network.fast against the plain path: random weights, small sizes, borders included."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from segment_anything.modeling.image_encoder import get_rel_pos
from torch import nn
from torch.nn import functional as F

from lib.errors import SettingsError
from lib.evaluation.metrics import dice
from lib.interactive.clicks import first_click, next_click
from lib.network.convolution import conv3d
from lib.network.fast import choice, decoder
from lib.network.fast.blocks import FastAttention, FastBlock, offset_table, window_order
from lib.network.fast.choice import InBfloat16, for_clicks
from lib.network.fast.decoder import FastMaskDecoder, Fusion
from lib.network.fast.dense import Convolution, Dense, is_available
from lib.network.fast.encoder import FastEncoder
from lib.network.fast.network import FastSam3D
from lib.network.fast.prompt import FastPromptEncoder
from lib.network.layers import split_windows
from lib.network.mask_decoder import upsample
from lib.network.precision import has_bfloat16, operand_type
from lib.network.weights import load_weights
from lib.scoring.disagreement import mirrored
from lib.synthesis.patches import training_patch, training_rng
from lib.weights.checkpoints import PRETRAINED
from network.small_networks import PUBLISHED_SMALL, SMALL, small_network

pytestmark = pytest.mark.skipif(not is_available(), reason="this build of PyTorch has no oneDNN")
CPU = torch.device("cpu")
POINTS = torch.tensor([[[3.0, 4, 5], [20, 31, 0], [-4, 8, 9]]])
LABELS = torch.tensor([[1.0, 0, 1]])
SIZES = [
    {},
    {"patch_size": 48, "window_size": 3},
    {"window_size": 8, "sam_grid_size": 16},
    {"window_size": 2, "num_heads": 4, "head_dim": 12, "num_queries": 3},
]


def network_of(seed=3, **sizes):
    """Random weights all over: what starts at zero or one is moved, too."""
    network = small_network(seed, replace(PUBLISHED_SMALL, **sizes))
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if any(part in name for part in ("rel_pos", "norm", "neck_3d.0.1", "neck_3d.1.3", "bias")):
                parameter.add_(0.5 * torch.randn(parameter.shape, generator=draw))
        for index, block in enumerate(network.image_encoder.blocks):
            block.attn.lr.fill_(1.7 - 0.3 * index)
    return network


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(found, expected, atol=2e-5):
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)


@pytest.fixture(autouse=True)
def _only_inference():
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_the_whole_network_is_the_same_one(sizes):
    network = network_of(**sizes)
    fast = FastSam3D(network, torch.float32)
    side = network.settings.patch_size
    patch = noise(1, 1, side, side, side)
    plain, quick = network.encode(patch), fast.encode(patch)
    close(quick.feature, plain.feature)
    close(quick.fusion, plain.fusion)
    close(quick.image, plain.image, 1e-6)
    for points, labels in ((POINTS, LABELS), (torch.zeros(1, 0, 3), torch.zeros(1, 0))):
        expected = network.decode(plain, points, labels)
        assert expected.std() > 0.1
        close(fast.decode(quick, points, labels), expected)
        for axis in range(3):  # what Next Sample sees in a mirror
            close(
                fast.decode(mirrored(quick, axis), points, labels),
                network.decode(mirrored(plain, axis), points, labels),
            )


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_bfloat16_is_the_same_network_more_roughly(sizes):
    network = network_of(**sizes)
    fast = FastSam3D(network, torch.bfloat16)
    patch = noise(1, 1, *[network.settings.patch_size] * 3)
    expected = network(patch, POINTS, LABELS)
    embedding = fast.encode(patch)
    found = fast.decode(embedding, POINTS, LABELS)
    assert embedding.fusion.dtype == torch.bfloat16
    assert found.dtype == torch.float32
    assert 0 < (found - expected).abs().max() < 0.2
    assert (found - expected).abs().mean() < 0.02 * expected.std()


def test_a_click_leaves_the_embedding_as_it_was():
    for dtype in (torch.float32, torch.bfloat16):
        fast = FastSam3D(network_of(), dtype)
        embedding = fast.encode(noise(1, 1, 32, 32, 32))
        kept = [t.clone() for t in (embedding.feature, embedding.fusion, embedding.image)]
        first = fast.decode(embedding, POINTS, LABELS)
        fast.decode(embedding, POINTS + 7, LABELS)
        assert all(map(torch.equal, kept, (embedding.feature, embedding.fusion, embedding.image)))
        assert torch.equal(fast.decode(embedding, POINTS, LABELS), first)


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("at_once", [1, 3, 8])
def test_a_block_in_place_is_a_block(index, at_once):
    """Block 0 is rolled, its windows at the end mix both sides; block 1 is not."""
    block = network_of(seed=5).image_encoder.blocks[index]
    fast = FastBlock(block, torch.float32)
    fast.windows_at_once = at_once
    x = noise(1, 8, 8, 8, 16, seed=index)
    rows = x.flatten(0, 3).clone()
    fast(rows)
    close(rows.view_as(x), block(x), 5e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_is_attention_with_and_without_regions(dtype):
    block = network_of(seed=6).image_encoder.blocks[0]
    windows = 3 * noise(8, 64, 16)
    for regions in (None, block.regions):
        found = FastAttention(block.attn, dtype)(windows.flatten(0, 1), regions).float()
        close(found.view_as(windows), block.attn(windows, regions), 5e-6 if dtype == torch.float32 else 0.1)


def test_the_order_of_windows_is_that_of_a_roll_and_a_split():
    rows = torch.arange(6**3)
    grid = rows.view(1, 6, 6, 6, 1)
    assert torch.equal(window_order(6, 3, 0), split_windows(grid, 3)[..., 0])
    assert torch.equal(window_order(6, 3, 1), split_windows(grid.roll((-1, -1, -1), (1, 2, 3)), 3)[..., 0])


@pytest.mark.parametrize("rows", [7, 27, 127])
def test_the_table_by_distance_is_sams_own(rows):
    table, size = noise(rows, 5), 4
    ours, theirs = offset_table(table, size), get_rel_pos(size, size, table)
    for query in range(size):
        close(ours[size - 1 - query : 2 * size - 1 - query], theirs[query], 1e-6)


def test_the_encoders_maps_are_the_encoders_maps():
    encoder = network_of(seed=8).image_encoder
    patch = noise(1, 1, 32, 32, 32)
    maps = list(FastEncoder(encoder, torch.float32)(patch))
    for found, expected in zip(maps, encoder(patch), strict=True):
        close(found.permute(3, 0, 1, 2)[None], expected)


@pytest.mark.parametrize("points", [POINTS, torch.zeros(1, 0, 3)], ids=["three", "none"])
def test_the_folded_prompt_encoder_is_the_prompt_encoder(points):
    encoder = network_of(seed=9).prompt_encoder
    feature = noise(1, 8, 8, 8, 8).contiguous(memory_format=torch.channels_last_3d)
    labels = LABELS[:, : points.shape[1]]
    found = FastPromptEncoder(encoder)(feature, points, labels)
    close(found.view(8, 8, 8, 8).permute(3, 0, 1, 2)[None], encoder(feature, points, labels), 5e-6)


@pytest.mark.parametrize("side", [2, 3, 8])
def test_the_split_fusion_is_up_sampling_and_convolution(side):
    grid, weight, total = noise(side, side, side, 5), noise(4, 5, 3, 3, 3, seed=1), noise(*[2 * side] * 3, 4, seed=2)
    plain = conv3d(upsample(grid.permute(3, 0, 1, 2)[None]), weight, padding=1)[0].permute(1, 2, 3, 0) + total
    found = Fusion(weight, torch.float32).added(grid, total.clone())
    close(found, plain)
    for axis in range(3):  # the borders are where zeros are padded, after the up-sampling and not before it
        close(found.select(axis, 0), plain.select(axis, 0))
        close(found.select(axis, -1), plain.select(axis, -1))


def test_the_last_convolution_by_taps_is_a_convolution():
    network = network_of(seed=2)
    fast = FastMaskDecoder(network.mask_decoder, torch.float32)
    rows = noise(6**3, 8)
    plain = network.mask_decoder.cls[3](rows.view(1, 6, 6, 6, 8).permute(0, 4, 1, 2, 3))
    close(fast._last_convolution(rows, 6), plain[0], 5e-6)


@pytest.mark.parametrize("at_once", [7, 1000])
def test_the_norm_in_place_is_instance_norm_and_relu(at_once, monkeypatch):
    monkeypatch.setattr(decoder, "ROWS_AT_ONCE", at_once)
    rows = 1000 + noise(4 * 6 * 8, 5)  # far from zero, where a sum of squares would have lost everything
    plain = F.relu(nn.InstanceNorm3d(5)(rows.double().view(1, 4, 6, 8, 5).permute(0, 4, 1, 2, 3)))
    close(decoder._normalised(rows.clone()).double(), plain[0].permute(1, 2, 3, 0).flatten(0, 2), 1e-3)


@pytest.mark.parametrize(("kernel", "groups"), [(1, 1), (3, 1), (3, 6)])
def test_a_convolution_of_rows_is_a_convolution(kernel, groups):
    layer = nn.Conv3d(6, 6, kernel, padding=kernel // 2, groups=groups)
    grid = noise(5, 4, 3, 6)
    plain = layer(grid.permute(3, 0, 1, 2)[None])[0].permute(1, 2, 3, 0)
    close(Convolution(layer, torch.float32)(grid), plain, 5e-6)


@pytest.mark.parametrize("rows", [1, 5, 3000])
def test_a_packed_layer_takes_any_number_of_rows(rows):
    layer = nn.Linear(9, 7)
    x = noise(rows, 9)
    close(Dense.of(layer, torch.float32)(x, "relu"), F.relu(layer(x)), 5e-6)
    close(Dense(layer.weight, None, torch.float32)(x), x @ layer.weight.T, 5e-6)


def test_clicks_are_answered_by_the_fastest_form():
    published, own = small_network(settings=PUBLISHED_SMALL), small_network(settings=SMALL)
    assert isinstance(for_clicks(published, "fp32", CPU), FastSam3D)
    assert for_clicks(own, "fp32", CPU) is own
    assert operand_type("fp32", CPU) == torch.float32
    if has_bfloat16(CPU):
        assert operand_type("auto", CPU) == torch.bfloat16
        assert isinstance(for_clicks(own, "auto", CPU), InBfloat16)
        assert for_clicks(published, "auto", CPU)._encoder.blocks[0].dtype == torch.bfloat16


def test_without_onednn_the_plain_network_answers(monkeypatch):
    monkeypatch.setattr(choice, "is_available", lambda: False)
    published = small_network(settings=PUBLISHED_SMALL)
    assert for_clicks(published, "fp32", CPU) is published


def test_bf16_is_refused_where_the_machine_has_none(monkeypatch):
    monkeypatch.setattr("lib.network.precision.has_bfloat16", lambda _: False)
    assert operand_type("auto", CPU) == torch.float32
    with pytest.raises(SettingsError, match=r"'bf16'.*cpu does not compute in: use auto"):
        operand_type("bf16", CPU)


@pytest.mark.slow
@pytest.mark.skipif(not has_bfloat16(CPU), reason="this processor has no avx512_bf16")
def test_the_demo_models_masks_are_the_same_in_bfloat16():
    """On synthetic patches, three clicks each; mean Dice of the two masks, not with the truth."""
    network, _ = load_weights(PRETRAINED / "tiny.safetensors")
    rough, dices = InBfloat16(network), []
    for number in range(10):
        image, target = training_patch(training_rng(77, number), 64)
        patch = torch.from_numpy(image)[None, None]
        embeddings = network.encode(patch), rough.encode(patch)
        coords, labels = [first_click(target, (1, 1, 1))], [1.0]
        for _ in range(3):
            clicks = torch.tensor([coords], dtype=torch.float32), torch.tensor([labels])
            margins = [n.decode(e, *clicks)[0] for n, e in zip((network, rough), embeddings, strict=True)]
            fine, coarse = ((margin[1] > margin[0]).numpy() for margin in margins)
            assert fine.any()
            dices.append(dice(coarse, fine))
            more = next_click(target, fine, (1, 1, 1))
            if more is None:
                break
            coords, labels = [*coords, more[0]], [*labels, float(more[1])]
    print(f"mean Dice of {len(dices)} masks in bfloat16 with those in single precision: {np.mean(dices):.4f}")
    assert len(dices) > 20
    assert np.mean(dices) >= 0.995


def test_our_own_networks_run_under_autocast_in_bf16():
    network = small_network(seed=4)
    rough = InBfloat16(network)
    patch = noise(1, 1, 32, 32, 32)
    embedding = rough.encode(patch)
    found, expected = rough.decode(embedding, POINTS, LABELS).float(), network(patch, POINTS, LABELS)
    assert rough.settings is network.settings
    assert 0 < (found - expected).abs().mean() < 0.05 * expected.std()
