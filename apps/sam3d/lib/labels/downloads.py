"""One label as a file for other programs, in each of the formats that they take."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lib.errors import LabelError
from lib.labels.dicom_seg_writing import SegInfo, write_seg
from lib.labels.label_maps import label_map, write_nifti_labels, write_segmentation
from lib.labels.rtstruct_writing import write_rtstruct

# The formats by their names, with the endings of their files.
FORMATS = {"nifti": ".nii.gz", "nrrd": ".seg.nrrd", "dicom_seg": ".dcm", "rtstruct": ".dcm"}
OF_SERIES = ("dicom_seg", "rtstruct")


def write_download(
    kind: str,
    masks: Mapping[str, NDArray[np.bool_]],
    affine: NDArray[np.float64],
    series: Path | None,
    target: Path,
    info: SegInfo | None = None,
    phase: int | None = None,
) -> None:
    """Write masks (I, J, K) by name, on the grid of `affine`, to the file `target`, as one of FORMATS.

    `series` is the folder of the instances they were drawn on, None for what is no DICOM; LabelError where the format
    needs it. `phase` is the number of the phase.
    """
    if kind in OF_SERIES:
        if series is None:
            raise LabelError(f"{kind} refers to a DICOM series, and this image is none: take nifti or nrrd")
        write = write_seg if kind == "dicom_seg" else write_rtstruct
        write(masks, affine, series, target, info, phase)
        return
    if kind == "nifti":
        write_nifti_labels(target, label_map(masks), list(masks), affine)
    else:
        write_segmentation(target, masks, affine)
