"""NRRD, MetaImage and Analyze headers as programs write them: opened where ITK puts them, or refused by their field."""

from __future__ import annotations

import gzip
import struct
import zlib
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from lib.datastore.contents import digest_of
from lib.datastore.listing import find_images
from lib.errors import VolumeError
from lib.images.volumes import VolumeCache, open_volume
from unit.volumes_on_disk import numbered, write_nifti

SHAPE = (5, 4, 3)
ARRAY = numbered(SHAPE)
RAW = ARRAY.tobytes(order="F")
TEXT = " ".join(map(str, ARRAY.ravel(order="F"))).encode()
BIG = ARRAY.astype(">i2").tobytes(order="F")
AXES = Rotation.from_euler("xyz", (11, -17, 23), degrees=True).as_matrix()
STEPS = AXES @ np.diag([0.7, 0.8, 3.0])
TOLERANCE_MM = 0.01

GRID = "type: short\ndimension: 3\nsizes: 5 4 3\nendian: little\n"
RAW_GRID = GRID + "encoding: raw\n"
DIRECTIONS = " ".join("(" + ",".join(f"{x:.9f}" for x in STEPS[:, axis]) + ")" for axis in range(3))
PLACE = f"space directions: {DIRECTIONS}\nspace origin: (10,20,-30)\n"
LPS = f"{RAW_GRID}space: left-posterior-superior\n{PLACE}"
LIST = RAW_GRID.replace("dimension: 3", "dimension: 4")

NRRDS = {
    **{
        f"space {name}": (f"{RAW_GRID}space: {name}\n{PLACE}", RAW)
        for name in ("left-posterior-superior", "right-anterior-superior", "LAS", "scanner-xyz", "3D-left-handed")
    },
    "space dimension alone": (f"{RAW_GRID}space dimension: 3\n{PLACE}", RAW),
    "spacings": (f"{RAW_GRID}spacings: 0.7 0.8 3\n", RAW),
    "axis mins": (f"{RAW_GRID}spacings: 1 1 2\naxis mins: 10 11 12\n", RAW),
    "cells": (f"{RAW_GRID}spacings: 1 1 2\naxis mins: 10 11 12\ncenters: cell cell cell\n", RAW),
    "no spacing": (RAW_GRID, RAW),
    "no origin": (f"{RAW_GRID}space: LPS\nspace directions: {DIRECTIONS}\n", RAW),
    "list of one before": (
        LIST.replace("5 4 3", "1 5 4 3") + f"space: LPS\nspace directions: none {DIRECTIONS}\nspace origin: (1,2,3)\n"
        "kinds: list domain domain domain\n",
        RAW,
    ),
    "list of one behind": (
        LIST.replace("5 4 3", "5 4 3 1") + f"space: LPS\nspace directions: {DIRECTIONS} none\nspace origin: (1,2,3)\n"
        "kinds: domain domain domain list\n",
        RAW,
    ),
    "measurement frame": (f"{LPS}measurement frame: (0,1,0) (1,0,0) (0,0,1)\n", RAW),
    "axis down": (f"{RAW_GRID}space: LPS\nspace directions: (1,0,0) (0,1,0) (0,0,-2)\nspace origin: (1,2,3)\n", RAW),
    "gzip": (f"{GRID}encoding: gzip\nspace: LPS\n{PLACE}", gzip.compress(RAW)),
    "ascii": (f"{GRID}encoding: ascii\nspace: LPS\n{PLACE}", TEXT),
    "hex": (f"{GRID}encoding: hex\nspace: LPS\n{PLACE}", RAW.hex().encode()),
    "big endian": (LPS.replace("endian: little", "endian: big"), BIG),
    "byte skip": (f"{LPS}byte skip: 10\n", b"x" * 10 + RAW),
    "skip to the end": (f"{LPS}byte skip: -1\n", b"x" * 10 + RAW),
    "line skip": (f"{LPS}line skip: 1\n", b"a line\n" + RAW),
    "lines as Windows ends them": (LPS.replace("\n", "\r\n"), RAW),
    **{
        kind: (LPS.replace("short", kind), ARRAY.astype(dtype).tobytes(order="F"))
        for kind, dtype in (("uchar", "u1"), ("double", "f8"), ("unsigned long long int", "u8"))
    },
}

