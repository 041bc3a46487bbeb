"""All settings, parsed once at the door into frozen dataclasses.

`Settings.from_conf` is the only way strings become settings; unknown keys are refused with the list of known ones.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from lib.errors import SettingsError

# Where main.py and the committed weights are.
APP = Path(__file__).resolve().parents[1]

# Keys that MONAI Label itself reads from --conf, or that its sample apps made customary: no business of ours.
HOST_KEYS = frozenset(
    {
        *("models", "bundles", "preload", "server_mode", "auth_token", "zoo_repo", "zoo_source"),
        *("trainers", "scoring", "strategies", "heuristic_planner", "studies", "app"),
    }
)
HOST_PREFIXES = ("skip_", "tracking", "auto_update_", "epistemic_")

# What can stand behind the name `random`: chance, the order of names, or a strategy of lib.scoring.
STRATEGIES = ("random", "first", "diversity", "uncertainty", "hybrid")

# Which labels count for training: all but those that a reviewer sent back, or those that one approved.
SUBMITTED, REVIEWED = "submitted", "reviewed"

# Names a label may not have: they are keys of a viewer's request, and would hide its clicks (traps T4, T8).
RESERVED_LABELS = frozenset(
    {
        *("label", "labels", "image", "model", "device", "roi", "points", "point_labels", "label_prompt"),
        *("label_info", "foreground", "logging", "client_id", "session_id", "session", "slice", "reset_state"),
        *("description", "restore_label_idx", "label_tag", "save_label", "params", "output", "null", "timeout"),
        *("max_epochs", "name", "id", "path", "images"),
    }
)
RESERVED_LABEL_PREFIX = "result_"
# The one name that is not a label and yet a row in the viewers: clicks on it belong to no label.
BACKGROUND = "background"
# A mask is uint8, and 255 is kept out of it because OHIF gives that value a meaning of its own.
MAX_LABELS = 254
MAX_LABEL_LENGTH = 64

HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]")
ORIGIN = re.compile(rf"https?://({HOST.pattern})(:[0-9]{{1,5}})?")


@dataclass(frozen=True)
class NetworkSettings:
    """Every size of the network. The defaults are SAM ViT-B made volumetric (arXiv 2306.13465).

    The volume patch is a cube of `patch_size` voxels; it is up-sampled by `upsampling` and cut in cubes of
    `vit_patch_size`, so the token grid has patch_size * upsampling / vit_patch_size tokens a side.
    """

    patch_size: int = 128
    upsampling: int = 4
    vit_patch_size: int = 16
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    neck_blocks: tuple[int, ...] = (2, 5, 8, 11)
    window_size: int = 8
    sam_window_size: int = 14
    sam_grid_size: int = 64
    adapter_dim: int = 384
    neck_dim: int = 256
    head_dim: int = 128
    prompt_mlp_dim: int = 2048
    prompt_heads: int = 8
    num_queries: int = 10
    # The published decoder never sees where a click is; networks of our own may (docs/decisions/0002).
    # Channels of their decoder's four levels, fine to coarse; none: the published decoder.
    click_unet: tuple[int, ...] = ()

    @property
    def has_click_maps(self) -> bool:
        return bool(self.click_unet)

    @property
    def has_prior(self) -> bool:
        """Whether the network reads the mask so far: the decoder of our own does."""
        return bool(self.click_unet)

    @property
    def grid_size(self) -> int:
        """Tokens along one side of the patch."""
        return self.patch_size * self.upsampling // self.vit_patch_size

    @property
    def token_stride(self) -> int:
        """Patch voxels along one side of a token."""
        return self.vit_patch_size // self.upsampling

    def rel_pos_rows(self, block: int) -> int:
        """Rows of a block's relative position tables: SAM's global blocks keep the longer ones."""
        reach = self.sam_grid_size if block in self.neck_blocks else self.sam_window_size
        return 2 * reach - 1


VARIANTS: Mapping[str, NetworkSettings] = {
    "tiny": NetworkSettings(
        patch_size=64,
        embed_dim=64,
        depth=4,
        num_heads=2,
        neck_blocks=(0, 1, 2, 3),
        window_size=4,
        sam_window_size=4,
        sam_grid_size=16,
        adapter_dim=32,
        neck_dim=32,
        head_dim=32,
        prompt_mlp_dim=128,
        prompt_heads=4,
        click_unet=(24, 48, 96, 128),
    ),
    "vit_b": NetworkSettings(),
    "vit_l": NetworkSettings(embed_dim=1024, depth=24, num_heads=16, neck_blocks=(5, 11, 17, 23), adapter_dim=512),
    "vit_h": NetworkSettings(embed_dim=1280, depth=32, num_heads=16, neck_blocks=(7, 15, 23, 31), adapter_dim=640),
}


@dataclass(frozen=True)
class Intensity:
    """How raw voxel values become the network's input: clip to [low, high], then (value - mean) / std.

    With `is_percentile`, low and high are percentiles of the volume's own non-air voxels, and mean and std are those of
    the clipped values: for MR, where raw numbers mean nothing by themselves. With `is_open` these percentiles serve
    mean and std alone and hardly anything is clipped, so that a small object brighter than all else keeps its values.
    """

    low: float
    high: float
    mean: float
    std: float
    is_percentile: bool = False
    is_open: bool = False


# The four tumour sets' constants are the published ones; the others are ours.
PRESETS: Mapping[str, Intensity] = {
    "ct": Intensity(low=-160.0, high=300.0, mean=50.0, std=100.0),
    "mr": Intensity(low=0.5, high=99.5, mean=0.0, std=1.0, is_percentile=True),
    "any": Intensity(low=0.5, high=99.5, mean=0.0, std=1.0, is_percentile=True, is_open=True),
    "kidney": Intensity(low=-54.0, high=247.0, mean=59.53867, std=55.457336),
    "liver": Intensity(low=-48.0, high=163.0, mean=60.057533, std=40.198017),
    "pancreas": Intensity(low=-39.0, high=204.0, mean=68.45214, std=63.422806),
    "colon": Intensity(low=-57.0, high=175.0, mean=65.175035, std=32.651197),
}


PRECISIONS = dict.fromkeys(("auto", "fp32", "bf16"))


@dataclass(frozen=True)
class ClickSettings:
    """How clicks grow into a mask larger, or surer, than one patch gives."""

    max_patches: int = 64
    correction_radius_mm: float = 6.0
    max_clicks: int = 1000


@dataclass(frozen=True)
class ServingSettings:
    """How many are served at once, and for how long a case is theirs."""

    max_requests: int = 16
    max_upload_mib: int = 1024
    lease_s: int = 1800
    # Who may ask, beside this server's own pages under its own names.
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    # Without a login other machines are refused, unless this says that they need none.
    allow_anonymous: bool = False
    access_token_file: Path | None = None
    # For an OpenID provider that wants one of the server, beside PKCE.
    openid_secret_file: Path | None = None
    # None: audit.jsonl in the model folder.
    audit_log: Path | None = None


@dataclass(frozen=True)
class ScoringSettings:
    """How the next case is chosen, and what may be spent on that while nobody clicks."""

    # What the name `random` answers, which is all that OHIF can ask for.
    next_sample: str = "hybrid"
    # Of the time, and of an image's size in memory; no share switches scoring off.
    score_share: float = 0.25
    score_memory_mib: int = 1024


@dataclass(frozen=True)
class ClusterSettings:
    """Other machines that work for this one: a scheduler's address, and the PEM files that prove who one is."""

    # Empty: all work is done here.
    cluster: str = ""
    cluster_ca: Path | None = None
    cluster_cert: Path | None = None
    cluster_key: Path | None = None
    # How long work waits for machines that went away, before it goes on here.
    cluster_wait_s: float = 30.0


