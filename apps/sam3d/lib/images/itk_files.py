"""NRRD and MetaImage files, which ITK reads: what their headers say, and where the voxels lie that they name."""

from __future__ import annotations

import re
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from lib.errors import VolumeError
from lib.geometry import check_affine
from lib.images.stored import Stored, as_3d, check_volume, itk_affine
from lib.images.uploads import shown_name

# Readers of ITK by format, and the field of their headers that says how large voxels are.
NRRD, META = "NrrdImageIO", "MetaImageIO"
SPACING_FIELD = {NRRD: "spacings or space directions", META: "ElementSpacing"}
# Types of the grey values that ITK can read; a NRRD list of one value counts as a vector to it.
ITK_DTYPES = {
    **dict.fromkeys((sitk.sitkInt8, sitk.sitkVectorInt8), "i1"),
    **dict.fromkeys((sitk.sitkUInt8, sitk.sitkVectorUInt8), "u1"),
    **dict.fromkeys((sitk.sitkInt16, sitk.sitkVectorInt16), "i2"),
    **dict.fromkeys((sitk.sitkUInt16, sitk.sitkVectorUInt16), "u2"),
    **dict.fromkeys((sitk.sitkInt32, sitk.sitkVectorInt32), "i4"),
    **dict.fromkeys((sitk.sitkUInt32, sitk.sitkVectorUInt32), "u4"),
    **dict.fromkeys((sitk.sitkInt64, sitk.sitkVectorInt64), "i8"),
    **dict.fromkeys((sitk.sitkUInt64, sitk.sitkVectorUInt64), "u8"),
    **dict.fromkeys((sitk.sitkFloat32, sitk.sitkVectorFloat32), "f4"),
    **dict.fromkeys((sitk.sitkFloat64, sitk.sitkVectorFloat64), "f8"),
}
# A header is short text before its data: this much of a file is searched.
HEADER_BYTES = 65_536
NRRD_END = re.compile(rb"\r?\n\r?\n")
NRRD_DATA_FILE = re.compile(rb"(?im)^data ?file:([^\r\n]*)")
NRRD_ORIGIN = re.compile(rb"(?im)^(space origin|axis ?mins):")
META_END = re.compile(rb"(?im)^[ \t]*ElementDataFile[ \t]*=([^\r\n]*)\r?\n?")
META_START = re.compile(rb"(?im)\A\s*(ObjectType|NDims|Comment)[ \t]*=")
META_PACKED = re.compile(rb"(?im)^[ \t]*CompressedData[ \t]*=[ \t]*[T1]")
META_BIG_ENDIAN = re.compile(rb"(?im)^[ \t]*(BinaryDataByteOrderMSB|ElementByteOrderMSB)[ \t]*=[ \t]*[T1]")
META_HEADER_SIZE = re.compile(rb"(?im)^[ \t]*HeaderSize[ \t]*=[ \t]*(\d+)")
# Units that ITK does not look at: it takes all lengths for millimetres.
UNITS = re.compile(rb"(?im)^[ \t]*(space units|units|DistanceUnits)[ \t]*[:=]([^\r\n]*)")
IN_MILLIMETRES = ("", "mm", "millimeter", "millimeters", "millimetre", "millimetres", "pixel", "pixels", "none", "?")
IN_WORDS = re.compile(r'"([^"]*)"|([^\s"]+)')
# What ITK's readers say of a field, with its name.
FAULTY_FIELD = re.compile(
    r"trouble parsing ([a-z ]+?) info|missing field: ([a-z ]+)|couldn't parse \"[^\"]*\" as (magic)"
)
# zlib, or gzip, whichever the first bytes say.
ANY_PACKING = zlib.MAX_WBITS | 32
BLOCK_BYTES = 2**20


def kind_of(start: bytes) -> str | None:
    """ITK's reader of the file that begins so; None for what is neither NRRD nor MetaImage."""
    return NRRD if start.startswith(b"NRRD") else META if META_START.search(start) else None


def read_itk(path: Path, kind: str, limit_bytes: int) -> Stored:
    """What a NRRD or MetaImage file stores; VolumeError, which names the field of the header where one is at fault."""
    name, header = shown_name(path), check_data_file(path)
    reader = itk_reader(path, kind)
    try:
        reader.ReadImageInformation()
        shape = tuple(int(length) for length in reader.GetSize())
        dtype = np.dtype(ITK_DTYPES.get(reader.GetPixelID(), "f8"))
        is_grey = reader.GetNumberOfComponents() == 1 and reader.GetPixelID() in ITK_DTYPES
        check_volume(name, shape, is_grey, dtype.itemsize, limit_bytes)
        check_spacing(name, np.array(reader.GetSpacing())[:3], SPACING_FIELD[kind])
        affine = check_affine(itk_affine(reader, shape))
        if kind == META and META_PACKED.search(header):
            raw = _unpacked(path, header, shape, dtype)
        else:
            raw = sitk.GetArrayFromImage(reader.Execute()).T
    except (RuntimeError, TypeError) as error:
        raise VolumeError(_what_is_wrong(str(error), header, name)) from error
    is_placed = kind != NRRD or NRRD_ORIGIN.search(header) is not None
    return Stored(as_3d(raw), affine, notes=_notes(header, name), is_placed=is_placed)


def itk_reader(path: Path, kind: str) -> Any:
    """ITK's reader of a file, whatever its name ends in."""
    reader: Any = sitk.ImageFileReader()  # type: ignore[no-untyped-call]
    reader.SetImageIO(kind)
    reader.SetFileName(str(path))
    return reader


