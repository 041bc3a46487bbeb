"""Masks as a DICOM SEG that refers to the series they were drawn on: names, codes and places go with them.

Frames and references are dcmqi's (`itkimage2segimage`, docs/decisions/0011), in a process of its own. It takes no
letters beyond ASCII, so texts are put in afterwards.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.sr.coding import Code

from lib.errors import LabelError, VolumeError
from lib.labels.dicom_codes import meaning_of
from lib.labels.dicom_seg import is_dicom
from lib.labels.dicom_sources import put_references, write_sources
from lib.labels.layers import layers_of

logger = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

TOOL = "itkimage2segimage"
LIMIT_S = 600.0
LPS_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# The longest text of DICOM's LO, which SegmentLabel is; a backslash would part it in two.
LONGEST_NAME = 64
ALGORITHM = "sam3d"
# Texts of patient and study, which may be in another alphabet than ASCII.
COPIED = ["PatientID", "PatientName", "StudyInstanceUID", "StudyDescription", "StudyID", "ReferringPhysicianName"]
COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
    (0, 114, 178),
)


@dataclass(frozen=True)
class SegInfo:
    """What a SEG says of itself, beside its segments."""

    creator: str = ""
    description: str = "sam3d"
    series_number: int = 300


def refuse_name(name: str) -> None:
    """LabelError for a name that no SEG can hold."""
    if not name or len(name) > LONGEST_NAME or "\\" in name or not name.isprintable() or name != name.strip():
        raise LabelError(
            f"the label name {name[:80]!r} does not fit into a DICOM SEG; use up to {LONGEST_NAME} printable signs, no "
            "backslash and no blank at the ends"
        )


def drawn_masks(masks: Mapping[str, Mask], kind: str) -> dict[str, Mask]:
    """The masks with any voxel, by names that fit into DICOM; LabelError, which says what `kind` of object cannot hold
    them, if there are none, and for a name that does not fit."""
    shown = {name: mask for name, mask in masks.items() if mask.any()}
    for name in shown:
        refuse_name(name)
    if not shown:
        raise LabelError(f"{kind} cannot hold a label without any voxel; draw something")
    return shown


def write_seg(
    masks: Mapping[str, Mask],
    affine: Floats,
    series: Path,
    target: Path,
    info: SegInfo | None = None,
    phase: int | None = None,
) -> None:
    """Write masks (I, J, K) by name, on the grid of `affine`, to the file `target`, whole or not at all.

    `series` is the folder of the instances they were drawn on, `phase` the number of the phase. Masks may overlap.
    LabelError for names that do not fit, for no voxel at all, or if the tool refuses.
    """
    shown = drawn_masks(masks, "a DICOM SEG")
    with TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as place:
        folder = Path(place)
        layers = layers_of(shown)
        files = [folder / f"{number}.nrrd" for number in range(len(layers))]
        for path, names in zip(files, layers, strict=True):
            _write_layer(path, [shown[name] for name in names], affine)
        described = folder / "segments.json"
        described.write_text(json.dumps(_description(layers, list(shown))), encoding="ascii")
        written = folder / "seg.dcm"
        try:
            stands_for = write_sources(series, folder / "sources", phase)
        except (VolumeError, OSError) as error:
            raise LabelError(f"no DICOM SEG can refer to {series.name}: {error}") from error
        arguments = ["--inputImageList", ",".join(map(str, files)), "--inputMetadata", str(described)]
        _run(arguments, folder / "sources", written)
        _put_texts(written, series, list(shown), info or SegInfo(), stands_for)
        with written.open("rb") as file:
            os.fsync(file.fileno())
        written.replace(target)


def _write_layer(path: Path, masks: Sequence[Mask], affine: Floats) -> None:
    values = np.zeros(masks[0].shape, dtype=np.uint8, order="F")
    for value, mask in enumerate(masks, start=1):
        values[mask] = value
    lps = LPS_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image: Any = sitk.GetImageFromArray(values.T)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(image, str(path))


def _description(layers: Sequence[Sequence[str]], names: Sequence[str]) -> dict[str, Any]:
    return {
        "ContentCreatorName": ALGORITHM,
        "SeriesDescription": ALGORITHM,
        "SeriesNumber": "300",
        "InstanceNumber": "1",
        "ContentLabel": "SEGMENTATION",
        "ContentDescription": "interactive segmentation",
        "segmentAttributes": [
            [_segment(name, value, names.index(name)) for value, name in enumerate(layer, start=1)] for layer in layers
        ],
    }


def _segment(name: str, value: int, number: int) -> dict[str, Any]:
    meaning = meaning_of(name)
    segment = {
        "labelID": value,
        "SegmentLabel": str(number),
        "SegmentDescription": str(number),
        "SegmentAlgorithmType": "SEMIAUTOMATIC",
        "SegmentAlgorithmName": ALGORITHM,
        "SegmentedPropertyCategoryCodeSequence": _coded(meaning.category),
        "SegmentedPropertyTypeCodeSequence": _coded(meaning.type),
        "recommendedDisplayRGBValue": list(COLOURS[number % len(COLOURS)]),
    }
    if meaning.side is not None:
        segment["SegmentedPropertyTypeModifierCodeSequence"] = _coded(meaning.side)
    return segment


def _coded(code: Code) -> dict[str, str]:
    return {
        "CodeValue": code.value,
        "CodingSchemeDesignator": code.scheme_designator,
        "CodeMeaning": code.meaning,
    }


def _run(arguments: Sequence[str], series: Path, written: Path) -> None:
    beside = Path(sys.executable).parent / TOOL  # where pip puts it, on PATH or not
    tool = str(beside) if beside.exists() else shutil.which(TOOL)
    if tool is None:
        raise LabelError(f"{TOOL} is missing, so no DICOM SEG can be written; install dcmqi")
    command = [tool, *arguments, "--inputDICOMDirectory", str(series), "--outputDICOM", str(written), "--skip", "1"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise LabelError(f"{TOOL} wrote no DICOM SEG within {LIMIT_S:.0f} s; try again") from error
    if done.returncode or not written.exists():
        logger.warning("%s:\n%s\n%s", TOOL, done.stdout, done.stderr)
        said = [line for line in (done.stdout + done.stderr).splitlines() if "error" in line.lower()]
        raise LabelError(f"{TOOL} refused the label: {(said or ['no reason given'])[-1].strip()[:300]}")


def _put_texts(
    written: Path,
    series: Path,
    names: Sequence[str],
    info: SegInfo,
    stands_for: Mapping[str, tuple[str, str, int]],
) -> None:
    """Names of the segments in place of their numbers, and the patient's and study's texts as their own file has them.

    LabelError for a SEG that is of another patient or study, or lacks a segment.
    """
    data: Any = pydicom.dcmread(written)
    source: Any = pydicom.dcmread(
        next(path for path in sorted(series.iterdir()) if is_dicom(path)), specific_tags=COPIED
    )
    for keyword in ("PatientID", "StudyInstanceUID"):
        if str(data.get(keyword, "")) != str(source.get(keyword, "")):
            raise LabelError(f"{TOOL} wrote {keyword} {data.get(keyword)!r}, not {source.get(keyword)!r}; see the log")
    if sorted(str(segment.SegmentLabel) for segment in data.SegmentSequence) != sorted(map(str, range(len(names)))):
        raise LabelError(f"{TOOL} wrote {len(data.SegmentSequence)} segments, not {len(names)}; see the log")
    put_references(data, stands_for)
    data.SpecificCharacterSet = "ISO_IR 192"
    for keyword in COPIED:
        if keyword in source:
            setattr(data, keyword, source[keyword].value)
    for segment in data.SegmentSequence:
        segment.SegmentLabel = segment.SegmentDescription = names[int(segment.SegmentLabel)]
    data.ContentCreatorName = info.creator[:LONGEST_NAME]
    data.SeriesDescription = info.description[:LONGEST_NAME]
    data.SeriesNumber = info.series_number
    data.save_as(written, write_like_original=False)