@dataclass(frozen=True)
class TrainingSettings:
    """How annotated cases become a new version of the weights, and when it may be served."""

    max_epochs: int = 10
    steps_per_epoch: int = 10
    train_batch_size: int = 2
    # None: 4e-4 as published, and 5e-4 for the tiny variant, which was trained with four times that.
    learning_rate: float | None = None
    click_rounds: int = 2
    train_seed: int = 0
    multi_gpu: bool = True
    train_on: str = SUBMITTED
    # What mean Dice a version must gain to be served, and the most that a single label may lose.
    publish_margin: float = 0.01
    max_label_drop: float = 0.05
    # False: labels that look poisoned (docs/decisions/0010) stop a version from being served.
    trust_labels: bool = False
    versions_kept: int = 5
    store_half: bool = False
    case_cache_mib: int = 4096


@dataclass(frozen=True)
class Settings:
    """Everything the app was told, and nothing it was not.

    A label's value in a mask is its position in `labels`, counted from 1. The order is the one OHIF shows labels in,
    so that the number of a segment on its screen is the number in the file.
    """

    variant: str = "tiny"
    labels: tuple[str, ...] = ("lesion", "organ")
    # True if the user named "background" as well: the viewers then list it, last, as a row for negative clicks.
    lists_background: bool = False
    network: NetworkSettings = VARIANTS["tiny"]
    # None: as the weights were trained (their card says how); checkpoints without a card get `ct` at 1 mm.
    intensity: Intensity | None = None
    spacing_mm: float | None = None
    clicks: ClickSettings = field(default_factory=ClickSettings)
    serving: ServingSettings = field(default_factory=ServingSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    scoring: ScoringSettings = field(default_factory=ScoringSettings)
    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    # Where trained versions and what belongs to a run are kept.
    model_folder: Path = APP / "model"
    # False: MONAI Label's OHIF and its way to the images stay as they are (lib/viewer).
    viewer_fixes: bool = True
    device: str = "auto"
    # auto: bf16 where the device computes in it.
    precision: str = "auto"
    checkpoint: Path | None = None
    sam_checkpoint: Path | None = None
    volume_cache_mib: int = 2048
    embedding_cache_mib: int = 2048
    # 0: none are kept on disk.
    embedding_disk_mib: int = 0

    @classmethod
    def from_conf(cls, conf: Mapping[str, object]) -> Settings:
        """Settings from the pairs of `--conf KEY VALUE`; SettingsError names the key, the value and what would do."""
        texts = {key: str(value).strip() for key, value in conf.items() if not _is_host_key(key)}
        unknown = sorted(texts.keys() - CONF_KEYS.keys())
        if unknown:
            raise SettingsError(f"unknown settings {unknown}: the known ones are {sorted(CONF_KEYS)}")
        values = {key: CONF_KEYS[key].parse(key, text) for key, text in texts.items()}

        variant = values.pop("variant", None) or _usual_variant(values)
        if values.get("allow_anonymous") and values.get("access_token_file"):
            raise SettingsError("allow_anonymous is true and access_token_file names a login: choose one of the two")
        labels, lists_background = values.pop("labels", (cls.labels, False))
        return cls(
            variant=variant,
            network=VARIANTS[variant],
            labels=labels,
            lists_background=lists_background,
            intensity=_intensity(_take(values, "preset", "clip_low", "clip_high", "mean", "std")),
            clicks=ClickSettings(**_take(values, "max_patches", "correction_radius_mm", "max_clicks")),
            serving=ServingSettings(**_take(values, *(f.name for f in fields(ServingSettings)))),
            scoring=ScoringSettings(**_take(values, *(f.name for f in fields(ScoringSettings)))),
            cluster=ClusterSettings(**_take(values, *(f.name for f in fields(ClusterSettings)))),
            training=TrainingSettings(**_take(values, *(f.name for f in fields(TrainingSettings)))),
            **values,
        )


@dataclass(frozen=True)
class ConfKey:
    """One key of `--conf`: how its text is read, and a line of help."""

    parse: Callable[[str, str], Any]
    help: str


def parse_labels(key: str, text: str) -> tuple[tuple[str, ...], bool]:
    """Label names from `a,b,c`, in the viewers' order, and whether `background` was named among them."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        _check_label(key, name, text)
    doubles = sorted({name for name in names if names.count(name) > 1})
    if doubles:
        raise SettingsError(f"{key} names {doubles} more than once in {text!r}: name each label once")
    labels = sorted((name for name in names if name != BACKGROUND), key=_viewer_order)
    if not labels:
        raise SettingsError(f"{key} is {text!r}, which names no label: name at least one beside {BACKGROUND!r}")
    if len(labels) > MAX_LABELS:
        raise SettingsError(f"{key} names {len(labels)} labels: a mask has room for {MAX_LABELS}")
    return tuple(labels), BACKGROUND in names


def _check_label(key: str, name: str, text: str) -> None:
    if not name:
        raise SettingsError(f"{key} holds an empty name in {text!r}: write names as in pancreas,tumour")
    if len(name) > MAX_LABEL_LENGTH or not name.isprintable():
        raise SettingsError(f"{key} holds {name[:80]!r}: a name has at most {MAX_LABEL_LENGTH} printable characters")
    if name in RESERVED_LABELS or name.startswith(RESERVED_LABEL_PREFIX):
        raise SettingsError(f"{key} holds {name!r}, which viewers use as a key of their requests: choose another name")
    if name.isdecimal():
        raise SettingsError(f"{key} holds {name!r}, which reads as a segment's number: choose a name with a letter")


def _viewer_order(name: str) -> bytes:
    """OHIF sorts names by their UTF-16 units, which differs from Python's order beyond the basic plane only."""
    return name.encode("utf-16-be", errors="surrogatepass")


def _is_host_key(key: str) -> bool:
    return key in HOST_KEYS or key.startswith(HOST_PREFIXES)


def _take(values: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: values.pop(key) for key in keys if key in values}


def _usual_variant(values: Mapping[str, Any]) -> str:
    """The variant of unnamed size: the demo model's, or the one that weights named without a variant are made for."""
    weights = values.get("sam_checkpoint") or values.get("checkpoint")
    if weights is None:
        return Settings.variant
    named = [variant for variant in VARIANTS if variant in weights.name]
    return named[0] if named else "vit_b"


def _intensity(values: dict[str, Any]) -> Intensity | None:
    """The named preset with own values in place of its own; None when nothing was named."""
    if not values:
        return None
    preset = values.pop("preset", "ct")
    own: Mapping[str, float] = values
    names = {"clip_low": "low", "clip_high": "high"}
    changes: dict[str, Any] = {names.get(key, key): value for key, value in own.items()}
    intensity = replace(PRESETS[preset], **changes)
    if intensity.is_percentile and {"mean", "std"} & own.keys():
        raise SettingsError(f"preset {preset} measures mean and std on each volume: drop them, or choose preset ct")
    if intensity.is_percentile and not 0 <= intensity.low < intensity.high <= 100:
        raise SettingsError(
            f"with preset {preset} clip_low and clip_high are percentiles, 0 to 100 and rising: "
            f"they are {intensity.low} and {intensity.high}"
        )
    if intensity.low >= intensity.high:
        raise SettingsError(f"clip_low {intensity.low} must lie below clip_high {intensity.high}")
    return intensity


def _one_of(choices: Mapping[str, object]) -> Callable[[str, str], str]:
    def parse(key: str, text: str) -> str:
        if text not in choices:
            raise SettingsError(f"{key} is {text!r}: it must be one of {sorted(choices)}")
        return text

    return parse


def _number(low: float = -math.inf, high: float = math.inf) -> Callable[[str, str], float]:
    def parse(key: str, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise SettingsError(f"{key} is {text!r}: it must be a number") from None
        if not math.isfinite(value) or not low <= value <= high:
            raise SettingsError(f"{key} is {text!r}: it must be a number from {low:g} to {high:g}")
        return value

    return parse


def _whole(low: int, high: int) -> Callable[[str, str], int]:
    def parse(key: str, text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise SettingsError(f"{key} is {text!r}: it must be a whole number from {low} to {high}")
        return int(text)

    return parse


def _flag(key: str, text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise SettingsError(f"{key} is {text!r}: it must be true or false")
    return text.lower() == "true"


def _device(key: str, text: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", text):
        raise SettingsError(f"{key} is {text!r}: it must be auto, cpu, cuda or cuda:N")
    return text


def _hosts(key: str, text: str) -> tuple[str, ...]:
    hosts = tuple(host.strip().lower() for host in text.split(","))
    for host in hosts:
        if not HOST.fullmatch(host):
            raise SettingsError(f"{key} holds {host[:80]!r}: write names as in label.example.org,10.0.0.7")
    return hosts


def _origins(key: str, text: str) -> tuple[str, ...]:
    origins = tuple(origin.strip().lower() for origin in text.split(","))
    for origin in origins:
        if not ORIGIN.fullmatch(origin):
            raise SettingsError(f"{key} holds {origin[:80]!r}: write origins as in https://viewer.example.org:8443")
    return origins


def _text(key: str, text: str) -> str:
    if not text:
        raise SettingsError(f"{key} is empty: give a value, or leave {key} away")
    return text


def _path(key: str, text: str) -> Path:
    if not text:
        raise SettingsError(f"{key} is empty: give the path, or leave {key} away")
    return Path(text).expanduser().absolute()


CONF_KEYS: Mapping[str, ConfKey] = {
    "variant": ConfKey(_one_of(VARIANTS), "size of the network; tiny unless weights are named"),
    "labels": ConfKey(parse_labels, "names of the labels, with commas between; lesion,organ unless named"),
    "preset": ConfKey(_one_of(PRESETS), "how voxel values are normalised; as the weights were trained unless named"),
    "clip_low": ConfKey(_number(), "own lower clip value in place of the preset's"),
    "clip_high": ConfKey(_number(), "own upper clip value in place of the preset's"),
    "mean": ConfKey(_number(), "own mean in place of the preset's"),
    "std": ConfKey(_number(low=1e-6, high=1e9), "own standard deviation in place of the preset's"),
    "spacing_mm": ConfKey(_number(low=0.1, high=10.0), "millimetres between the samples of a patch"),
    "max_patches": ConfKey(_whole(1, 1000), "most patches that one label may grow over, with weights of one spacing"),
    "correction_radius_mm": ConfKey(_number(low=0.5, high=50.0), "how far a disputed click may change the mask"),
    "max_clicks": ConfKey(_whole(1, 100_000), "most clicks that one request may hold"),
    "max_requests": ConfKey(_whole(1, 1000), "most requests for masks that are answered or wait; more get status 429"),
    "max_upload_mib": ConfKey(_whole(1, 1_000_000), "longest request with an image or a label, all of it counted"),
    "lease_s": ConfKey(_whole(1, 1_000_000), "seconds after a click for which Next Sample keeps a case from others"),
    "allowed_hosts": ConfKey(_hosts, "further names, with commas between, by which this server is asked"),
    "allowed_origins": ConfKey(_origins, "further pages, as in https://viewer.example.org, that may ask this server"),
    "allow_anonymous": ConfKey(_flag, "true: answer other machines without a login"),
    "access_token_file": ConfKey(_path, "file with one secret: a bearer token, and the word to log in with"),
    "openid_secret_file": ConfKey(_path, "file with the client secret, if the OpenID provider gave this server one"),
    "audit_log": ConfKey(_path, "file for who read and stored what; audit.jsonl in model_folder unless named"),
    "next_sample": ConfKey(
        _one_of(dict.fromkeys(STRATEGIES)),
        "what Next Sample gives: hybrid, diversity, uncertainty, first or random",
    ),
    "score_share": ConfKey(_number(low=0.0, high=1.0), "share of the time spent on scores for Next Sample; 0: none"),
    "score_memory_mib": ConfKey(_whole(16, 1_000_000), "memory for an image while it is scored; larger ones are not"),
    "cluster": ConfKey(
        _text, "scheduler of workers, as tls://host:8786, for scores, drafts and trainings; none: this machine does all"
    ),
    "cluster_ca": ConfKey(_path, "PEM file of the authority that all certificates of the cluster are from"),
    "cluster_cert": ConfKey(_path, "PEM file of this machine's certificate in the cluster"),
    "cluster_key": ConfKey(_path, "PEM file of the key to that certificate"),
    "cluster_wait_s": ConfKey(
        _number(low=0.0, high=86_400.0), "seconds to wait for a cluster that is away, before work goes on here"
    ),
    "viewer_fixes": ConfKey(_flag, "false: serve OHIF as MONAI Label ships it, without our page script"),
    "device": ConfKey(_device, "auto, cpu, cuda or cuda:N"),
    "precision": ConfKey(
        _one_of(PRECISIONS), "auto, fp32 or bf16: what clicks are computed in; auto is bf16 where it is fast"
    ),
    "checkpoint": ConfKey(_path, "weights of ours or published 3DSAM-adapter weights"),
    "sam_checkpoint": ConfKey(_path, "SAM's own 2D weights, to train from"),
    "volume_cache_mib": ConfKey(_whole(16, 1_000_000), "memory for opened volumes"),
    "embedding_cache_mib": ConfKey(_whole(0, 1_000_000), "memory for patches already encoded"),
    "embedding_disk_mib": ConfKey(_whole(0, 10_000_000), "disk space, in model_folder, for patches already encoded"),
    "model_folder": ConfKey(_path, "where trained versions are kept; model, beside main.py, unless named"),
    "max_epochs": ConfKey(_whole(1, 10_000), "epochs of a training run"),
    "steps_per_epoch": ConfKey(_whole(1, 10_000), "optimiser steps of an epoch"),
    "train_batch_size": ConfKey(_whole(1, 256), "patches that one step learns from"),
    "learning_rate": ConfKey(_number(low=1e-8, high=1.0), "largest step size; chosen by variant unless named"),
    "click_rounds": ConfKey(_whole(1, 20), "simulated clicks on each training patch, for published weights"),
    "train_seed": ConfKey(_whole(0, 999_999_999), "the same seed and cases give the same run"),
    "train_on": ConfKey(
        _one_of(dict.fromkeys((SUBMITTED, REVIEWED))),
        "submitted: all labels but those sent back; reviewed: those that a reviewer approved",
    ),
    "multi_gpu": ConfKey(_flag, "true: train on all GPUs of the machine"),
    "publish_margin": ConfKey(_number(low=0.0, high=1.0), "mean Dice by which a new version must be better"),
    "max_label_drop": ConfKey(_number(low=0.0, high=1.0), "mean Dice that a new version may cost one label"),
    "trust_labels": ConfKey(_flag, "true: train on labels even if they look unrelated to their images"),
    "versions_kept": ConfKey(_whole(2, 1000), "trained versions to keep for going back"),
    "store_half": ConfKey(_flag, "true: store versions in half precision, at half the size"),
    "case_cache_mib": ConfKey(_whole(16, 10_000_000), "disk space for cases prepared for training"),
}
