"""Weights cross the border with papers, whole, and without running anybody's code."""

import hashlib
import json
import os
import pickle
import stat
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from segment_anything.modeling import ImageEncoderViT
from torch import nn

from lib.errors import WeightsError
from lib.images.volumes import make_volume
from lib.interactive.predictor import Predictor
from lib.interactive.prompts import prompts_from_request
from lib.network.build import build_sam3d
from lib.network.weights import (
    Card,
    card_path,
    load_published_checkpoint,
    load_sam_checkpoint,
    load_weights,
    published_name,
    read_card,
    save_weights,
    write_atomically,
)
from lib.settings import PRESETS, VARIANTS, Settings
from lib.weights import checkpoints
from network.small_networks import PUBLISHED_SMALL, SMALL, card_of, small_network

# A stand-in for SAM's three sizes: windows of 14 and a global grid of 64 make the tables that ours are resampled from.
SAM_SMALL = replace(PUBLISHED_SMALL, sam_window_size=14, sam_grid_size=64, neck_blocks=(0, 1, 2, 3))


class Touching:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def sam_state(settings=SAM_SMALL, grid=64):
    """What a SAM file holds, from SAM's own classes at our width; `grid` is its table's side."""
    torch.manual_seed(1)
    encoder = ImageEncoderViT(
        img_size=16 * grid,
        embed_dim=settings.embed_dim,
        depth=settings.depth,
        num_heads=settings.num_heads,
        out_chans=8,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=settings.sam_window_size,
        global_attn_indexes=settings.neck_blocks,
    )
    for parameter in encoder.parameters():
        nn.init.normal_(parameter)
    state = {f"image_encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    state["prompt_encoder.no_mask_embed.weight"] = torch.zeros(1, 8)
    state["mask_decoder.iou_token.weight"] = torch.zeros(1, 8)
    return state


def published_state(network):
    """The layout of the published checkpoints: four prompt encoders, masks as constants, parts that are never used."""
    parts = {"encoder": {}, "prompt_encoder": {}, "decoder": {}}
    for name, tensor in network.state_dict().items():
        if name.startswith("prompt_encoder.") and ".transformer." not in name:
            continue
        component, rest = published_name(name).split(".", 1)
        parts[component][rest] = tensor.clone()
    for index in range(0, network.settings.depth, 2):
        parts["encoder"][f"blocks.{index}.attn_mask"] = torch.zeros(2, 4, 4)
    extras = {
        "transformer.layers.0.cross_attn_token_to_image.q_proj.weight": torch.zeros(4, 8),
        "pe_layer.positional_encoding_gaussian_matrix": torch.zeros(3, 4),
    }
    used = {**parts["prompt_encoder"], **extras}
    unused = [{name: torch.full_like(tensor, 9.0) for name, tensor in used.items()} for _ in range(3)]
    return {"encoder_dict": parts["encoder"], "decoder_dict": parts["decoder"], "feature_dict": [*unused, used]}


def test_our_own_format_comes_back_as_it_went(tmp_path):
    network = small_network(seed=9)
    path = tmp_path / "new folder" / "small.safetensors"
    card = card_of(
        version="3", has_background_clicks=True, figures={"dice": [0.5, 0.75]}, parent_sha256="ab", spacing_mm=1.5
    )
    saved = save_weights(network, card, path)
    loaded, read = load_weights(path)
    assert same(loaded.state_dict(), network.state_dict())
    assert read == saved == replace(card, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    assert not loaded.training
    assert sorted(file.name for file in path.parent.iterdir()) == ["small.json", "small.safetensors"]


def test_a_card_holds_what_the_weights_are(tmp_path):
    save_weights(small_network(), card_of(licence="CC0", intensity=PRESETS["mr"]), tmp_path / "small.safetensors")
    values = json.loads((tmp_path / "small.json").read_text())
    assert sorted(values) == sorted(
        [
            *("format", "variant", "network", "intensity", "spacing_mm", "has_antialiasing", "version"),
            "is_trained",
            *("has_background_clicks", "has_automatic_mode", "licence", "description", "figures", "parent_sha256"),
            "sha256",
        ]
    )
    assert values["format"] == 1
    assert values["network"]["neck_blocks"] == [0, 1, 2, 3]
    assert values["intensity"]["is_percentile"] is True
    assert read_card(tmp_path / "small.safetensors").network == SMALL


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "small.safetensors"
    save_weights(small_network(), card_of(), path)
    return path


def rewrite_card(path, **changes):
    values = json.loads(card_path(path).read_text())
    for name, change in changes.items():
        values[name] = {**values[name], **change} if isinstance(change, dict) else change
    card_path(path).write_text(json.dumps(values))


def refused(path, text, load=load_weights):
    with pytest.raises(WeightsError, match=text) as caught:
        load(path)
    message = str(caught.value)
    assert path.stem in message
    assert str(path.parent) not in message
    assert "\n" not in message
    return message


def test_a_missing_file_or_card_is_named(saved):
    refused(saved.with_name("other.safetensors"), r"^other\.json cannot be read: No such file")
    data = saved.read_bytes()
    saved.unlink()
    refused(saved, r"^small\.safetensors cannot be read: No such file")
    saved.write_bytes(data)
    card_path(saved).unlink()
    refused(saved, r"^small\.json cannot be read: No such file")


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[:-1], id="a byte short"),
        pytest.param(lambda data: data[: len(data) // 2], id="half"),
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: data[:5000] + b"x" + data[5001:], id="one byte other"),
    ],
)
def test_a_file_that_is_not_its_cards_is_refused(saved, damage):
    saved.write_bytes(damage(saved.read_bytes()))
    refused(saved, "has sha256 [0-9a-f]{12}, its card says [0-9a-f]{12}: fetch both again")


