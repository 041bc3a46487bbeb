"""The faster road of a convolution: taken where it should be, and with the same numbers."""

import pytest
import torch
from torch.nn import functional as F

from lib.network import convolution
from lib.network.convolution import Conv3d, conv3d


def random_input(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("kernel", "padding"), [(3, 1), (3, 0), (1, 0)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_it_is_pytorchs_convolution(kernel, padding, has_bias):
    plain = torch.nn.Conv3d(6, 5, kernel, padding=padding, bias=has_bias)
    ours = Conv3d(6, 5, kernel, padding=padding, bias=has_bias)
    ours.load_state_dict(plain.state_dict())
    x = random_input(1, 6, 9, 8, 7)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), plain(x), atol=1e-5, rtol=0)
        torch.testing.assert_close(ours(x.mT), plain(x.mT), atol=1e-5, rtol=0)  # not contiguous


def test_its_gradients_are_pytorchs():
    weight, x = random_input(4, 6, 3, 3, 3), random_input(1, 6, 9, 8, 7)
    pairs = []
    for convolve in (F.conv3d, conv3d):
        leaves = [weight.clone().requires_grad_(), x.clone().requires_grad_()]
        convolve(leaves[1], leaves[0], padding=1).square().sum().backward()
        pairs.append([leaf.grad for leaf in leaves])
    for plain, ours in zip(*pairs, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("shape", "is_faster"), [((1, 8, 16, 16, 16), True), ((1, 96, 16, 16, 16), False), ((2, 8, 16, 16, 16), False)]
)
def test_only_one_small_volume_takes_the_other_road(shape, is_faster, monkeypatch):
    taken = []
    real = torch.mkldnn_convolution
    monkeypatch.setattr(convolution.torch, "mkldnn_convolution", lambda *args: taken.append(1) or real(*args))
    x, weight = random_input(*shape), random_input(4, shape[1], 3, 3, 3)
    with torch.inference_mode():
        conv3d(x, weight, padding=1)
        assert bool(taken) == is_faster
        taken.clear()
        with torch.autocast("cpu", torch.bfloat16):
            conv3d(x, weight, padding=1)
        conv3d(x.double(), weight.double(), padding=1)
    assert not taken
