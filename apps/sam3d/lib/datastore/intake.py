"""What a client sends as a label, checked against its image before it is stored: shape, place and names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from lib.errors import LabelError
from lib.images.volumes import DEFAULT_LIMIT_BYTES, Volume
from lib.labels.dicom_seg_writing import refuse_name
from lib.labels.files import read_layers
from lib.labels.masks import names_by_order, read_label

# The longest first, for one may be the end of another.
ENDINGS = (".seg.nrrd", ".nii.gz", ".nii", ".nrrd", ".mha")
RAW = ".bin"
RAW_TYPES = (np.dtype(np.uint8), np.dtype("<u2"))


@contextmanager
def accepted(label: Path, volume: Volume, image: str, info: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """The file to store and the ending of its name; LabelError for a label that cannot be this image's.

    Raw bytes (.bin, i fastest, of 1 or 2 bytes) become NIfTI on the image's grid; other files stay as they are.
    """
    names = value_names(info)
    for name in names.values():
        refuse_name(name)
    with TemporaryDirectory() as place:
        if label.name.lower().endswith(RAW):
            path, ending = Path(place) / "label.nii.gz", ".nii.gz"
            save_nifti(path, _raw(label, volume, image), volume.affine)
        else:
            path, ending = label, _ending(label)
        _check(path, volume, image, names)
        yield path, ending


def value_names(info: Mapping[str, Any]) -> dict[int, str]:
    """Names by voxel value from what was stored with a label; empty where nothing was."""
    submitted = info.get("label_info")
    if isinstance(submitted, list) and all(isinstance(each, Mapping) and "name" in each for each in submitted):
        return names_by_order(submitted)
    params = info.get("params")
    answered = params.get("label_names") if isinstance(params, Mapping) else None
    if isinstance(answered, Mapping):  # an infer task's own answer, saved as a label
        return {int(value): str(name) for name, value in answered.items()}
    return {}


def save_nifti(path: Path, array: NDArray[Any], affine: NDArray[np.float64]) -> None:
    """An array (I, J, K) with its affine to RAS mm."""
    create: Any = nib.Nifti1Image  # nibabel's classes are not typed
    image = create(array, affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def _ending(label: Path) -> str:
    for ending in ENDINGS:
        if label.name.lower().endswith(ending):
            return ending
    raise LabelError(f"the label {label.name[-60:]!r} is of no known format; send one of {', '.join((*ENDINGS, RAW))}")


def _raw(label: Path, volume: Volume, image: str) -> NDArray[Any]:
    size, voxels = label.stat().st_size, int(np.prod(volume.shape))
    for dtype in RAW_TYPES:
        if size == voxels * dtype.itemsize:
            return np.fromfile(label, dtype).reshape(volume.shape, order="F")
    raise LabelError(
        f"the label has {size} bytes, but image {image} has shape {volume.shape}, which is {voxels} voxels of 1 or 2 "
        "bytes; submit the label on the image's own grid"
    )


def _check(path: Path, volume: Volume, image: str, names: Mapping[int, str]) -> None:
    layers = read_layers(path, DEFAULT_LIMIT_BYTES)
    for layer in layers:
        if layer.values.shape != volume.shape:
            raise LabelError(
                f"the label has shape {tuple(layer.values.shape)}, but image {image} has shape {tuple(volume.shape)}; "
                "submit the label on the image's own grid"
            )
    own = {name for layer in layers for name in (layer.names or {}).values()}
    # Where it lies, and whether each value has a name, is found out by placing it; an empty one has neither.
    if (names or own) and any((layer.values != 0).any() for layer in layers):
        read_label(path, volume, sorted({*names.values(), *own}), names or None)