def test_a_file_that_is_no_safetensors_is_refused(saved):
    saved.write_bytes(b"certainly not weights")
    rewrite_card(saved, sha256=hashlib.sha256(saved.read_bytes()).hexdigest())
    refused(saved, "is not a readable safetensors file")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "small.json is not JSON"),
        ("{", "small.json is not JSON"),
        ("\x00\xff", "small.json is not JSON"),
        ("[]", r"has card format '\[\]'; this version reads 1"),
        ("{}", "has card format 'None'; this version reads 1"),
        ('{"format": 2}', "has card format '2'; this version reads 1"),
        ('{"format": 1}', "is not a complete model card: 'network'"),
    ],
)
def test_a_damaged_card_is_refused(saved, text, message):
    card_path(saved).write_bytes(text.encode("latin-1"))
    refused(saved, message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": {"depth": "4"}}, "small.json says depth is '4', which it cannot be"),
        ({"network": {"embed_dim": -1}}, "says embed_dim is '-1'"),
        ({"network": {"click_unet": ["wide"]}}, "is not a complete model card: invalid literal"),
        ({"network": {"neck_blocks": ["first"]}}, "is not a complete model card: invalid literal"),
        ({"network": {"colour": 1}}, "is not a complete model card: .*colour"),
        ({"intensity": {"low": None}}, "says low is 'None'"),
        ({"spacing_mm": True}, "says spacing_mm is 'True'"),
        ({"is_trained": "yes"}, "says is_trained is 'yes'"),
        ({"network": {"depth": 5, "neck_blocks": [0, 1, 2, 4]}}, "not found in it .*blocks.4.*and 17 more"),
        ({"network": {"depth": 3, "neck_blocks": [0, 1, 2, 2]}}, "no place for .*blocks.3"),
        ({"network": {"adapter_dim": 9}}, r"adapter.linear1.* is \(8, 16\), expected \(9, 16\)|adapter"),
    ],
)
def test_a_card_of_another_network_is_refused(saved, changes, message):
    rewrite_card(saved, **changes)
    refused(saved, message)


def test_values_that_are_not_finite_are_refused(tmp_path):
    network = small_network()
    with torch.no_grad():
        network.mask_decoder.margin.weight[0, 0, 0, 0, 0] = torch.nan
    save_weights(network, card_of(), tmp_path / "small.safetensors")
    refused(tmp_path / "small.safetensors", r"values that are not finite, in \['mask_decoder.margin.weight'\]")


