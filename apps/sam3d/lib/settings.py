"""All settings, parsed once at the door into frozen dataclasses.

`Settings.from_conf` is the only way strings become settings; unknown keys are refused with the list of known ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from lib.errors import SettingsError

# Keys that belong to MONAI Label itself: its server, its command line or its sample apps may pass them on.
HOST_KEYS = frozenset(
    {"models", "preload", "server_mode", "trainers", "scoring", "strategies", "heuristic_planner", "studies", "app"}
)
HOST_PREFIXES = ("skip_", "tracking", "auto_update_")

# Names a label may not have: they are keys of a viewer's request, and would hide its clicks (traps T4, T8).
RESERVED_LABELS = frozenset(
    {
        *("label", "labels", "image", "model", "device", "roi", "points", "point_labels", "label_prompt", "label_info"),
        *("foreground", "logging", "client_id", "session_id", "slice", "reset_state", "description", "restore_label_idx"),
        *("result_extension", "result_dtype", "result_compress", "result_write_to_file", "label_tag", "save_label"),
        *("params", "output", "null", "max_epochs", "name", "id", "path"),
    }
)


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
    has_click_maps: bool = False

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
        embed_dim=96,
        depth=4,
        num_heads=3,
        neck_blocks=(0, 1, 2, 3),
        sam_window_size=8,
        sam_grid_size=16,
        adapter_dim=48,
        neck_dim=48,
        head_dim=32,
        prompt_mlp_dim=192,
        prompt_heads=4,
        has_click_maps=True,
    ),
    "vit_b": NetworkSettings(),
    "vit_l": NetworkSettings(
        embed_dim=1024, depth=24, num_heads=16, neck_blocks=(5, 11, 17, 23), adapter_dim=512
    ),
    "vit_h": NetworkSettings(
        embed_dim=1280, depth=32, num_heads=16, neck_blocks=(7, 15, 23, 31), adapter_dim=640
    ),
}


@dataclass(frozen=True)
class Intensity:
    """How raw voxel values become the network's input: clip to [low, high], then (value - mean) / std.

    With `is_percentile`, low and high are percentiles of the volume's own non-air voxels, and mean and std are those of
    the clipped values: for MR, where raw numbers mean nothing by themselves.
    """

    low: float
    high: float
    mean: float
    std: float
    is_percentile: bool = False


# The four tumour sets' constants are the published ones; `ct` and `mr` are ours.
PRESETS: Mapping[str, Intensity] = {
    "ct": Intensity(low=-160.0, high=300.0, mean=50.0, std=100.0),
    "mr": Intensity(low=0.5, high=99.5, mean=0.0, std=1.0, is_percentile=True),
    "kidney": Intensity(low=-54.0, high=247.0, mean=59.53867, std=55.457336),
    "liver": Intensity(low=-48.0, high=163.0, mean=60.057533, std=40.198017),
    "pancreas": Intensity(low=-39.0, high=204.0, mean=68.45214, std=63.422806),
    "colon": Intensity(low=-57.0, high=175.0, mean=65.175035, std=32.651197),
}


@dataclass(frozen=True)
class ClickSettings:
    """How clicks grow into a mask larger, or surer, than one patch gives."""

    max_patches: int = 27
    correction_radius_mm: float = 6.0
    max_clicks: int = 1000


@dataclass(frozen=True)
class Settings:
    """Everything the app was told, and nothing it was not."""

    variant: str = "tiny"
    labels: tuple[str, ...] = ("lesion", "organ")
    network: NetworkSettings = VARIANTS["tiny"]
    preset: str = "ct"
    intensity: Intensity = PRESETS["ct"]
    spacing_mm: float = 1.0
    clicks: ClickSettings = field(default_factory=ClickSettings)
    device: str = "auto"
    checkpoint: Path | None = None
    sam_checkpoint: Path | None = None
    volume_cache_mib: int = 2048
    embedding_cache_mib: int = 2048
