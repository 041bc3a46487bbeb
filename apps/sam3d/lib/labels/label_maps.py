"""Masks as one label map in a file, with names and codes in its header: NIfTI, or NRRD as 3D Slicer writes it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from pydicom.sr.coding import Code

from lib.boxes import bounding_box
from lib.errors import LabelError
from lib.images.nifti_writing import nifti_image
from lib.images.nrrd_writing import nrrd_header
from lib.labels.dicom_codes import meaning_of
from lib.labels.dicom_seg_writing import COLOURS
from lib.labels.layers import layers_of

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
LabelMap = NDArray[np.uint8]

# A NIfTI header's extension of plain text.
COMMENT = 6
MOST_LABELS = 255


def refuse_many(masks: Mapping[str, Mask]) -> None:
    """LabelError for more masks than bytes count."""
    if len(masks) > MOST_LABELS:
        raise LabelError(f"{len(masks)} labels are more than a label map of bytes holds; take DICOM SEG")


def label_map(masks: Mapping[str, Mask]) -> LabelMap:
    """Masks (I, J, K) as one array, the first of them 1; LabelError for masks that overlap, or too many."""
    refuse_many(masks)
    values = np.zeros(next(iter(masks.values())).shape, dtype=np.uint8, order="F")
    names = list(masks)
    for value, (name, mask) in enumerate(masks.items(), start=1):
        if taken := np.unique(values[mask & (values > 0)]).tolist():
            raise LabelError(
                f"{names[taken[0] - 1]} and {name} overlap, and a label map has one label for a voxel; take NRRD, "
                "DICOM SEG or RTSTRUCT"
            )
        values[mask] = value
    return values


def write_nifti_labels(path: Path, values: LabelMap, names: Sequence[str], affine: Floats) -> None:
    """A label map (I, J, K) with its affine to RAS mm; the names of its values stand in a comment of the header."""
    image = nifti_image(values, affine)
    told = {"labels": [{"value": value, "name": name, **_codes(name)} for value, name in enumerate(names, start=1)]}
    image.header.extensions.append(nib.nifti1.Nifti1Extension(COMMENT, json.dumps(told).encode()))
    nib.save(image, path)


def write_segmentation(path: Path, masks: Mapping[str, Mask], affine: Floats) -> None:
    """Masks (I, J, K) by name as a `.seg.nrrd`, as 3D Slicer writes them: each the value of its place among them, in
    layers where they overlap."""
    refuse_many(masks)
    layers = layers_of(masks)
    layer_of = {name: layer for layer, group in enumerate(layers) for name in group}
    keys: dict[str, str] = {}
    for number, (name, mask) in enumerate(masks.items()):
        box = bounding_box(mask)
        extent = [edge for part in box for edge in (part.start, part.stop - 1)] if box else [0, -1, 0, -1, 0, -1]
        described = {
            "ID": f"Segment_{number + 1}",
            "Name": name,
            "Color": " ".join(f"{part / 255:.6g}" for part in COLOURS[number % len(COLOURS)]),
            "LabelValue": str(number + 1),
            "Layer": str(layer_of[name]),
            "Extent": " ".join(map(str, extent)),
            "Tags": f"TerminologyEntry:{_terminology(name)}|",
        }
        keys |= {f"Segment{number}_{key}": text for key, text in described.items()}
    values = np.zeros((len(layers), *next(iter(masks.values())).shape), np.uint8, order="F")
    for number, (name, mask) in enumerate(masks.items()):
        values[layer_of[name], mask] = number + 1
    head = nrrd_header(values.shape[1:] if len(layers) == 1 else values.shape, affine, "gzip", keys)
    path.write_bytes(head + gzip.compress(values.tobytes(order="F"), compresslevel=6, mtime=0))


def _codes(name: str) -> dict[str, Any]:
    meaning = meaning_of(name)
    parts = {"category": meaning.category, "type": meaning.type, "modifier": meaning.side}
    return {
        part: {"value": code.value, "scheme": code.scheme_designator, "meaning": code.meaning}
        for part, code in parts.items()
        if code is not None
    }


def _terminology(name: str) -> str:
    """What a segment is, as 3D Slicer has it in one line."""
    meaning = meaning_of(name)

    def triple(code: Code | None) -> str:
        return f"{code.scheme_designator}^{code.value}^{code.meaning}" if code else "^^"

    parts = (triple(meaning.category), triple(meaning.type), triple(meaning.side))
    context = "Segmentation category and type - DICOM master list"
    return "~".join((context, *parts, "Anatomic codes - DICOM master list", "^^", "^^"))
