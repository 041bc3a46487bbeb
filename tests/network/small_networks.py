"""Networks of random weights, small enough for a test."""

from dataclasses import replace

from lib.network.build import build_sam3d
from lib.network.weights import Card
from lib.settings import PRESETS, NetworkSettings

# All parts of the design, with eight windows, in about a thousandth of the smallest real one's work.
SMALL = NetworkSettings(
    patch_size=32,
    embed_dim=16,
    depth=4,
    num_heads=2,
    neck_blocks=(0, 1, 2, 3),
    window_size=4,
    sam_window_size=4,
    sam_grid_size=8,
    adapter_dim=8,
    neck_dim=8,
    head_dim=8,
    prompt_mlp_dim=16,
    prompt_heads=2,
    click_unet=(8, 8, 12),
)
PUBLISHED_SMALL = replace(SMALL, click_unet=())


def small_network(seed=0, settings=SMALL):
    return build_sam3d(settings, seed)


def card_of(settings=SMALL, **values):
    """Papers that let a network of random weights answer."""
    usual = {"variant": "small", "intensity": PRESETS["ct"], "spacing_mm": 1.0, "is_trained": True}
    return Card(network=settings, **{**usual, **values})
