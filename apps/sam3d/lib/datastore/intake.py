"""What a client sends as a label, checked against its image before it is stored: shape, place and names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lib.errors import LabelError, VolumeError
from lib.images.files import reader_of
from lib.images.itk_files import META, NRRD
from lib.images.nifti import is_packed
from lib.images.nifti_writing import save_nifti
from lib.images.uploads import shown_name
from lib.images.volumes import Volume
from lib.labels.dicom_seg_writing import refuse_name
from lib.labels.files import limit_bytes_on
from lib.labels.masks import check_label, names_by_order
from lib.labels.raw import RAW, read_raw

# The longest first, for one may be the end of another.
ENDINGS = (".seg.nrrd", ".nii.gz", ".nii", ".nrrd", ".mha")


@contextmanager
def accepted(
    label: Path, volume: Volume, image: str, info: Mapping[str, Any], labels: Sequence[str] = ()
) -> Iterator[tuple[Path, str, tuple[str, ...]]]:
    """The file to store, the ending of its name, and what training with the server's `labels` will make of it;
    LabelError for a label that cannot be this image's.

    Raw bytes (.bin, i fastest, of 1 or 2 bytes) become NIfTI on the image's grid; other files stay as they are.
    """
    names = value_names(info)
    for name in names.values():
        refuse_name(name)
    with TemporaryDirectory() as place:
        if label.name.lower().endswith(RAW):
            path, ending = Path(place) / "label.nii.gz", ".nii.gz"
            save_nifti(path, read_raw(label, volume, image), volume.affine)
        else:
            path, ending = label, _ending(label)
        yield path, ending, check_label(path, volume, labels, names or None, limit_bytes_on(volume.shape))


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


def _ending(label: Path) -> str:
    """What a file is called by its content, for clients that go by the name."""
    name = shown_name(label)
    if not name.lower().endswith(ENDINGS) and not label.name.lower().endswith(ENDINGS):
        raise LabelError(f"the label {name[-60:]!r} is of no known format; send one of {', '.join((*ENDINGS, RAW))}")
    try:
        kind = reader_of(label) if label.stat().st_size else None
    except VolumeError as error:
        raise LabelError(f"the label {name} cannot be used: {error}") from error
    if kind == META:
        return ".mha"
    if kind == NRRD:
        return ".seg.nrrd" if label.name.lower().endswith(".seg.nrrd") else ".nrrd"
    return ".nii.gz" if is_packed(label) else ".nii"