def check_data_file(path: Path) -> bytes:
    """The header of a file. It may name others to read its voxels from: only one, beside it, is followed."""
    name = shown_name(path)
    with path.open("rb") as file:
        start = file.read(HEADER_BYTES)
    header = _header_of(start)
    if header is None and len(start) == HEADER_BYTES:
        raise VolumeError(f"{name} has no header in its first {HEADER_BYTES} bytes; it is damaged or no image")
    header = start if header is None else header
    named = _named_in(header)
    if named and not _is_one_file(named):
        raise VolumeError(
            f"{name} points to data files elsewhere, or to a list of them; save header and data as one file"
        )
    if named and not path.with_name(named).is_file():
        raise VolumeError(
            f"{name} is a header whose voxels are not beside it: put {named} there, or save both as one file"
        )
    return header


@lru_cache(maxsize=100_000)
def data_name(path: Path, state: object) -> str:
    """The name of the file beside a header that holds its voxels; empty where they follow it, and where it is one that
    is not read. Looked up once for each `state` of the header."""
    try:
        with path.open("rb") as file:
            named = _named_in(_header_of(file.read(HEADER_BYTES)) or b"")
    except OSError:
        return ""
    return named if _is_one_file(named) else ""


def check_spacing(name: str, spacing: NDArray[Any], field: str) -> None:
    """VolumeError, which names the field of the header, for voxels without a length."""
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        listed = [float(f"{length:.6g}") for length in spacing]
        raise VolumeError(
            f"{name} has a voxel spacing of {listed} mm; it must be more than 0: correct {field} in its header"
        )


def _header_of(start: bytes) -> bytes | None:
    """The header at the start of a file; None if it does not end there."""
    if start.startswith(b"NRRD"):
        end = NRRD_END.search(start)
        # One with a file for its voxels may end with its last line.
        return start[: end.end()] if end else start if NRRD_DATA_FILE.search(start) else None
    end = META_END.search(start)
    return start[: end.end()] if end else None


def _named_in(header: bytes) -> str:
    """What a header says of the file that its voxels lie in; empty where they follow it."""
    found = NRRD_DATA_FILE.search(header) if header.startswith(b"NRRD") else META_END.search(header)
    named = found[1].decode(errors="surrogateescape").strip() if found else ""
    while named.startswith("./"):
        named = named[2:]
    return "" if named.upper() == "LOCAL" else named


def _is_one_file(named: str) -> bool:
    return not re.search(r"[/\\%]|^LIST|\0", named) and named != ".."


def _unpacked(path: Path, header: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The packed voxels of a MetaImage. ITK fills up with whatever lies in memory where they are damaged, or where the
    header does not say how long they are, and says nothing."""
    named, skipped = _named_in(header), META_HEADER_SIZE.search(header)
    beside = int(skipped[1]) if skipped else 0
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    content, unpacking = bytearray(), zlib.decompressobj(ANY_PACKING)
    with (path.with_name(named) if named else path).open("rb") as file:
        file.seek(beside if named else len(header))
        try:
            while not unpacking.eof and len(content) <= size and (block := file.read(BLOCK_BYTES)):
                content += unpacking.decompress(block, size + 1 - len(content))
        except zlib.error as error:
            raise RuntimeError("CompressedData cannot be unpacked") from error
    if not unpacking.eof or len(content) != size:
        raise RuntimeError("CompressedData is not as long as DimSize tells")
    stored = dtype.newbyteorder(">") if META_BIG_ENDIAN.search(header) else dtype.newbyteorder("<")
    return np.frombuffer(content, stored).reshape(shape, order="F").astype(dtype, copy=False)


def _notes(header: bytes, name: str) -> tuple[str, ...]:
    found = UNITS.search(header)
    text = found[2].decode(errors="replace") if found else ""
    units = {(quoted or plain).strip() for quoted, plain in IN_WORDS.findall(text)}
    others = sorted(unit for unit in units if unit.lower() not in IN_MILLIMETRES)
    if not found or not others:
        return ()
    return (
        f"the header of {name} counts in {', '.join(others)[:40]} ({found[1].decode()}); 3D Slicer and ITK-SNAP take "
        "its numbers for millimetres, and so it is here",
    )


def _what_is_wrong(said: str, header: bytes, name: str) -> str:
    """A sentence about a file that ITK does not read, with the field and its line where ITK names it."""
    found = FAULTY_FIELD.search(said)
    field = next((each for each in found.groups() if each), "") if found else ""
    if "encoding not available" in said:
        field = "encoding"
    elif "number of domain axes" in said:
        field = "space directions"
    elif "CompressedData" in said:
        field = "CompressedData"
    if field == "magic":
        version = header.splitlines()[0][:20].decode(errors="replace")
        return f"{name} calls itself {version}, which is no NRRD version that can be read; save it again"
    written = re.search(rb"(?im)^" + re.escape(field.encode()) + rb"[ \t]*[:=]([^\r\n]*)", header) if field else None
    if field == "CompressedData":
        return f"{name} is damaged or cut short: its CompressedData cannot be unpacked; copy or download it again"
    if written:
        value = written[1].decode(errors="replace").strip()[:60]
        return f"{name} has {field} = {value} in its header, which cannot be read; correct it, or save it again"
    if field:
        return f"{name} has no {field} in its header, which it needs; save it again"
    return f"{name} is damaged, cut short or has a header that makes no sense; copy or download it again"
