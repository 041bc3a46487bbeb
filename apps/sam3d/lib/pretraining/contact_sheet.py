"""A picture of many training patches, to see at a glance what the network is taught with.

Rows of scenes made in voxels and rows of views of whole phantoms take turns.

`python -m lib.pretraining.contact_sheet docs/images/synthesis.png` from a checkout with apps/sam3d on the path.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from lib.pretraining.phantom_views import phantom_view
from lib.synthesis.patches import Mask, training_patch, training_rng

OUTLINE = (255, 176, 0)
ZOOMS_MM = (1.0, 2.0, 4.0)


def contact_sheet(path: Path, seed: int = 0, rows: int = 7, columns: int = 12, size: int = 64) -> None:
    """Write rows x columns tiles as a PNG: the slice of each patch with most target in it, outlined."""
    rng, gap = training_rng(seed), 3
    sheet = np.zeros((rows * (size + gap), columns * (size + gap), 3), np.uint8)
    for index in range(rows * columns):
        row, column = (part * (size + gap) for part in divmod(index, columns))
        is_view = index // columns % 2
        patch, target = phantom_view(rng, size, ZOOMS_MM) if is_view else training_patch(rng, size)
        sheet[row : row + size, column : column + size] = _tile(patch, target)
    picture = Image.fromarray(sheet).quantize(96)
    picture.save(path, optimize=True)


def _tile(image: NDArray[np.float32], target: Mask) -> NDArray[np.uint8]:
    """One slice in grey, upside up, its target's border in colour."""
    depth = int(target.sum(axis=(1, 2)).argmax())
    grey = np.clip((image[depth] + 2.1) / 4.6 * 255, 0, 255).astype(np.uint8)
    tile = np.repeat(grey[..., None], 3, axis=2)
    mask = target[depth]
    tile[ndimage.binary_dilation(mask) & ~mask] = OUTLINE
    return tile[::-1]


if __name__ == "__main__":
    contact_sheet(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
