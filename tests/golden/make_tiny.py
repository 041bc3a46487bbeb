"""Makes tiny.npz, a golden case of the kind that lib.parity reads, for a small network of the published design.

    PYTHONPATH=apps/sam3d:tests python tests/golden/make_tiny.py

Its answers are our own, recorded while all recorded cases of the published ViT-B passed; so it shows what changed, not
what is right. Make it anew only when those pass again.
"""

import json
from dataclasses import asdict
from functools import cache
from pathlib import Path

import numpy as np

from golden import fill
from lib.network.build import build_sam3d
from lib.parity.inference import case_inputs, fill_parameters, intermediates
from lib.settings import NetworkSettings

GOLDEN = Path(__file__).with_name("tiny.npz")
META = {"case": "tiny", "input_seed": 31, "point_seed": 31, "n_points": 6, "salt": "/tiny"}
# Eight windows, shifted and not; tables longer than a window; blocks with a neck and without.
NETWORK = NetworkSettings(
    patch_size=32,
    window_size=4,
    embed_dim=32,
    depth=5,
    num_heads=2,
    neck_blocks=(1, 2, 3, 4),
    adapter_dim=16,
    neck_dim=16,
    head_dim=16,
    prompt_mlp_dim=32,
    prompt_heads=4,
)


class SmallFiller:
    """The filler of the published cases, for patches of a quarter of the side and with fewer samples of each tensor."""

    fill = staticmethod(fill.fill)

    @staticmethod
    @cache
    def make_input(seed):
        return np.ascontiguousarray(fill.make_input(seed)[48:80, 48:80, 48:80])

    @staticmethod
    def make_points(seed, n):
        return fill.make_points(seed, n) // 4

    @staticmethod
    def sample_indices(name, shape):
        return fill.sample_indices(name, shape, 512)


def filled_network():
    """The network that the case was recorded with."""
    network = build_sam3d(NETWORK)
    fill_parameters(network, SmallFiller, META["salt"])
    return network


def main():
    points = SmallFiller.make_points(META["point_seed"], META["n_points"])
    stored = {"meta": json.dumps({**META, "network": asdict(NETWORK)}), "points_dhw": points}
    tensors = intermediates(filled_network(), *case_inputs(SmallFiller, stored))
    stored["logits_ds4"] = tensors.pop("logits_ds4").numpy()
    stored["mask_voxels"] = int((tensors["prob"] > 0.5).sum())
    for name, tensor in tensors.items():
        stored[f"{name}/shape"] = np.array(tensor.shape)
        stored[f"{name}/values"] = tensor.reshape(-1).numpy()[SmallFiller.sample_indices(name, tensor.shape)]
    np.savez_compressed(GOLDEN, **stored)
    print(f"{GOLDEN.name}: {len(tensors)} tensors, {stored['mask_voxels']} mask voxels, {GOLDEN.stat().st_size} bytes")


if __name__ == "__main__":
    main()
