"""Holds the network against recorded answers of the published one (golden cases: folders of `.npz` files).

A case names its seeds; parameters, patch and points are filled deterministically from them, the network runs on the
CPU in fp32, and every recorded tensor is compared at the recorded places.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lib.network.layers import merge_windows
from lib.network.mask_decoder import MaskDecoder
from lib.network.sam3d import Sam3D
from lib.network.weights import published_name

# Absolute tolerances; two correct fp32 implementations differ by 4.4e-5 at most, real mistakes by 0.3 or more.
_LATE_TENSORS = ("head", "cls0", "logits", "prob")
TOLERANCE, LATE_TOLERANCE, MASK_VOXEL_TOLERANCE = 1e-4, 3e-4, 20


class Filler(Protocol):
    """The deterministic source of a case's parameters, patch and points."""

    def fill(self, key: str, shape: tuple[int, ...], salt: str = "") -> NDArray[np.float32]: ...
    def make_input(self, seed: int) -> NDArray[np.float32]: ...
    def make_points(self, seed: int, n: int) -> NDArray[np.int64]: ...
    def sample_indices(self, name: str, shape: tuple[int, ...]) -> NDArray[np.int64]: ...


@dataclass(frozen=True)
class ParityResult:
    """One golden case: the largest deviation as a share of its tolerance decides."""

    case: str
    compared: int
    worst_tensor: str
    worst_deviation: float
    worst_tolerance: float
    mask_voxels_off: int

    @property
    def is_passed(self) -> bool:
        return self.worst_deviation <= self.worst_tolerance and self.mask_voxels_off <= MASK_VOXEL_TOLERANCE

    def __str__(self) -> str:
        verdict = "pass" if self.is_passed else "FAIL"
        return (
            f"{self.case}: {verdict}, {self.compared} tensors, largest deviation {self.worst_deviation:.2e} "
            f"(tolerance {self.worst_tolerance:.0e}) in {self.worst_tensor}, mask off by {self.mask_voxels_off} voxels"
        )


def fill_parameters(network: Sam3D, filler: Filler, salt: str = "") -> None:
    """Give every parameter that the published network has its deterministic values; ours alone become zero."""
    state = {}
    for name, tensor in network.state_dict().items():
        if name.startswith("prompt_encoder.") and not name.startswith("prompt_encoder.transformer."):
            state[name] = torch.zeros_like(tensor)
        else:
            state[name] = torch.from_numpy(np.asarray(filler.fill(published_name(name), tuple(tensor.shape), salt)))
    network.load_state_dict(state)


def check_case(network: Sam3D, filler: Filler, path: Path) -> ParityResult:
    """Run one golden case through a network already filled with that case's parameters."""
    with np.load(path, allow_pickle=False) as golden:
        stored = {name: golden[name] for name in golden.files}
    patch, points = case_inputs(filler, stored)
    tensors = intermediates(network, patch, points)
    recorded = [name.removesuffix("/values") for name in stored if name.endswith("/values")]
    deviations = {name: _deviation(name, tensors.get(name), stored, filler) for name in recorded}
    deviations["logits_ds4"] = _largest(tensors["logits_ds4"].numpy() - stored["logits_ds4"])
    worst = max(deviations, key=lambda name: deviations[name] / _tolerance(name))
    voxels = int((tensors["prob"] > 0.5).sum())
    return ParityResult(
        case=path.stem,
        compared=len(deviations),
        worst_tensor=worst,
        worst_deviation=deviations[worst],
        worst_tolerance=_tolerance(worst),
        mask_voxels_off=abs(voxels - int(stored["mask_voxels"])),
    )