def test_a_sam_checkpoint_is_reported_to_the_letter(tmp_path):
    state = sam_state()
    path = tmp_path / "sam_small.pth"
    torch.save(state, path)
    network = build_sam3d(SAM_SMALL, seed=0)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    report = load_sam_checkpoint(network, path)
    after = network.state_dict()

    unused = {name for name in state if name.startswith(("image_encoder.neck.", "prompt_encoder.", "mask_decoder."))}
    assert report.unused == tuple(sorted(unused))
    assert len(report.unused) == 8
    assert report.loaded == tuple(sorted(state.keys() - unused))
    assert len(report.loaded) == 3 + 4 * 14
    assert report.resized == ()
    assert set(report.fresh) == after.keys() - state.keys()
    encoder_fresh = [name for name in report.fresh if name.startswith("image_encoder.")]
    assert len(encoder_fresh) == 3 + 24 + 4 * 8  # as published: depth and slice embedding, necks, 8 a block
    assert str(report) == f"59 loaded, 0 resized, {len(report.fresh)} fresh, 8 unused"

    assert all(torch.equal(after[name], state[name]) for name in report.loaded)
    tables = [name for name in report.fresh if name.endswith("rel_pos_d")]
    assert len(tables) == 4
    for name in tables:
        h, w = state[name.replace("pos_d", "pos_h")], state[name.replace("pos_d", "pos_w")]
        assert torch.equal(after[name], 0.5 * (h + w))
    assert all(torch.equal(after[name], before[name]) for name in report.fresh if name not in tables)


def test_positions_of_another_size_are_resized_and_said_to_be(tmp_path):
    state = sam_state(grid=32)
    state["image_encoder.pos_embed"][:] = torch.arange(32.0)[None, :, None, None]
    torch.save(state, tmp_path / "sam_small.pth")
    network = build_sam3d(SAM_SMALL)
    report = load_sam_checkpoint(network, tmp_path / "sam_small.pth")
    tables = [f"image_encoder.blocks.{index}.attn.rel_pos_{axis}" for index in range(4) for axis in "hw"]
    assert report.resized == tuple(sorted(["image_encoder.pos_embed", *tables]))
    positions = network.image_encoder.pos_embed[0, :, 5, 3].detach()
    assert positions.shape == (64,)
    assert positions[20:22].tolist() == pytest.approx([9.75, 10.25])
    assert network.image_encoder.blocks[0].attn.rel_pos_h.shape == (127, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("image_encoder.blocks.2.attn.qkv.weight"), r"not found in it \['image_encoder.blocks.2.attn"),
        (lambda s: s.update({"image_encoder.extra": torch.zeros(1)}), r"no place for \['image_encoder.extra'\]"),
        (lambda s: s.update({"image_encoder.blocks.0.norm1.weight": torch.zeros(5)}), r"is \(5,\), expected \(16,\)"),
        (lambda s: s["image_encoder.blocks.0.norm1.weight"].fill_(torch.inf), "not finite, in"),
        (lambda s: s.clear(), "not found in it"),
        (lambda s: s.update({"epoch": 3}), "does not hold a state dict of tensors"),
    ],
)  # fmt: skip
def test_a_sam_checkpoint_with_gaps_is_refused_and_changes_nothing(tmp_path, change, message):
    state = sam_state()
    change(state)
    path = tmp_path / "sam_small.pth"
    torch.save(state, path)
    network = build_sam3d(SAM_SMALL, seed=0)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    refused(path, message, load=partial(load_sam_checkpoint, network))
    assert same(network.state_dict(), before)


def test_the_checkpoint_of_another_variant_is_named(tmp_path):
    # ViT-L's width and depth are known by two kinds of tensors; the rest need not be there.
    path = tmp_path / "sam_weights.pth"
    stored = {"image_encoder.pos_embed": torch.zeros(1, 1, 1, 1024)}
    stored |= {f"image_encoder.blocks.{index}.norm1.weight": torch.zeros(1) for index in range(24)}
    torch.save(stored, path)
    message = refused(path, "was made for variant vit_l", load=partial(load_sam_checkpoint, build_sam3d(SAM_SMALL)))
    assert message.endswith("name it with --conf variant vit_l")


def test_a_published_checkpoint_is_read_whole(tmp_path):
    source = small_network(seed=6, settings=PUBLISHED_SMALL)
    nn.init.zeros_(source.prompt_encoder.background_embedding)
    path = tmp_path / "best.pth.tar"
    torch.save({**published_state(source), "opt": {"state": {}, "lr": 4e-4}, "epoch_num": 7}, path)
    network = build_sam3d(PUBLISHED_SMALL, seed=1)
    nn.init.zeros_(network.prompt_encoder.background_embedding)
    report = load_published_checkpoint(network, path)
    assert report.unused == (
        "image_encoder.blocks.0.attn_mask",
        "image_encoder.blocks.2.attn_mask",
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
        "prompt_encoder.transformer.layers.0.cross_attn_token_to_image.q_proj.weight",
    )
    assert report.fresh == ("prompt_encoder.background_embedding",)
    assert report.resized == ()
    assert same(network.state_dict(), source.state_dict())  # the last prompt encoder, not the three of nines


