"""Weights cross the border with papers: what was loaded, resized, left fresh or not used is always said.

Three formats come in: a 2D SAM checkpoint, a published 3DSAM-adapter checkpoint, and our own (safetensors beside a JSON
card). Only our own goes out. Pickled code is never run: everything is loaded with `weights_only=True` or by
safetensors.
"""

from __future__ import annotations

import errno
import json
import os
import pickle
import struct
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor
from torch.nn import functional as F

from lib.errors import WeightsError
from lib.network.build import build_sam3d
from lib.network.sam3d import Sam3D
from lib.settings import VARIANTS, Intensity, NetworkSettings

CARD_FORMAT = 1
# Our component names, and those of the published checkpoints (and of the golden cases).
PUBLISHED_COMPONENTS = {"image_encoder": "encoder", "prompt_encoder": "prompt_encoder", "mask_decoder": "decoder"}
# Stored by the published code but without any influence on its answers.
_UNUSED_PUBLISHED = ("attn_mask", "cross_attn_token_to_image", "positional_encoding_gaussian_matrix")
# Ours alone: they start at zero, which leaves a published network's answers unchanged.
_OURS = ("prompt_encoder.background_embedding", "prompt_encoder.click_proj.weight")
# SAM's parts that the volumetric network has its own in place of.
_UNUSED_SAM = ("image_encoder.neck.", "prompt_encoder.", "mask_decoder.")
# What torch.load raises for bytes that are no checkpoint, or not all of one.
_DAMAGE = (
    *(pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, struct.error),
    *(AttributeError, TypeError, AssertionError, OverflowError, MemoryError),
)


@dataclass(frozen=True)
class LoadReport:
    """Names of parameters: copied as they are, copied after a change of size, left as initialised; and of stored
    tensors that have no place in the network."""

    loaded: tuple[str, ...]
    resized: tuple[str, ...]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        counts = {name: len(names) for name, names in vars(self).items()}
        return ", ".join(f"{count} {name}" for name, count in counts.items())


@dataclass(frozen=True)
class Card:
    """What weights are, in words and numbers; stored as JSON beside them."""

    variant: str
    network: NetworkSettings
    intensity: Intensity
    spacing_mm: float
    # Whether patches coarser than the voxels average them (ours) or pick single ones (the published recipe).
    has_antialiasing: bool = True
    version: str = "1"
    is_trained: bool = False
    has_background_clicks: bool = False
    has_automatic_mode: bool = False
    licence: str = "Apache-2.0"
    description: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    parent_sha256: str | None = None
    sha256: str = ""

    def as_json(self) -> dict[str, Any]:
        return {"format": CARD_FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], source: str) -> Card:
        """Raises WeightsError when the card is of another format or lacks something."""
        found = values.get("format") if isinstance(values, Mapping) else values
        if found != CARD_FORMAT:
            raise WeightsError(f"{source} has card format {str(found)[:40]!r}; this version reads {CARD_FORMAT}")
        try:
            known = {f.name: values[f.name] for f in fields(cls) if f.name in values}
            network = {**known.pop("network")}
            for name in ("neck_blocks", "click_unet"):
                if name in network:
                    network[name] = tuple(int(value) for value in network[name])
            card = cls(
                network=NetworkSettings(**network),
                intensity=Intensity(**known.pop("intensity")),
                **known,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"{source} is not a complete model card: {error}") from error
        for part in (card, card.network, card.intensity):
            _check_kinds(part, source)
        return card


def _check_kinds(part: Card | NetworkSettings | Intensity, source: str) -> None:
    """Numbers must be numbers, flags flags and names text, or a network would be built of nonsense."""
    kinds: dict[str, type | tuple[type, ...]] = {"int": int, "float": (int, float), "bool": bool, "str": str}
    for name, kind in ((f.name, kinds.get(str(f.type))) for f in fields(part)):
        value = getattr(part, name)
        if kind is None:
            continue
        is_negative = isinstance(value, int) and value < 0 and kind is int
        if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool) or is_negative:
            raise WeightsError(f"{source} says {name} is {str(value)[:40]!r}, which it cannot be: fetch the card again")


