"""The mask file of a reply, and what its params say about it.

Files are written from memory: an NRRD for the viewers (uint8, raw, i fastest, as OHIF copies it byte by byte) or a
NIfTI. Whoever sends a reply deletes it; what is forgotten is removed at a later reply.
"""

from __future__ import annotations

import gzip
import os
import tempfile
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from lib.boxes import Box
from lib.errors import PromptError
from lib.images.nifti_writing import nifti_bytes
from lib.images.nrrd_writing import nrrd_header

LabelMap = NDArray[np.uint8]
FORMATS = (".nrrd", ".nii.gz", ".nii")
USUAL_FORMAT = ".nii.gz"
# Long enough for the slowest client to have read its reply.
FORGOTTEN_AFTER_S = 900.0


def reply_format(asked: object, image_path: str) -> str:
    """One of FORMATS: the one asked for, else the image's own, else .nii.gz; PromptError for one we cannot write."""
    if not asked:
        return next((known for known in FORMATS if image_path.lower().endswith(known)), USUAL_FORMAT)
    for known in FORMATS:
        if isinstance(asked, str) and asked.lower().lstrip(".") == known[1:]:
            return known
    raise PromptError(f"result_extension is {str(asked)[:40]!r}: it must be one of {list(FORMATS)}")


def describe(label_map: LabelMap, box: Box, labels: Sequence[str]) -> tuple[dict[str, int], dict[str, list[float]]]:
    """Of the labels that have voxels in label_map (I, J, K), all of them in `box`: name to value, and name to the
    centroid's voxel index."""
    part = label_map[box]
    order: Literal["C", "F"] = "F" if label_map.flags.f_contiguous else "C"
    flat = part.ravel(order)
    voxels = np.flatnonzero(flat)
    counts = np.bincount(flat[voxels], minlength=len(labels) + 1)
    indices = np.unravel_index(voxels, part.shape, order)
    sums = [
        np.bincount(flat[voxels], axis + edge.start, len(labels) + 1) for axis, edge in zip(indices, box, strict=True)
    ]
    present = {name: value for value, name in enumerate(labels, 1) if counts[value]}
    centroids = {
        name: [round(float(axis[value] / counts[value]), 1) for axis in sums] for name, value in present.items()
    }
    return present, centroids


class ReplyFiles:
    """Writes reply files into the folder for temporary files, whole or not at all; for several threads at once."""

    def __init__(self) -> None:
        self._written: deque[tuple[float, Path]] = deque()
        self._lock = threading.Lock()

    def write(
        self, label_map: LabelMap, box: Box, affine: NDArray[np.float64], file_format: str, is_compressed: bool
    ) -> Path:
        """The path of a new file with label_map (I, J, K), all of whose labels lie in `box`, on the grid of `affine`,
        index to RAS mm; OSError if full."""
        self._remove_forgotten()
        with ExitStack() as on_failure:
            descriptor, name = tempfile.mkstemp(prefix="sam3d-", suffix=file_format)
            path = Path(name)
            on_failure.callback(path.unlink, missing_ok=True)
            with os.fdopen(descriptor, "wb") as file:
                if file_format == ".nrrd":
                    _write_nrrd(file, label_map, box, affine, is_compressed)
                else:
                    file.write(nifti_bytes(label_map, affine, file_format == ".nii.gz"))
            on_failure.pop_all()
        with self._lock:
            self._written.append((time.monotonic(), path))
        return path

    def _remove_forgotten(self) -> None:
        """Whoever asked the app without the door of lib.serving may not have deleted its reply."""
        with self._lock:
            while self._written and time.monotonic() - self._written[0][0] > FORGOTTEN_AFTER_S:
                self._written.popleft()[1].unlink(missing_ok=True)


def _write_nrrd(
    file: BinaryIO, label_map: LabelMap, box: Box, affine: NDArray[np.float64], is_compressed: bool
) -> None:
    header = nrrd_header(label_map.shape, affine, "gzip" if is_compressed else "raw")
    file.write(header)
    if is_compressed:
        file.write(gzip.compress(label_map.tobytes(order="F"), compresslevel=1, mtime=0))
        return
    # Rows and planes without a label are left out, and read as the zeros that they are: neither they nor their blocks
    # in the file are ever touched.
    start, (row_length, rows, _) = len(header), label_map.shape
    for k in range(box[2].start, box[2].stop):
        file.seek(start + (k * rows + box[1].start) * row_length)
        file.write(label_map[:, box[1], k].tobytes(order="F"))
    file.truncate(start + label_map.size)