def test_published_weights_in_a_network_with_more_are_those_alone(tmp_path):
    """Click maps have no source in them; a network that has them would answer otherwise than the published one."""
    torch.save(published_state(small_network(settings=PUBLISHED_SMALL)), tmp_path / "best.pth.tar")
    refused(
        tmp_path / "best.pth.tar",
        "does not fit this network: .*mask_decoder",
        load=partial(load_published_checkpoint, small_network()),
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("decoder_dict"), r"lacks \['decoder_dict'\]: SAM's own weights are named with"),
        (lambda c: c.update(feature_dict=[]), "holds no list of prompt encoders"),
        (lambda c: c.update(feature_dict={"a": torch.zeros(1)}), "holds no list of prompt encoders"),
        (lambda c: c.update(encoder_dict=[1, 2]), "does not hold a state dict of tensors"),
        (lambda c: c["encoder_dict"].pop("pos_embed"), r"not found in it \['image_encoder.pos_embed'\]"),
        (lambda c: c["decoder_dict"].update(more=torch.zeros(1)), r"no place for \['mask_decoder.more'\]"),
    ],
)
def test_a_published_checkpoint_with_gaps_is_refused(tmp_path, change, message):
    content = published_state(small_network(settings=PUBLISHED_SMALL))
    change(content)
    path = tmp_path / "best.pth.tar"
    torch.save(content, path)
    refused(path, message, load=partial(load_published_checkpoint, build_sam3d(PUBLISHED_SMALL)))


@pytest.mark.parametrize("load", [load_sam_checkpoint, load_published_checkpoint])
@pytest.mark.parametrize("is_zip", [True, False])
def test_pickled_code_is_not_run(tmp_path, load, is_zip):
    path, trace = tmp_path / "evil.pth", tmp_path / "trace"
    torch.save({"encoder_dict": Touching(trace)}, path, _use_new_zipfile_serialization=is_zip)
    refused(
        path,
        "holds more than tensors and was not opened, for loading it could run code",
        partial(load, small_network()),
    )
    path.write_bytes(pickle.dumps(Touching(trace), protocol=2))
    refused(path, "holds more than tensors and was not opened", partial(load, small_network()))
    assert not trace.exists()
    pickle.loads(path.read_bytes())
    assert trace.exists()  # the code was live


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")  # torch's, of a damaged number
def test_no_bytes_bring_the_loader_down(tmp_path):
    """Random damage ends in our error, whatever torch makes of it (and what is left whole fits no network)."""
    load = partial(load_published_checkpoint, small_network())
    path = tmp_path / "best.pth.tar"
    content = {"encoder_dict": {"a": torch.ones(3)}, "decoder_dict": {}, "feature_dict": [{}]}
    rng = np.random.default_rng(0)
    for is_zip in (True, False):
        torch.save(content, path, _use_new_zipfile_serialization=is_zip)
        good = np.frombuffer(path.read_bytes(), np.uint8)
        for turn in range(150):
            data = good.copy()
            data[rng.integers(0, len(data), 3)] = rng.integers(0, 256, 3)
            path.write_bytes(data[: rng.integers(0, len(data))].tobytes() if turn % 3 == 0 else data.tobytes())
            with pytest.raises(WeightsError, match=r"best\.pth\.tar"):
                load(path)
    for data in (b"", b"hello", b"PK\x03\x04", bytes(range(64))):
        path.write_bytes(data)
        refused(path, "is damaged or no PyTorch checkpoint: fetch it again", load)


def test_other_pickles_are_refused(tmp_path):
    path = tmp_path / "sam.pth"
    torch.save([torch.zeros(3)], path)
    refused(path, "holds a list, not a state dict", partial(load_sam_checkpoint, small_network()))
    path.unlink()
    refused(path, "cannot be read: No such file", partial(load_sam_checkpoint, small_network()))


