"""A published checkpoint on its whole way: converted by the command, served, clicked; its logits are the recorded ones.

The network is ViT-B with the recordings' parameters. The study that is clicked holds the voxels of the recorded patch.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from golden import fill
from lib.interactive.contract import honour_clicks
from lib.network.build import build_sam3d
from lib.network.sam3d import Sam3D
from lib.network.weights import load_weights, published_name
from lib.parity.inference import case_meta, check_case, fill_parameters
from lib.settings import VARIANTS
from serving import Server, write_study
from test_cli import run

RECORDED = Path(__file__).parents[2].parent / "shared" / "parity" / "golden" / "case_a.npz"
WANTED = "SAM3D_VIT_B_SERVING"
MIDDLE = (64, 64, 64)


def published_checkpoint(path: Path, salt: str) -> None:
    """Parameters as the recordings fill them, laid out as the authors' files are: four prompt encoders, the last one in
    use, and the masks that they store."""
    network = build_sam3d(VARIANTS["vit_b"])
    fill_parameters(network, fill, salt)
    parts: dict[str, dict[str, torch.Tensor]] = {"encoder": {}, "prompt_encoder": {}, "decoder": {}}
    for name, tensor in network.state_dict().items():
        if name == "prompt_encoder.background_embedding":
            continue  # ours alone
        component, _, rest = published_name(name).partition(".")
        parts[component][rest] = tensor
    parts["encoder"]["blocks.0.attn_mask"] = torch.zeros(64, 512, 512)
    others = {name: torch.zeros_like(tensor) for name, tensor in parts["prompt_encoder"].items()}
    torch.save(
        {
            "encoder_dict": parts["encoder"],
            "decoder_dict": parts["decoder"],
            "feature_dict": [others, others, others, parts["prompt_encoder"]],
        },
        path,
    )


@torch.inference_mode()
def mask_of(network: Sam3D, patch: np.ndarray) -> np.ndarray:
    """The network's own answer to a click in the middle of the recorded patch, (128, 128, 128), axes (d, h, w)."""
    logits = network(torch.from_numpy(patch)[None, None], torch.tensor([[MIDDLE]]).float(), torch.ones(1, 1))[0]
    return (logits[1] > logits[0]).numpy()


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.skipif(not RECORDED.is_file(), reason="the recorded case is not here: ../shared/parity/golden/case_a.npz")
@pytest.mark.skipif(not os.environ.get(WANTED), reason=f"needs 6 GB and minutes: set {WANTED}=1 to run it")
def test_a_published_checkpoint_is_converted_served_and_clicked(tmp_path):
    with np.load(RECORDED, allow_pickle=False) as stored:
        meta = case_meta(stored)
    published_checkpoint(tmp_path / "vit_b_published.pth", meta["salt"])
    converted = tmp_path / "converted.safetensors"
    done = run(tmp_path, "convert-weights", "vit_b_published.pth", "--out", converted, "--preset", "pancreas")
    assert done.returncode == 0, done.stderr

    network, card = load_weights(converted)
    assert card.is_trained
    result = check_case(network, fill, RECORDED)
    print(result)
    assert result.is_passed, str(result)

    # The study's axes are (i, j, k) = (w, h, d), so that a patch around its middle voxel is the recorded one.
    patch = fill.make_input(int(meta["input_seed"]))
    volume = np.ascontiguousarray(patch.transpose(2, 1, 0))
    (tmp_path / "studies").mkdir()
    write_study(tmp_path / "studies" / "patch.nii.gz", volume, np.eye(4))
    as_it_is = {"clip_low": "-1000", "clip_high": "1000", "mean": "0", "std": "1"}
    conf = {"checkpoint": str(converted), "labels": "tumour", "device": "cpu", "max_patches": "1", **as_it_is}
    conf["precision"] = "fp32"  # as recorded; a server takes bfloat16 where the processor has it
    with Server(tmp_path / "server", tmp_path / "studies", conf) as server:
        reply = server.infer({"tumour": [list(MIDDLE)]}, image="patch", output="image")
    assert reply.status == 200, reply.detail
    expected = mask_of(network, patch).transpose(2, 1, 0).astype(np.uint8)
    clicks = {1: np.array([MIDDLE])}
    expected, _ = honour_clicks(expected, clicks, np.zeros((0, 3), np.int64), volume, np.ones(3), 6.0)
    assert 0 < expected.sum() < expected.size
    # Rounding at the threshold, as among the recordings themselves (lib.parity.inference).
    assert np.count_nonzero(reply.mask != expected) <= 20
