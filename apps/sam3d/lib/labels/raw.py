"""A label as a browser has it: raw voxels, i fastest, on the image's own grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.errors import LabelError
from lib.images.volumes import Volume

RAW = ".bin"
RAW_TYPES = (np.dtype(np.uint8), np.dtype("<u2"))


def read_raw(label: Path, volume: Volume, image: str) -> NDArray[Any]:
    """The voxels (I, J, K) of a file of 1 or 2 bytes a voxel. LabelError where they are not as many as the volume has;
    `image` is what the sentence calls it."""
    size, voxels = label.stat().st_size, int(np.prod(volume.shape))
    for dtype in RAW_TYPES:
        if size == voxels * dtype.itemsize:
            return np.fromfile(label, dtype).reshape(volume.shape, order="F")
    raise LabelError(
        f"the label has {size} bytes, but image {image} has shape {volume.shape}, which is {voxels} voxels of 1 or 2 "
        "bytes; submit the label on the image's own grid"
    )