def test_settings_choose_the_weights(tmp_path, monkeypatch):
    monkeypatch.setitem(VARIANTS, "vit_b", PUBLISHED_SMALL)
    monkeypatch.setattr(checkpoints, "PRETRAINED", tmp_path)
    with pytest.raises(WeightsError, match="no weights for variant vit_l here: name some with --conf checkpoint"):
        checkpoints.open_network(Settings.from_conf({"variant": "vit_l"}))

    demo = small_network(seed=2)
    save_weights(demo, card_of(spacing_mm=1.5), tmp_path / "tiny.safetensors")
    network, card = checkpoints.open_network(Settings.from_conf({}))
    assert same(network.state_dict(), demo.state_dict())
    assert (card.spacing_mm, card.intensity) == (1.5, PRESETS["ct"])
    named = Settings.from_conf({"checkpoint": str(tmp_path / "tiny.safetensors"), "spacing_mm": "2", "preset": "liver"})
    assert [checkpoints.open_network(named)[1].spacing_mm, named.intensity] == [2.0, PRESETS["liver"]]

    with pytest.raises(WeightsError, match=r"no file missing\.pth where --conf checkpoint looks for it"):
        checkpoints.open_network(Settings.from_conf({"checkpoint": str(tmp_path / "missing.pth")}))


def test_a_sam_checkpoint_can_be_trained_but_does_not_answer(tmp_path, monkeypatch):
    monkeypatch.setitem(VARIANTS, "vit_b", SAM_SMALL)
    torch.save(sam_state(), tmp_path / "sam_vit_b_01ec64.pth")
    settings = Settings.from_conf({"sam_checkpoint": str(tmp_path / "sam_vit_b_01ec64.pth")})
    network, card = checkpoints.open_network(settings)
    assert (card.is_trained, card.version) == (False, "untrained, from sam_vit_b_01ec64.pth")
    assert torch.equal(network.image_encoder.pos_embed, sam_state()["image_encoder.pos_embed"])
    volume = make_volume(np.zeros((4, 4, 4), np.int16), np.eye(4))
    request = prompts_from_request({"lesion": [[1, 1, 1]]}, settings.labels, volume.shape)
    with pytest.raises(WeightsError, match="never trained: train them first"):
        Predictor(network, card, settings).segment(volume, request)
    with pytest.raises(WeightsError, match="use the demo model"):
        Predictor(network, card, settings).segment_automatically(volume)


def test_a_published_checkpoint_converted_to_ours_answers_the_same(tmp_path, monkeypatch):
    monkeypatch.setitem(VARIANTS, "vit_b", PUBLISHED_SMALL)
    torch.save(published_state(small_network(seed=6, settings=PUBLISHED_SMALL)), tmp_path / "best.pth.tar")
    settings = Settings.from_conf({"checkpoint": str(tmp_path / "best.pth.tar"), "preset": "pancreas"})
    network, card = checkpoints.open_network(settings)
    assert (card.is_trained, card.has_background_clicks, card.has_antialiasing) == (True, False, False)
    assert (card.variant, card.spacing_mm, card.intensity) == ("vit_b", 1.0, PRESETS["pancreas"])
    save_weights(network, card, tmp_path / "ours.safetensors")
    converted, its_card = load_weights(tmp_path / "ours.safetensors")

    rng = np.random.default_rng(0)
    volume = make_volume(rng.normal(60, 60, (40, 36, 20)).astype(np.float32), np.diag([0.8, 0.8, 2.0, 1.0]))
    request = prompts_from_request({"lesion": [[20, 18, 10]]}, settings.labels, volume.shape)
    masks = [
        Predictor(n, c, settings).segment(volume, request).label_map
        for n, c in ((network, card), (converted, its_card))
    ]
    assert masks[0][20, 18, 10] == 1
    assert np.array_equal(*masks)


def test_sams_own_file_named_as_a_checkpoint_is_told_where_to_go(tmp_path, monkeypatch):
    monkeypatch.setitem(VARIANTS, "vit_b", SAM_SMALL)
    torch.save(sam_state(), tmp_path / "sam_vit_b_01ec64.pth")
    with pytest.raises(WeightsError, match="SAM's own weights are named with --conf sam_checkpoint"):
        checkpoints.open_network(Settings.from_conf({"checkpoint": str(tmp_path / "sam_vit_b_01ec64.pth")}))


def test_a_failure_midway_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    write_atomically(path, b"old")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write_atomically(path, b"new")
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_written_files_have_the_usual_permissions(tmp_path):
    before = os.umask(0o022)
    try:
        write_atomically(tmp_path / "card.json", b"{}")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "card.json").stat().st_mode) == 0o644


def test_a_card_has_a_line_for_each_of_its_fields():
    card = card_of(figures={"dice": 0.5})
    assert Card.from_json(json.loads(json.dumps(card.as_json())), "card") == card