def published_name(name: str) -> str:
    """The published checkpoints' name of one of our parameters, its component as prefix."""
    component, rest = name.split(".", 1)
    return f"{PUBLISHED_COMPONENTS[component]}.{rest}"


def load_sam_checkpoint(network: Sam3D, path: Path) -> LoadReport:
    """SAM's 2D image encoder into ours; then each depth table starts as the mean of its block's two in-plane ones.

    Raises WeightsError when a tensor of SAM's is missing or has a shape that no resampling mends.
    """
    stored = _tensors(_load_pickle(path), path)
    groups = network.parameter_groups()
    ours = {name for names in groups.values() for name in names} | {
        name for name in network.state_dict() if name.endswith("attn.lr")
    }
    report = _fill(network, stored, path, may_be_fresh=ours, may_be_unused=_UNUSED_SAM)
    with torch.no_grad():
        for block in network.image_encoder.blocks:
            attention = block.attn
            attention.rel_pos_d.copy_(0.5 * (attention.rel_pos_h + attention.rel_pos_w))  # type: ignore[union-attr, operator]
    return report


def load_published_checkpoint(network: Sam3D, path: Path) -> LoadReport:
    """A published 3DSAM-adapter checkpoint: `encoder_dict`, `decoder_dict` and a list of prompt encoders, whose last
    one is the one in use. Raises WeightsError when parts are missing or do not fit."""
    content = _load_pickle(path)
    missing = {"encoder_dict", "decoder_dict", "feature_dict"} - set(content)
    if missing:
        raise WeightsError(
            f"{path.name} is neither ours (.safetensors) nor a published 3DSAM-adapter checkpoint, for it lacks "
            f"{sorted(missing)}: SAM's own weights are named with --conf sam_checkpoint"
        )
    prompt_encoders = content["feature_dict"]
    if not isinstance(prompt_encoders, list) or not prompt_encoders:
        raise WeightsError(f"{path.name} holds no list of prompt encoders under feature_dict")
    parts = {
        "image_encoder": content["encoder_dict"],
        "prompt_encoder": prompt_encoders[-1],
        "mask_decoder": content["decoder_dict"],
    }
    stored = {f"{part}.{key}": value for part, state in parts.items() for key, value in _tensors(state, path).items()}
    return _fill(network, stored, path, may_be_fresh=set(_OURS), may_be_unused=_UNUSED_PUBLISHED)


