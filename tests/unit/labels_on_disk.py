"""Label files of a known content, as viewers and archives store them, written into a test's own folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, SegmentationStorage, generate_uid

from unit.volumes_on_disk import LPS_RAS

# Slicer's description of one segment: name, value, layer.
Segment = tuple[str, int, int]


def write_seg_nrrd(path: Path, layers: NDArray, affine: NDArray, segments: list[Segment]) -> Path:
    """A 3D Slicer segmentation of layers (L, I, J, K), the list axis first; 3D layers (I, J, K) have none."""
    lps = LPS_RAS @ affine
    vectors = [f"({','.join(repr(float(x)) for x in lps[:3, axis])})" for axis in range(3)]
    has_list = layers.ndim == 4
    fields = {
        "type": "unsigned char",
        "dimension": str(layers.ndim),
        "space": "left-posterior-superior",
        "sizes": " ".join(str(n) for n in layers.shape),
        "space directions": " ".join((["none"] if has_list else []) + vectors),
        "kinds": " ".join((["list"] if has_list else []) + ["domain"] * 3),
        "encoding": "raw",
        "space origin": f"({','.join(repr(float(x)) for x in lps[:3, 3])})",
    }
    lines = ["NRRD0004", *(f"{key}: {value}" for key, value in fields.items())]
    for number, (name, value, layer) in enumerate(segments):
        described = {"ID": f"Segment_{number}", "Name": name, "LabelValue": value, "Layer": layer}
        lines += [f"Segment{number}_{key}:={text}" for key, text in described.items()]
    header = "\n".join(lines) + "\n\n"
    path.write_bytes(header.encode() + np.asarray(layers, np.uint8).tobytes(order="F"))
    return path


def write_seg(
    path: Path,
    masks: Mapping[str, NDArray],
    affine: NDArray,
    numbers: Mapping[str, int] | None = None,
    is_fractional: bool = False,
    edit: Callable[[Dataset], None] | None = None,
) -> Path:
    """A DICOM SEG of masks (I, J, K), or of fractions from 0 to 1; occupied planes only, in a shuffled order.

    `numbers` gives segments other numbers than 1, 2, ...; `edit` may spoil the data set before it is written.
    """
    numbers = numbers or {name: number for number, name in enumerate(masks, start=1)}
    lps = LPS_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    frame = (lps[:3, :3] / spacing).T
    shown = [(name, k) for name, mask in masks.items() for k in np.flatnonzero(mask.any(axis=(0, 1)))]
    shown = [shown[place] for place in np.random.default_rng(5).permutation(len(shown))]
    planes = [masks[name][:, :, k].T for name, k in shown]

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SegmentationStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.is_little_endian, data.is_implicit_VR = True, False
    data.SOPClassUID, data.SOPInstanceUID, data.Modality = SegmentationStorage, meta.MediaStorageSOPInstanceUID, "SEG"
    data.SegmentationType = "FRACTIONAL" if is_fractional else "BINARY"
    data.Columns, data.Rows, data.NumberOfFrames = *next(iter(masks.values())).shape[:2], len(shown)
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    bits = 8 if is_fractional else 1
    data.BitsAllocated, data.BitsStored, data.HighBit = bits, bits, bits - 1
    data.SegmentSequence = Sequence([dataset(SegmentNumber=numbers[name], SegmentLabel=name) for name in masks])
    data.SpecificCharacterSet = "ISO_IR 192"
    data.SharedFunctionalGroupsSequence = Sequence(
        [
            dataset(
                PlaneOrientationSequence=[dataset(ImageOrientationPatient=frame[:2].ravel().round(9).tolist())],
                PixelMeasuresSequence=[
                    dataset(
                        PixelSpacing=spacing[[1, 0]].round(9).tolist(),
                        SliceThickness=float(spacing[2].round(9)),
                        SpacingBetweenSlices=float(spacing[2].round(9)),
                    )
                ],
            )
        ]
    )
    data.PerFrameFunctionalGroupsSequence = Sequence(
        [
            dataset(
                SegmentIdentificationSequence=[dataset(ReferencedSegmentNumber=numbers[name])],
                PlanePositionSequence=[dataset(ImagePositionPatient=(lps @ [0, 0, k, 1])[:3].round(7).tolist())],
            )
            for name, k in shown
        ]
    )
    if is_fractional:
        data.MaximumFractionalValue = 200
        content = np.rint(np.stack(planes) * 200).astype(np.uint8).tobytes()
    else:
        content = np.packbits(np.stack(planes).astype(np.uint8).ravel(), bitorder="little").tobytes()
    data.PixelData = content + b"\0" * (len(content) % 2)
    if edit is not None:
        edit(data)
    data.save_as(path, write_like_original=False)
    return path


def dataset(**values: object) -> Dataset:
    made = Dataset()
    for name, value in values.items():
        setattr(made, name, Sequence(value) if name.endswith("Sequence") else value)
    return made
