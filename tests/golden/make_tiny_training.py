"""Makes tiny_train.npz, a recorded training step of the kind that lib.parity.training reads, for a small network.

    PYTHONPATH=apps/sam3d:tests python tests/golden/make_tiny_training.py

Its numbers are our own, recorded while the recorded step of the published ViT-B passed; so it shows what changed, not
what is right. Make it anew only when that one passes again.
"""

import json
from dataclasses import asdict
from functools import cache
from pathlib import Path

import numpy as np

from golden import fill
from golden.make_tiny import META, NETWORK, SmallFiller, filled_network
from lib.parity.training import norms_by_group, training_gradients

GOLDEN = Path(__file__).with_name("tiny_train.npz")
SEED, N_ENTRIES = 31, 16


class SmallTrainingFiller(SmallFiller):
    """The same for a training step: the published target and points, at a quarter of the size."""

    @staticmethod
    @cache
    def make_seg(seed):
        return np.ascontiguousarray(fill.make_seg(seed)[::4, ::4, ::4])

    @staticmethod
    def make_train_points(seed):
        return fill.make_train_points(seed) // 4

    @staticmethod
    def sample_indices(name, shape, k=N_ENTRIES):
        return fill.sample_indices(name, shape, min(k, N_ENTRIES))


def main():
    points = SmallTrainingFiller.make_train_points(SEED)
    loss, gradients = training_gradients(filled_network(), SmallTrainingFiller, SEED, points)
    meta = {"input_seed": SEED, "seg_seed": SEED, "salt": META["salt"], "network": asdict(NETWORK)}
    stored = {"meta": json.dumps(meta), "points_dhw": points, "loss": loss}
    # Parameters that only we have leave a published network's answers alone, and get no gradient here.
    gradients = {name: gradient for name, gradient in gradients.items() if gradient.any()}
    stored |= {f"group/{name}": norm for name, norm in norms_by_group(gradients).items()}
    for name, gradient in gradients.items():
        indices = SmallTrainingFiller.sample_indices(f"grad/{name}", tuple(gradient.shape))
        stored[f"grad/{name}/norm"] = float(gradient.double().norm())
        stored[f"grad/{name}/values"] = gradient.reshape(-1).numpy()[indices]
    np.savez_compressed(GOLDEN, **stored)
    print(f"{GOLDEN.name}: loss {loss:.7f}, {len(gradients)} parameters, {GOLDEN.stat().st_size} bytes")


if __name__ == "__main__":
    main()
