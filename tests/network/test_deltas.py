"""Deltas: what they hold, what they refuse, and how large they are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib.errors import WeightsError
from lib.network.deltas import frozen_sha256, load_delta, save_delta, tuned_names, tuned_state
from lib.network.sam3d import Sam3D
from lib.network.weights import card_path
from lib.settings import VARIANTS
from small_runs import small_card, small_network

PARENT = small_card(sha256="a" * 64, version="parent")
CARD = small_card(version="parent+v1", parent_sha256=PARENT.sha256)


@pytest.fixture
def delta(tmp_path: Path) -> Path:
    """The tuned tensors of network 1."""
    path = tmp_path / "v1.safetensors"
    save_delta(small_network(1), CARD, path)
    return path


def test_a_delta_brings_the_tuned_tensors_and_leaves_the_frozen_ones(delta: Path) -> None:
    network, source, parent = small_network(2), small_network(1), small_network(2)
    card = load_delta(network, PARENT, delta)
    tuned = set(tuned_names(network))
    assert set(load_file(delta)) == tuned
    for name, tensor in network.state_dict().items():
        expected = source if name in tuned else parent
        assert torch.equal(tensor, expected.state_dict()[name]), name
    assert (card.version, card.parent_sha256) == ("parent+v1", PARENT.sha256)


def test_half_precision_is_half_the_size_and_nearly_the_values(delta: Path) -> None:
    half = delta.with_name("v2.safetensors")
    save_delta(small_network(1), CARD, half, is_half=True)
    whole, halved = load_file(delta), load_file(half)
    assert sum(t.nbytes for t in halved.values()) * 2 == sum(t.nbytes for t in whole.values())
    network = small_network(2)
    load_delta(network, PARENT, half)
    for name, tensor in tuned_state(network).items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, whole[name], rtol=1e-3, atol=1e-6)


def test_another_parent_is_refused_and_nothing_changes(delta: Path) -> None:
    network = small_network(2)
    before = tuned_state(network)
    other = replace(PARENT, sha256="b" * 64, version="other")
    with pytest.raises(
        WeightsError, match=r"was trained on weights aaaaaaaaaaaa, not on other .bbbbbbbbbbbb.: start the"
    ):
        load_delta(network, other, delta)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tuned_state(network).items())


def rewritten(delta: Path, change) -> None:
    """The delta with other tensors, and a card that agrees."""
    from hashlib import sha256

    state = load_file(delta)
    change(state)
    save_file(state, delta)
    card = json.loads(card_path(delta).read_text())
    card["sha256"] = sha256(delta.read_bytes()).hexdigest()
    card_path(delta).write_text(json.dumps(card))


FIRST, FROZEN = "image_encoder.blocks.0.adapter.conv.bias", "image_encoder.blocks.0.attn.qkv.bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop(FIRST), f"does not hold the tuned tensors of this network: {FIRST}"),
        (lambda state: state.update({FROZEN: torch.zeros(48)}), f"does not hold the tuned tensors.*{FROZEN}"),
        (lambda state: state.update({FIRST: torch.zeros(3)}), rf"another shape of {FIRST} than this network: \(3,\)"),
        (lambda state: state[FIRST].fill_(torch.nan), f"values that are not finite, in {FIRST}"),
    ],
    ids=["missing", "frozen one", "shape", "nan"],
)
def test_other_tensors_are_refused_and_nothing_changes(delta: Path, change, message: str) -> None:
    rewritten(delta, change)
    network = small_network(2)
    before = tuned_state(network)
    with pytest.raises(WeightsError, match=message):
        load_delta(network, PARENT, delta)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tuned_state(network).items())


def test_damage_is_noticed(delta: Path) -> None:
    data = bytearray(delta.read_bytes())
    data[-1] ^= 1
    delta.write_bytes(data)
    with pytest.raises(WeightsError, match=r"its card says .*: it is damaged"):
        load_delta(small_network(), PARENT, delta)
    delta.unlink()
    with pytest.raises(WeightsError, match=r"v1.safetensors cannot be read"):
        load_delta(small_network(), PARENT, delta)


def test_what_cannot_be_stored_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    network = small_network()
    dict(network.named_parameters())[FIRST].data.fill_(1e6)
    save_delta(network, CARD, tmp_path / "whole.safetensors")
    with pytest.raises(WeightsError, match=f"{FIRST} and 0 more hold values that cannot be stored"):
        save_delta(network, CARD, tmp_path / "half.safetensors", is_half=True)
    assert not list(tmp_path.glob("half*"))


def test_weights_without_a_hash_are_named_by_what_no_delta_replaces() -> None:
    network, other = small_network(1), small_network(1)
    dict(other.named_parameters())[FIRST].data.fill_(0.5)
    assert frozen_sha256(network) == frozen_sha256(other)
    dict(other.named_parameters())[FROZEN].data.fill_(0.5)
    assert frozen_sha256(network) != frozen_sha256(other)


def test_a_version_of_vit_b_takes_less_than_110_mb() -> None:
    with torch.device("meta"):
        network = Sam3D(VARIANTS["vit_b"])
    parameters = dict(network.named_parameters())
    n_tuned = sum(parameters[name].numel() for name in tuned_names(network))
    assert 4 * n_tuned <= 110e6
    assert 2 * n_tuned <= 55e6
    assert 4 * sum(p.numel() for p in parameters.values()) > 450e6