def save_weights(network: Sam3D, card: Card, path: Path) -> Card:
    """Write `path` (.safetensors) and its card, each whole or not at all, the card last; returns the card with its
    hash."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    data = save_safetensors(state)
    card = replace(card, sha256=sha256(data).hexdigest())
    write_atomically(path, data)
    write_atomically(card_path(path), (json.dumps(card.as_json(), indent=1, ensure_ascii=False) + "\n").encode())
    return card


def load_weights(path: Path) -> tuple[Sam3D, Card]:
    """A network as it was saved, with its card. Raises WeightsError when either file is missing, damaged or does not
    belong to the other."""
    card = read_card(path)
    data = _read(path)
    digest = sha256(data).hexdigest()
    if digest != card.sha256:
        raise WeightsError(f"{path.name} has sha256 {digest[:12]}, its card says {card.sha256[:12]}: fetch both again")
    try:
        state = load_safetensors(data)
    except SafetensorError as error:
        raise WeightsError(f"{path.name} is not a readable safetensors file: {error}") from error
    network = build_sam3d(card.network)
    _fill(network, state, path, may_be_fresh=set(), may_be_unused=())
    return network, card


def read_card(path: Path) -> Card:
    """The card beside a weights file."""
    beside = card_path(path)
    try:
        values = json.loads(_read(beside))
    except ValueError as error:
        raise WeightsError(f"{beside.name} is not JSON: {error}") from error
    return Card.from_json(values, beside.name)


def card_path(path: Path) -> Path:
    return path.with_suffix(".json")


def sync_folder(folder: Path) -> None:
    """Let the names of a folder survive a loss of power, too, where its file system can promise that."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def write_atomically(path: Path, data: bytes) -> None:
    """All of `data` at `path`, or what was there before; survives a kill or a full disk at any moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path.name} cannot be read: {error.strerror or error}") from error


def _load_pickle(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsError(f"{path.name} cannot be read: {error.strerror or error}") from error
    except _DAMAGE as error:
        if "global" in str(error).lower():  # torch's word for a name of something that could be called
            raise WeightsError(
                f"{path.name} holds more than tensors and was not opened, for loading it could run code: "
                "ask its authors for a plain state dict"
            ) from error
        raise WeightsError(f"{path.name} is damaged or no PyTorch checkpoint: fetch it again") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path.name} holds a {type(content).__name__}, not a state dict")
    return content


def _tensors(state: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"{path.name} does not hold a state dict of tensors where one was expected")
    return dict(state)


def _fill(
    network: Sam3D, stored: Mapping[str, Tensor], path: Path, may_be_fresh: set[str], may_be_unused: Iterable[str]
) -> LoadReport:
    """Copy stored tensors into the network by name; any gap that was not announced is an error, and changes nothing."""
    own = network.state_dict()
    allowed = tuple(may_be_unused)
    fresh = sorted(set(own) - set(stored))
    unused = sorted(set(stored) - set(own))
    if other := _other_variant(stored, network.settings):
        raise WeightsError(f"{path.name} was made for variant {other}: name it with --conf variant {other}")
    if gaps := sorted(set(fresh) - may_be_fresh):
        raise WeightsError(f"{path.name} does not fit this network: not found in it {_some(gaps)}")
    if strangers := [name for name in unused if not any(part in name for part in allowed)]:
        raise WeightsError(f"{path.name} does not fit this network: no place for {_some(strangers)}")
    resized = sorted(name for name in own if name in stored and stored[name].shape != own[name].shape)
    fitted = {name: _fitted(name, stored[name], own[name].shape, path) for name in own if name in stored}
    if broken := sorted(name for name, tensor in fitted.items() if not tensor.isfinite().all()):
        raise WeightsError(f"{path.name} holds values that are not finite, in {_some(broken)}")
    network.load_state_dict(fitted, strict=False)
    loaded = sorted(set(fitted) - set(resized))
    return LoadReport(tuple(loaded), tuple(resized), tuple(fresh), tuple(unused))


def _other_variant(stored: Mapping[str, Tensor], settings: NetworkSettings) -> str | None:
    """The variant whose width and depth the stored encoder has, where the network has others."""
    positions = stored.get("image_encoder.pos_embed")
    if positions is None or positions.ndim != 4:
        return None
    depth = sum(name.startswith("image_encoder.blocks.") and name.endswith(".norm1.weight") for name in stored)
    sizes = (positions.shape[-1], depth)
    if sizes == (settings.embed_dim, settings.depth):
        return None
    return next((name for name, other in VARIANTS.items() if (other.embed_dim, other.depth) == sizes), None)


def _fitted(name: str, tensor: Tensor, shape: torch.Size, path: Path) -> Tensor:
    """The tensor at another size, where resampling means something: positions are, weights are not."""
    if tensor.shape == shape:
        return tensor
    if name.endswith("pos_embed") and tensor.ndim == 4 and tensor.shape[-1] == shape[-1]:
        resampled = F.interpolate(tensor.movedim(-1, 1), size=shape[1:3], mode="bilinear", antialias=True)
        return resampled.movedim(1, -1)
    if ".rel_pos_" in name and tensor.ndim == 2 and tensor.shape[-1] == shape[-1]:
        return F.interpolate(tensor.T[None], size=shape[0], mode="linear")[0].T
    raise WeightsError(
        f"{path.name} does not fit this network: {name} is {tuple(tensor.shape)}, expected {tuple(shape)}; "
        "name the variant it was made for with --conf variant"
    )


def _some(names: list[str]) -> str:
    return str(names[:5]) if len(names) <= 5 else f"{names[:5]} and {len(names) - 5} more"
