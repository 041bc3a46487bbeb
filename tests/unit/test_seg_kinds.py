"""Kinds of DICOM SEG that programs of today write: label maps, and frames packed one by one."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, RLELossless

from lib.errors import LabelError
from lib.images.dicom_pixels import DEFLATED_FRAMES
from lib.images.volumes import make_volume
from lib.labels.masks import read_label
from unit.labels_on_disk import dataset, write_seg
from unit.test_dicom_series import OBLIQUE, pack_wavelets, upright

SHAPE = (24, 20, 8)
LABELMAP_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"
AFFINE = upright(OBLIQUE)


def masks() -> dict[str, np.ndarray]:
    lesion, organ = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    lesion[3:9, 4:8, 2:5] = True
    organ[12:20, 2:17, 1:7] = True
    return {"lesion": lesion, "organ": organ}


def labelmap(bits: int, numbers: dict[str, int]) -> Callable[[Any], None]:
    """Turns a binary SEG into a label map: a frame for each plane, whose values are numbers of segments."""

    def edit(data: Any) -> None:
        values = np.zeros(SHAPE, f"<u{bits // 8}")
        for name, mask in masks().items():
            values[mask] = numbers[name]
        planes = [k for k in range(SHAPE[2]) if values[:, :, k].any()]
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = LABELMAP_STORAGE
        data.SegmentationType = "LABELMAP"
        data.BitsAllocated = data.BitsStored = bits
        data.HighBit, data.NumberOfFrames, data.PixelPaddingValue = bits - 1, len(planes), 0
        background = dataset(SegmentNumber=0, SegmentLabel="Background")
        named = [dataset(SegmentNumber=number, SegmentLabel=name) for name, number in numbers.items()]
        data.SegmentSequence = [background, *named]
        places = [[float(x) for x in ((np.diag([-1, -1, 1, 1]) @ AFFINE) @ [0, 0, k, 1])[:3].round(7)] for k in planes]
        data.PerFrameFunctionalGroupsSequence = [
            dataset(PlanePositionSequence=[dataset(ImagePositionPatient=place)]) for place in places
        ]
        data.PixelData = np.stack([values[:, :, k].T for k in planes]).tobytes()

    return edit


def read(path: Path) -> dict[str, np.ndarray]:
    volume = make_volume(np.zeros(SHAPE, np.int16), AFFINE)
    return dict(read_label(path, volume, ["lesion", "organ"]).masks)


def deflated(data: Any) -> None:
    """As Deflated Image Frame Compression has it: each frame on its own, its bits from the first of a byte on."""
    shape = (int(data.NumberOfFrames), data.Rows * data.Columns)
    bits = np.unpackbits(np.frombuffer(data.PixelData, np.uint8), bitorder="little")
    frames = bits[: shape[0] * shape[1]].reshape(shape)
    packed = []
    for frame in frames:
        pack = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        packed.append(pack.compress(np.packbits(frame, bitorder="little").tobytes()) + pack.flush())
    data.PixelData = encapsulate([each + b"\0" * (len(each) % 2) for each in packed])
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = JPEG2000Lossless  # this pydicom writes no syntax that it does not know


def say_deflated(path: Path) -> Path:
    content = path.read_bytes()
    assert content.count(JPEG2000Lossless.encode()) == 1
    path.write_bytes(content.replace(JPEG2000Lossless.encode(), DEFLATED_FRAMES.encode() + b"\0"))
    return path


@pytest.mark.parametrize("pack", ["", "run length", "wavelets"])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_label_map_is_read_by_the_numbers_of_its_segments(tmp_path: Path, bits: int, pack: str) -> None:
    numbers = {"lesion": 7, "organ": 3 if bits == 8 else 700}

    def edit(data: Any) -> None:
        labelmap(bits, numbers)(data)
        if pack == "run length":
            data.compress(RLELossless)
        elif pack:
            pack_wavelets(data, tmp_path / "packing")

    found = read(write_seg(tmp_path / "seg.dcm", masks(), AFFINE, edit=edit))
    assert found.keys() == masks().keys()
    assert all(np.array_equal(found[name], mask) for name, mask in masks().items())


def test_frames_that_are_deflated_one_by_one_are_read(tmp_path: Path) -> None:
    found = read(say_deflated(write_seg(tmp_path / "seg.dcm", masks(), AFFINE, edit=deflated)))
    assert all(np.array_equal(found[name], mask) for name, mask in masks().items())


def test_deflated_frames_that_are_cut_short_are_refused(tmp_path: Path) -> None:
    def cut(data: Any) -> None:
        deflated(data)
        data.PixelData = encapsulate([b"\x03\x00"] * int(data.NumberOfFrames))

    with pytest.raises(LabelError, match="damaged, cut short"):
        read(say_deflated(write_seg(tmp_path / "seg.dcm", masks(), AFFINE, edit=cut)))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"SegmentationType": "SURFACE"}, "has segmentation type SURFACE; only BINARY, FRACTIONAL, LABELMAP are read"),
        ({"NumberOfFrames": 0}, "has no frames: nothing is drawn in it"),
        ({"BitsAllocated": 8}, "has 8 bits per voxel where BINARY has 1"),
        ({"PerFrameFunctionalGroupsSequence": []}, "does not say where its frames lie"),
    ],
)
def test_what_cannot_be_read_says_so_by_its_header(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    def edit(data: Any) -> None:
        for keyword, value in changes.items():
            setattr(data, keyword, value)

    with pytest.raises(LabelError, match=sentence):
        read(write_seg(tmp_path / "seg.dcm", masks(), AFFINE, edit=edit))
