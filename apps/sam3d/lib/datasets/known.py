"""The four tumour sets of the published experiments, and any other folder of images and labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# (training, validation, test) cases of the published fold 0.
Counts = tuple[int, int, int]


@dataclass(frozen=True)
class KnownDataset:
    """What is known of a set before its files are read.

    `axes` are the array axes of (d, h, w) as published, which read files without regard to their orientation; None: by
    the file's own orientation, as a click sees it. `preset` names how voxels are normalised; None: measured.
    """

    name: str
    title: str
    target: int = 1
    value_names: Mapping[int, str] = field(default_factory=dict)
    axes: tuple[int, int, int] | None = None
    preset: str | None = None
    # Whether augmentation turns and zooms within slices only.
    is_in_plane: bool = False
    published_counts: Counts | None = None


FOLDER = "folder"
DATASETS: Mapping[str, KnownDataset] = {
    each.name: each
    for each in (
        KnownDataset(
            *("kits", "Kidney Tumor", 2, {1: "kidney", 2: "tumour", 3: "cyst"}, (0, 1, 2), "kidney", False),
            published_counts=(209, 30, 61),
        ),
        KnownDataset(
            *("pancreas", "Pancreas Tumor", 2, {1: "pancreas", 2: "tumour"}, (2, 1, 0), "pancreas", True),
            published_counts=(196, 28, 57),
        ),
        KnownDataset(
            *("lits", "Liver Tumor", 2, {1: "liver", 2: "tumour"}, (2, 1, 0), "liver", False),
            published_counts=(83, 11, 24),
        ),
        KnownDataset(
            *("colon", "Colon Cancer", 1, {1: "tumour"}, (2, 1, 0), "colon", True),
            published_counts=(89, 11, 26),
        ),
        KnownDataset(FOLDER, "own data"),
    )
}