def case_meta(stored: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Seeds and salt of a case."""
    meta: dict[str, Any] = json.loads(str(stored["meta"]))
    return meta


def case_inputs(filler: Filler, stored: Mapping[str, NDArray[Any]]) -> tuple[Tensor, Tensor]:
    """Patch (1, 1, D, H, W) and points (1, N, 3) in (d, h, w) of a case."""
    patch = torch.from_numpy(filler.make_input(int(case_meta(stored)["input_seed"])))[None, None]
    return patch, torch.from_numpy(np.asarray(stored["points_dhw"], np.float32))[None]


@torch.inference_mode()
def intermediates(network: Sam3D, patch: Tensor, points: Tensor) -> dict[str, Tensor]:
    """Every tensor a golden case records, in the recorded layout, by the recorded name."""
    record: dict[str, Tensor] = {"input": patch[0, 0]}
    with _recording(network, record):
        record["tokens"] = network.image_encoder.tokens(patch)
        embedding = network.encode(patch)
        logits = network.decode(embedding, points, torch.ones(points.shape[:2]))
    record["patch_embed"], record["slice_embed"] = plain_embedding(network, patch)
    record["image64"] = embedding.image
    record["logits"] = logits
    record["logits_ds4"] = logits[..., 2::4, 2::4, 2::4]
    record["prob"] = logits.softmax(dim=1)[:, 1]
    return record


@torch.inference_mode()
def plain_embedding(network: Sam3D, patch: Tensor) -> tuple[Tensor, Tensor]:
    """The embedding as published, step by step: up-sample, SAM's kernel on each slice, the slice kernel across them.

    Returns (slices, h, w, C) and (1, h, w, d, C). Memory: the up-sampled patch and all slice embeddings at once.
    """
    encoder, upsampling = network.image_encoder, network.settings.upsampling
    volume = F.interpolate(patch, scale_factor=upsampling, mode="trilinear", align_corners=False)
    slices = rearrange(volume, "1 1 d h w -> d 1 h w")
    in_plane = torch.cat([encoder.patch_embed(part.expand(-1, 3, -1, -1)) for part in slices.split(16)])
    size = network.settings.vit_patch_size
    joined = torch.einsum("dkhwc,ck->hwdc", in_plane.unflatten(0, (-1, size)), encoder.slice_embed.weight[:, 0, 0, 0])
    return in_plane, (joined + encoder.get_parameter("slice_embed.bias"))[None]


@contextmanager
def _recording(network: Sam3D, record: dict[str, Tensor]) -> Iterator[None]:
    """Collect module outputs while the network runs; window-wise ones are put back on the token grid."""
    handles = []

    def keep(module: nn.Module, name: str, pick: Any = lambda out: out) -> None:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            record[name] = pick(output)

        handles.append(module.register_forward_hook(hook))

    def keep_windows(module: nn.Module, name: str, shift: int) -> None:
        groups: list[Tensor] = []
        count = (network.settings.grid_size // network.settings.window_size) ** 3

        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            groups.append(output)
            if sum(len(group) for group in groups) == count:
                grid = merge_windows(torch.cat(groups), network.settings.window_size, network.settings.grid_size)
                record[name] = grid.roll((shift,) * 3, dims=(1, 2, 3)) if shift else grid
                groups.clear()

        handles.append(module.register_forward_hook(hook))

    encoder, decoder = network.image_encoder, network.mask_decoder
    assert isinstance(decoder, MaskDecoder), "golden cases are of the published network"
    for index, block in enumerate(encoder.blocks):
        keep(block, f"block{index}")
        if index in (0, 1, *network.settings.neck_blocks):
            keep(block.adapter, f"block{index}.adapter")  # type: ignore[arg-type]
            keep_windows(block.norm1, f"block{index}.norm1", block.shift)  # type: ignore[arg-type]
            keep_windows(block.attn, f"block{index}.attn", block.shift)  # type: ignore[arg-type]
    for index, neck in enumerate(encoder.neck_3d):
        keep(neck, f"feat{index}")
    keep(network.prompt_encoder, "prompt")
    for index, layer in enumerate(network.prompt_encoder.transformer.layers):
        keep(layer, f"prompt.image{index}", lambda out: out[0])
        keep(layer.norm3, f"prompt.queries{index}")  # type: ignore[arg-type]
        handles.append(
            layer.register_forward_pre_hook(
                lambda _module, inputs, name=f"prompt.points{index}": record.__setitem__(name, inputs[1])
            )
        )
    for name in ("head2", "head3", "head4", "head5"):
        keep(getattr(decoder.mlahead, name), name)
    handles.append(
        decoder.cls[1].register_forward_pre_hook(lambda _module, inputs: record.__setitem__("cls0", inputs[0]))
    )
    keep(decoder.cls[-1], "logits64")
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _deviation(name: str, tensor: Tensor | None, stored: Mapping[str, NDArray[Any]], filler: Filler) -> float:
    shape = tuple(int(n) for n in stored[f"{name}/shape"])
    if tensor is None or tuple(tensor.shape) != shape:
        return float("inf")
    values = tensor.reshape(-1).numpy()[filler.sample_indices(name, shape)]
    return _largest(values - stored[f"{name}/values"])


def _largest(differences: NDArray[np.float32]) -> float:
    """The largest absolute difference; infinite where one is not a number, for no comparison would notice that."""
    return float(np.nan_to_num(np.abs(differences), nan=np.inf).max())


def _tolerance(name: str) -> float:
    return LATE_TOLERANCE if name.startswith(_LATE_TENSORS) else TOLERANCE