META = "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
META_GRID = "ElementSpacing = 0.7 0.8 3\nDimSize = 5 4 3\nElementType = MET_SHORT\n"
MATRIX = " ".join(f"{x:.9f}" for x in AXES.T.ravel())
META_PLACE = f"TransformMatrix = {MATRIX}\nOffset = 10 20 -30\n"
PACKED = zlib.compress(RAW)
PACKED_META = f"{META}CompressedData = True\nCompressedDataSize = {len(PACKED)}\n"

METAS = {
    "place": (META + META_PLACE + META_GRID, RAW),
    "center of rotation": (f"{META}{META_PLACE}CenterOfRotation = 5 6 7\n{META_GRID}", RAW),
    **{
        f"anatomical orientation {name}": (f"{META}{META_PLACE}AnatomicalOrientation = {name}\n{META_GRID}", RAW)
        for name in ("RAI", "LPS", "ASR", "???")
    },
    "older words": (f"{META}Orientation = {MATRIX}\nOrigin = 10 20 -30\n{META_GRID}", RAW),
    "one channel": (f"{META}ElementNumberOfChannels = 1\n{META_GRID}", RAW),
    "big endian": (META.replace("MSB = False", "MSB = True") + META_GRID, BIG),
    "big endian elements": (META.replace("BinaryDataByte", "ElementByte").replace("False", "True") + META_GRID, BIG),
    "size of elements": (META + META_GRID.replace("ElementSpacing", "ElementSize"), RAW),
    "both sizes": (f"{META}ElementSize = 0.5 0.5 0.5\n{META_GRID}", RAW),
    "no spacing": (META + META_GRID.partition("\n")[2], RAW),
    "packed": (PACKED_META + META_PLACE + META_GRID, PACKED),
    "packed by gzip": (
        f"{META}CompressedData = True\nCompressedDataSize = {len(gzip.compress(RAW))}\n{META_GRID}",
        gzip.compress(RAW),
    ),
    "packed, big endian": (
        (PACKED_META + META_GRID).replace(f"{len(PACKED)}\n", f"{len(zlib.compress(BIG))}\n").replace("False", "True"),
        zlib.compress(BIG),
    ),
    "axis down": (f"{META}TransformMatrix = 1 0 0 0 1 0 0 0 -1\n{META_GRID}", RAW),
    "scaled axes": (f"{META}TransformMatrix = 2 0 0 0 2 0 0 0 2\n{META_GRID}", RAW),
    "comment first": (f"Comment = hello\n{META}{META_GRID}", RAW),
}


def nrrd(path: Path, header: str, data: bytes) -> Path:
    end = "\r\n" if "\r\n" in header else "\n"
    path.write_bytes(f"NRRD0004{end}{header}{end}".encode() + data)
    return path


def meta(path: Path, header: str, data: bytes) -> Path:
    path.write_bytes(f"{header}ElementDataFile = LOCAL\n".encode() + data)
    return path


def off_mm(path: Path) -> float:
    """How far a volume's corners lie from those of the image that ITK reads; its voxels must be the same."""
    volume, image = open_volume(path), sitk.ReadImage(str(path))
    assert np.array_equal(volume.array, ARRAY)
    ends = list(product(*((0, length - 1) for length in SHAPE)))
    read = np.array([image.TransformIndexToPhysicalPoint(end) for end in ends])
    return float(np.abs((ends @ volume.affine[:3, :3].T + volume.affine[:3, 3]) * [-1, -1, 1] - read).max())


@pytest.mark.parametrize("kind", NRRDS)
def test_a_nrrd_lies_where_itk_puts_it(tmp_path: Path, kind: str) -> None:
    assert off_mm(nrrd(tmp_path / "image.nrrd", *NRRDS[kind])) < TOLERANCE_MM


