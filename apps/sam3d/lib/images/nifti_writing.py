"""NIfTI files that every reader puts at one place."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Axes that lean less than this from right angles, at unit length, lean by the rounding of slices' positions: written in
# both forms, the file opens in 3D Slicer, which takes them for upright.
RIGHT_ANGLE = 5e-3


def nifti_bytes(array: NDArray[Any], affine: Floats, is_packed: bool) -> bytes:
    """An array (I, J, K) with its affine to RAS mm, as one file."""
    content: bytes = nifti_image(array, affine).to_bytes()
    return gzip.compress(content, compresslevel=1, mtime=0) if is_packed else content


def save_nifti(path: Path, array: NDArray[Any], affine: Floats) -> None:
    """Write such a file, packed where its name ends in .gz."""
    nib.save(nifti_image(array, affine), path)


def nifti_image(array: NDArray[Any], affine: Floats) -> Any:
    """The same as nibabel has it, for what else a header is to hold."""
    create: Any = nib.Nifti1Image  # nibabel's classes are not typed
    image = create(array, affine)
    # Readers choose between the two forms by rules of their own, so both say the same. Axes that are not at right
    # angles have one form only, for the other would quietly turn them.
    units = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    is_right = np.abs(units.T @ units - np.eye(3)).max() < RIGHT_ANGLE
    image.set_qform(affine, code=int(is_right))
    image.set_sform(affine, code=1)
    image.header.set_xyzt_units("mm")
    return image
