"""Images as they should not be: one file, or one change of the good one, for each way to be wrong."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np

from serving import make_case, write_study

# Name of the study to a word that its sentence must hold.
REFUSED = {
    "four_d": "4 dimensions",
    "colour": "colours",
    "nan_everywhere": "no finite value",
    "empty_file": "empty file",
    "truncated": "cut short",
    "zero_spacing": "pixdim[3] = 0 in its header, which is no voxel spacing",
    "singular": "the affine is singular",
    "not_an_image": "no NIfTI image",
}
# These are unusual and must be answered all the same: name to the voxel to click on.
ACCEPTED = {"one_slice": (40, 30, 0), "small_20mm": (10, 10, 10), "some_nan": (20, 20, 20)}


def write_bad_studies(folder: Path) -> None:
    """Write every study of REFUSED and ACCEPTED as NIfTI files."""
    rng = np.random.default_rng(1)
    grey = rng.normal(40.0, 20.0, (40, 36, 32)).astype(np.float32)
    write_study(folder / "four_d.nii.gz", np.stack([grey, grey], axis=-1))
    colour = np.zeros(grey.shape, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    write_study(folder / "colour.nii.gz", colour)
    write_study(folder / "nan_everywhere.nii.gz", np.full(grey.shape, np.nan, np.float32))
    (folder / "empty_file.nii.gz").write_bytes(b"")
    whole = gzip.compress(nibabel.Nifti1Image(make_case()[0], np.eye(4)).to_bytes())
    (folder / "truncated.nii.gz").write_bytes(whole[: len(whole) // 2])
    _write_with_affine(folder / "zero_spacing.nii", grey, np.diag([1.0, 1.0, 0.0, 1.0]))
    flat = np.eye(4)
    flat[:3, 2] = flat[:3, 1]
    _write_with_affine(folder / "singular.nii", grey, flat)
    (folder / "not_an_image.nii").write_bytes(b"a letter to the editor " * 40)
    write_study(
        folder / "one_slice.nii.gz", rng.normal(40.0, 20.0, (80, 64, 1)).astype(np.int16), np.diag([1, 1, 5, 1])
    )
    write_study(folder / "small_20mm.nii.gz", grey[:20, :20, :20].astype(np.int16))
    holed = grey.copy()
    holed[3:6, 3:6, 3:6] = np.nan
    holed[30, 30, 30] = np.inf
    write_study(folder / "some_nan.nii.gz", holed)


def _write_with_affine(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    """Set the header's rows by hand: nibabel itself refuses to write such an affine."""
    image = nibabel.Nifti1Image(array, np.eye(4))
    header = image.header
    header["qform_code"], header["sform_code"], header["vox_offset"] = 0, 1, 352
    for axis, row in enumerate(("srow_x", "srow_y", "srow_z")):
        header[row] = affine[axis]
    header["pixdim"][1:4] = np.linalg.norm(affine[:3, :3], axis=0)
    path.write_bytes(header.binaryblock + b"\0" * 4 + array.tobytes(order="F"))