@pytest.mark.parametrize("kind", METAS)
def test_a_metaimage_lies_where_itk_puts_it(tmp_path: Path, kind: str) -> None:
    assert off_mm(meta(tmp_path / "image.mha", *METAS[kind])) < TOLERANCE_MM


@pytest.mark.parametrize("kind", ["origin of SPM", *(f"orient {code}" for code in range(6))])
def test_an_analyze_pair_lies_where_itk_puts_it(tmp_path: Path, kind: str) -> None:
    nib.save(nib.AnalyzeImage(ARRAY, np.diag([-2.0, 3.0, 4.0, 1.0])), tmp_path / "old.hdr")
    header = bytearray((tmp_path / "old.hdr").read_bytes())
    if kind == "origin of SPM":
        struct.pack_into("<3h", header, 253, 3, 2, 2)
    else:
        header[252] = int(kind[-1])
    (tmp_path / "old.hdr").write_bytes(header)
    assert off_mm(tmp_path / "old.hdr") < TOLERANCE_MM


def test_a_packed_pair_of_header_and_voxels_opens_and_is_listed(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(ARRAY, np.diag([2.0, 3.0, 4.0, 1.0])), tmp_path / "pair.hdr")
    for ending in (".hdr", ".img"):
        content = (tmp_path / f"pair{ending}").read_bytes()
        (tmp_path / f"packed{ending}.gz").write_bytes(gzip.compress(content))
    for ending in (".hdr.gz", ".img.gz"):
        assert np.array_equal(open_volume(tmp_path / f"packed{ending}").array, ARRAY)
    assert off_mm(tmp_path / "packed.hdr.gz") < TOLERANCE_MM
    assert [image.name for image in find_images(tmp_path).images] == ["packed.hdr.gz", "pair.hdr"]
    assert [len(image.files) for image in find_images(tmp_path).images] == [2, 2]
    (tmp_path / "packed.img.gz").unlink()
    with pytest.raises(VolumeError, match=r"packed.hdr.gz is a header whose voxels are not beside it: put packed.img"):
        open_volume(tmp_path / "packed.hdr.gz")


@pytest.mark.parametrize("header", ["image.nhdr", "image.nrrd", "image.mhd", "image.mha"])
@pytest.mark.parametrize("named", ["voxels.dat", "./voxels.dat"])
def test_a_header_goes_with_the_voxels_that_it_names(tmp_path: Path, header: str, named: str) -> None:
    path, voxels = tmp_path / header, tmp_path / "voxels.dat"
    voxels.write_bytes(RAW)
    if header.startswith("image.n"):
        path.write_text(f"NRRD0004\n{LPS}data file: {named}\n")
    else:
        path.write_text(f"{META}{META_GRID}ElementDataFile = {named}\n")
    assert off_mm(path) < TOLERANCE_MM
    (image,) = find_images(tmp_path).images
    assert image.files == (path, voxels)
    # What is drawn on it belongs to the voxels, and another file under their name is another image.
    first, cache = digest_of(image.files), VolumeCache(2**20)
    assert cache.open(path) is cache.open(path)
    voxels.write_bytes((ARRAY + 1).tobytes(order="F"))
    assert digest_of(find_images(tmp_path).images[0].files) != first
    assert cache.open(path).array[0, 0, 0] == 1
    voxels.unlink()
    with pytest.raises(VolumeError, match=r"is a header whose voxels are not beside it: put voxels.dat there"):
        open_volume(path)
    assert find_images(tmp_path).left_out == ((header, "a header whose data file is missing"),)


@pytest.mark.parametrize("named", ["slice%02d.raw 1 3 1", "../voxels.raw", "LIST\nvoxels.raw", ".\\voxels.raw"])
@pytest.mark.parametrize("header", ["image.nhdr", "image.mhd"])
def test_voxels_in_several_files_or_elsewhere_are_not_followed(tmp_path: Path, header: str, named: str) -> None:
    start = f"NRRD0004\n{LPS}data file: " if header.endswith(".nhdr") else f"{META}{META_GRID}ElementDataFile = "
    (tmp_path / header).write_text(f"{start}{named}\n")
    for number in range(1, 4):
        (tmp_path / f"slice{number:02d}.raw").write_bytes(RAW[:40])
    with pytest.raises(VolumeError, match="points to data files elsewhere, or to a list of them"):
        open_volume(tmp_path / header)


