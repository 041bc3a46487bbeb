"""Muon for matrices, AdamW for the rest, as one optimiser."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn

from lib.learning.optimisers import MuonWithAdamW


def layers() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv3d(16, 24, 3), nn.GroupNorm(24, 24), nn.Conv3d(24, 2, 1))


def give_gradients(network: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_a_step_of_a_convolution_is_orthogonal_and_as_long_as_one_of_adamw():
    network = layers()
    before = network[0].weight.detach().clone()
    optimiser = MuonWithAdamW(list(network.parameters()), learning_rate=0.01, weight_decay=0.0)
    give_gradients(network, 0)
    optimiser.step()
    step = (network[0].weight.detach() - before).reshape(24, -1)
    ratios = torch.linalg.svdvals(step) / (0.01 * 0.2 * step.shape[1] ** 0.5)
    assert ratios.min() > 0.6  # five iterations come as near to one as that
    assert ratios.max() < 1.3


def test_every_parameter_is_stepped_by_one_of_the_two():
    network = layers()
    before = [parameter.detach().clone() for parameter in network.parameters()]
    optimiser = MuonWithAdamW(list(network.parameters()), learning_rate=0.01, weight_decay=0.0)
    give_gradients(network, 0)
    optimiser.step()
    assert all(not torch.equal(new, old) for new, old in zip(network.parameters(), before, strict=True))
    # The last layer has too few rows to be made orthogonal: its first step is AdamW's, the step size all over.
    torch.testing.assert_close((network[2].weight.detach() - before[4]).abs(), torch.full_like(before[4], 0.01))


def test_a_restored_state_takes_the_same_steps():
    one, other = layers(), layers()
    first = MuonWithAdamW(list(one.parameters()), 0.01, 0.01)
    for seed in (0, 1):
        give_gradients(one, seed)
        first.step()
    other.load_state_dict(one.state_dict())
    second = MuonWithAdamW(list(other.parameters()), 0.01, 0.01)
    second.load_state_dict(deepcopy(first.state_dict()))
    for network, optimiser in ((one, first), (other, second)):
        give_gradients(network, 2)
        optimiser.step()
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


def test_the_learning_rate_of_both_is_set_by_the_groups():
    network = layers()
    before = [parameter.detach().clone() for parameter in network.parameters()]
    optimiser = MuonWithAdamW(list(network.parameters()), learning_rate=0.01, weight_decay=0.0)
    for group in optimiser.param_groups:
        group["lr"] = 0.0
    give_gradients(network, 0)
    optimiser.step()
    assert all(torch.equal(new, old) for new, old in zip(network.parameters(), before, strict=True))