@pytest.mark.parametrize("damage", ["changed", "cut", "no size", "too short", "too long"])
def test_packed_voxels_of_a_metaimage_are_whole_or_refused(tmp_path: Path, damage: str) -> None:
    """ITK fills up with what lies in memory, and says nothing."""
    content = {"too short": RAW[:-2], "too long": RAW + b"12"}.get(damage, RAW)
    data = bytearray(zlib.compress(content))
    if damage == "changed":
        data[len(data) // 2] ^= 0x10
    header = f"{META}CompressedData = True\nCompressedDataSize = {len(data)}\n{META_GRID}"
    if damage == "no size":
        header = f"{META}CompressedData = True\n{META_GRID}"
    path = meta(tmp_path / "image.mha", header, bytes(data[: len(data) // 2] if damage == "cut" else data))
    if damage == "no size":
        assert np.array_equal(open_volume(path).array, ARRAY)
        return
    with pytest.raises(VolumeError, match=r"image.mha is damaged or cut short"):
        open_volume(path)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (LPS.replace("(10,20,-30)", "(nan,20,-30)"), "has space origin = (nan,20,-30) in its header"),
        (LPS.replace("left-posterior-superior", "RAST"), "has space directions = "),
        (LPS.replace("sizes: 5 4 3", "sizes: 5 4"), "has sizes = 5 4 in its header"),
        (LPS.replace("encoding: raw", "encoding: bzip2"), "has encoding = bzip2 in its header"),
        (LPS.replace("type: short", "type: block"), "has no block size in its header"),
    ],
)
def test_a_nrrd_that_itk_does_not_open_is_refused_by_its_field(tmp_path: Path, header: str, said: str) -> None:
    with pytest.raises(VolumeError) as refused:
        open_volume(nrrd(tmp_path / "image.nrrd", header, RAW))
    assert str(refused.value).startswith(f"image.nrrd {said}")
    assert str(tmp_path) not in str(refused.value)


@pytest.mark.parametrize(
    ("line", "is_noted"),
    [
        ('space units: "um" "um" "um"', True),
        ('space units: "m" "m" "m"', True),
        ('space units: "mm" "mm" "mm"', False),
        ('space units: "" "" ""', False),
    ],
)
def test_units_that_viewers_do_not_look_at_are_told_of(tmp_path: Path, line: str, is_noted: bool) -> None:
    path = nrrd(tmp_path / "image.nrrd", f"{LPS}{line}\n", RAW)
    assert off_mm(path) < TOLERANCE_MM
    assert ("take its numbers for millimetres" in " ".join(open_volume(path).notes)) is is_noted
    mha = meta(tmp_path / "image.mha", f"{META}DistanceUnits = um\n{META_GRID}", RAW)
    (note,) = open_volume(mha).notes
    assert note.startswith(
        "the header of image.mha counts in um (DistanceUnits); 3D Slicer and ITK-SNAP take its numbers"
    )


def test_a_channel_before_the_axes_of_a_nifti_is_refused(tmp_path: Path) -> None:
    """Its header places channel, i and j, and ITK takes k for time."""
    path = write_nifti(tmp_path / "channel.nii", ARRAY[None], np.diag([1.0, 2.0, 3.0, 1.0]))
    with pytest.raises(VolumeError, match=r"channel.nii has dim = \[4, 1, 5, 4, 3\] in its header, a channel where"):
        open_volume(path)


def test_a_row_of_voxels_is_said_to_be_that(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "row.nii", ARRAY[:, 0, 0], np.eye(4))
    with pytest.raises(VolumeError, match=r"row.nii has dim = \[1, 5\] in its header, a single row of voxels"):
        open_volume(path)
