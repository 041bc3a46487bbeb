"""NIfTI and Analyze files: what their headers say, and where that puts the image.

The place is ITK's, which 3D Slicer, ITK-SNAP and nnU-Net read by: its choice between qform and sform, its spacing, its
unit. ITK is asked itself, with a header of the same place; only axes that are not at right angles, which it does not
open, are taken from the sform as they stand.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
import SimpleITK as sitk
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from numpy.typing import NDArray

from lib.errors import VolumeError
from lib.geometry import check_affine
from lib.images.stored import Stored, as_3d, check_volume, itk_affine
from lib.images.uploads import shown_name

Floats = NDArray[np.float64]

PACKED = b"\x1f\x8b"
SIZES = {348: Nifti1Header, 540: Nifti2Header}
# Where the signature lies, by the size of the header.
SIGNATURES = {348: slice(344, 347), 540: slice(4, 7)}
ONE_FILE, TWO_FILES = (b"n+1", b"n+2"), (b"ni1", b"ni2")
# Voxels of a one-file image follow a header and the four bytes that announce extensions.
FIRST_VOXEL = {348: 352, 540: 544}
DATA_ENDINGS = (".img", ".img.gz", ".IMG", ".IMG.GZ")
HEADER_ENDING = re.compile(r"(?i)\.hdr(\.gz)?$")
DTYPES = {
    **{2: "u1", 256: "i1", 4: "i2", 512: "u2", 8: "i4", 768: "u4", 1024: "i8", 1280: "u8"},
    **{16: "f4", 64: "f8"},
}
SEVERAL_VALUES = (32, 128, 1792, 2048, 2304)
# Millimetres of a unit, by the lower three bits of xyzt_units; ITK takes any other for millimetres.
MILLIMETRES = {1: 1000.0, 3: 0.001}
UNIT_BITS = 0b111
PLACE_FIELDS = ("pixdim", "qform_code", "sform_code", "srow_x", "srow_y", "srow_z")
QFORM_FIELDS = ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
SFORM_FIELDS = ("srow_x", "srow_y", "srow_z")
# Forms that lie closer together, in the image's smallest voxels, differ by rounding.
SAME_PLACE = 0.1
# A file may go on this far behind its voxels; more is no image, and may be a gzip file made to unpack without end.
MAX_SURPLUS_MIB = 64
DAMAGED = (OSError, EOFError, zlib.error)
# As a shell takes it; other names are left to the user.
PLAIN_NAME = re.compile(r"[\w.\- ]+")
MEND = "python -c \"import nibabel; nibabel.save(nibabel.load('{name}'), 'mended.nii.gz')\""

# ITK tells of odd headers on standard error, under the name of the file that it is asked with; the notes do better.
sitk.ProcessObject.SetGlobalWarningDisplay(False)  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class _Layout:
    """How the voxels are stored."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    is_alone: bool  # the voxels are in another file


def is_nifti(start: bytes) -> bool:
    """Whether the first bytes of a file are those of a NIfTI or an Analyze header."""
    return _header_size(start) is not None


def opened(path: Path) -> Any:
    """A file to read from, unpacked where its content is packed, whatever it is called."""
    return gzip.open(path, "rb") if is_packed(path) else path.open("rb")


def is_packed(path: Path) -> bool:
    """Whether the content of a file is packed by gzip."""
    with path.open("rb") as file:
        return file.read(2) == PACKED


def read_nifti(path: Path, limit_bytes: int) -> Stored:
    """What a NIfTI-1, NIfTI-2 or Analyze file stores; VolumeError names the field of the header that is at fault."""
    name = shown_name(path)
    with _told_as_damage(name), opened(path) as file:
        header = _read_header(file.read(max(FIRST_VOXEL.values())), name)
    layout = _layout(header, name, limit_bytes)
    affine, notes = placed(header, layout.shape, name)
    with _told_as_damage(name):
        raw = _voxels(_data_file(path, layout, name), layout)
    is_placed = bool(header["qform_code"] > 0 or header["sform_code"] > 0)
    return Stored(as_3d(raw), affine, *_scaling(header), notes, is_placed)


@contextmanager
def _told_as_damage(name: str) -> Iterator[None]:
    try:
        yield
    except DAMAGED as error:
        raise VolumeError(f"{name} is damaged, cut short or no NIfTI image; copy or download it again") from error


def data_files(path: Path) -> list[Path]:
    """The files beside a header that may hold its voxels."""
    stem = HEADER_ENDING.sub("", path.name)
    return [found for ending in DATA_ENDINGS if (found := path.with_name(stem + ending)).is_file()]


def placed(header: Any, shape: tuple[int, ...], name: str) -> tuple[Floats, tuple[str, ...]]:
    """The affine, index to RAS mm, of a header, and notes about what its readers may differ in."""
    _check_fields(header, shape, name)
    affine = _by_itk(header)
    sform = _sform(header)
    if affine is None:
        note = (
            f"the axes of {name} are not at right angles: 3D Slicer and ITK-SNAP do not open it; resample it to a grid "
            "that is"
        )
        return check_affine(sform), (note,)
    others = [sform] if header["sform_code"] > 0 else []
    by_qform = _by_itk(header, sform_code=0) if header["qform_code"] > 0 else None
    others += [by_qform] if by_qform is not None else []
    apart = max((_apart(affine, other, shape) for other in others), default=0.0)
    if apart <= SAME_PLACE * float(np.linalg.norm(affine[:3, :3], axis=0).min()):
        return affine, ()
    used = "qform" if by_qform is not None and not _apart(affine, by_qform, shape) else "sform, with pixdim's spacing,"
    note = (
        f"the header of {name} places it twice, up to {apart:.3g} mm apart (qform, sform and pixdim differ); its "
        f"{used} counts, as in 3D Slicer and ITK-SNAP"
    )
    return affine, (note,)


def _header_size(start: bytes) -> int | None:
    for size, place in SIGNATURES.items():
        if start[place] in (*ONE_FILE, *TWO_FILES) and len(start) >= size:
            return size
    stated = int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")
    return 348 if 348 in stated and len(start) >= 348 else None  # Analyze has no signature


def _read_header(start: bytes, name: str) -> Any:
    """The header without nibabel's checks, which quietly mend a place or refuse what ITK opens."""
    size = _header_size(start)
    if size is None:
        raise OSError(f"{name} has no header")
    kind: Any = SIZES[size]
    n_dims = int(np.frombuffer(start, kind.template_dtype, count=1)["dim"][0, 0].byteswap())
    order = "swapped" if 1 <= n_dims <= 7 else "native"
    header = kind(start[:size], endianness=order, check=False)
    if _signature(header) not in (*ONE_FILE, *TWO_FILES):  # Analyze, which has other things at these places
        for field in ("qform_code", "sform_code", "xyzt_units", "scl_slope", "scl_inter"):
            header[field] = 0
    return header


def _signature(header: Any) -> bytes:
    content: bytes = header["magic"].tobytes()
    return content[:3]


def _layout(header: Any, name: str, limit_bytes: int) -> _Layout:
    n_dims = int(header["dim"][0])
    if not 1 <= n_dims <= 7:
        raise VolumeError(
            f"{name} has dim[0] = {n_dims} in its header, where 1 to 7 dimensions can be; it is damaged or no NIfTI"
        )
    dims = [int(length) for length in header["dim"][1 : n_dims + 1]]
    # ITK counts an empty dimension behind the three of space as 1.
    shape = tuple(dims[:3] + [max(length, 1) for length in dims[3:]])
    if len(dims) == 1:
        raise VolumeError(
            f"{name} has dim = {[1, *dims]} in its header, a single row of voxels: a volume has 3 dimensions"
        )
    if dims[0] == 1 and max(shape[3:], default=1) > 1:
        raise VolumeError(
            f"{name} has dim = {[n_dims, *shape]} in its header, a channel where viewers take the first axis of space "
            "to be: save it without that channel"
        )
    code = int(header["datatype"])
    if code not in (*DTYPES, *SEVERAL_VALUES):
        raise VolumeError(
            f"{name} has datatype = {code} in its header, which is no type that can be read; save it as float32"
        )
    dtype = np.dtype(DTYPES.get(code, "u1")).newbyteorder(header.endianness)
    check_volume(name, shape, code in DTYPES, dtype.itemsize, limit_bytes)
    size = header.template_dtype.itemsize
    is_alone = _signature(header) not in ONE_FILE
    offset = float(header["vox_offset"])
    if not is_alone and not FIRST_VOXEL[size] <= offset:
        raise VolumeError(
            f"{name} has vox_offset = {offset:.6g} in its header, which is within the header itself: voxels begin at "
            f"byte {FIRST_VOXEL[size]} or later, correct it"
        )
    return _Layout(shape, dtype, int(offset) if np.isfinite(offset) else -1, is_alone)


def _check_fields(header: Any, shape: tuple[int, ...], name: str) -> None:
    """VolumeError for numbers that ITK would quietly replace, or that readers take for different places."""
    for axis, length in enumerate(shape[:3], start=1):
        spacing = float(header["pixdim"][axis])
        if spacing < 0:
            mend = MEND.format(name=name if PLAIN_NAME.fullmatch(name) else "FILE")
            raise VolumeError(
                f"{name} has pixdim[{axis}] = {spacing:.6g} in its header, and viewers differ in which way that axis "
                f"runs: it must be more than 0. To take its size and keep the place: {mend}"
            )
        if not np.isfinite(spacing) or (spacing == 0 and length > 1):
            raise VolumeError(
                f"{name} has pixdim[{axis}] = {spacing:.6g} in its header, which is no voxel spacing: it must be more "
                "than 0, correct its header"
            )
    has_qform, has_sform = header["qform_code"] > 0, header["sform_code"] > 0
    fields = (*(SFORM_FIELDS if has_sform else ()), *(QFORM_FIELDS if has_qform else ()))
    for field in fields:
        if not np.isfinite(header[field]).all():
            raise VolumeError(
                f"{name} cannot be placed in space: its header has {field} = {header[field].tolist()}; correct it"
            )


def _by_itk(header: Any, **changed: int) -> Floats | None:
    """The affine that ITK reads from a header of the same place, of a small image; None where it opens none."""
    asked: Any = Nifti1Header()  # type: ignore[no-untyped-call]
    asked.set_data_shape((2, 2, 2))
    asked.set_data_dtype(np.uint8)
    for field in (*PLACE_FIELDS, *QFORM_FIELDS):
        asked[field] = changed.get(field, header[field])
    # An axis of one voxel, or one that is not there, may have no spacing.
    asked["pixdim"][1:4] = np.where(asked["pixdim"][1:4] > 0, asked["pixdim"][1:4], 1.0)
    asked["pixdim"][4:] = 1.0
    asked["xyzt_units"] = int(header["xyzt_units"]) & 0xFF
    asked["magic"], asked["vox_offset"] = b"n+1", FIRST_VOXEL[348]
    affine = _asked(asked.binaryblock + bytes(4 + 8))
    return None if affine is None else affine.copy()


@lru_cache(maxsize=256)
def _asked(content: bytes) -> Floats | None:
    """The affine that ITK reads from a file of eight voxels."""
    reader: Any = sitk.ImageFileReader()  # type: ignore[no-untyped-call]
    reader.SetImageIO("NiftiImageIO")
    with NamedTemporaryFile(prefix="sam3d-", suffix=".nii") as file:
        file.write(content)
        file.flush()
        reader.SetFileName(file.name)
        try:
            reader.ReadImageInformation()
        except RuntimeError:
            return None
    return itk_affine(reader, (2, 2, 2))


def _sform(header: Any) -> Floats:
    """The sform as it stands, in millimetres."""
    rows = np.array([header[field] for field in SFORM_FIELDS], dtype=np.float64)
    return np.vstack([rows * MILLIMETRES.get(int(header["xyzt_units"]) & UNIT_BITS, 1.0), [0, 0, 0, 1]])


def _apart(first: Floats, second: Floats, shape: tuple[int, ...]) -> float:
    """The largest distance, in mm, between the places that two affines give to one voxel."""
    lengths = [*shape[:3], 1, 1][:3]
    corners = np.array(list(product(*((0, length - 1) for length in lengths))))
    shift = (first - second)[:3]
    return float(np.linalg.norm(corners @ shift[:, :3].T + shift[:, 3], axis=1).max())


def _data_file(path: Path, layout: _Layout, name: str) -> Path:
    """The file with the voxels: beside the header, or the same where they follow it against its signature."""
    found = data_files(path) if layout.is_alone else []
    if not found and layout.is_alone and layout.offset < min(FIRST_VOXEL.values()):
        raise VolumeError(
            f"{name} is a header whose voxels are not beside it: put {HEADER_ENDING.sub('', path.name)}.img there, or "
            "save both as one file"
        )
    return found[0] if found else path


def _voxels(path: Path, layout: _Layout) -> NDArray[Any]:
    """All values as they are stored; OSError where there are fewer, or far more."""
    size = int(np.prod([float(length) for length in layout.shape])) * layout.dtype.itemsize
    with opened(path) as file:
        if layout.offset < 0:
            raise OSError("the header does not say where the voxels begin")
        file.seek(layout.offset)
        content = file.read(size)
        if len(content) < size:
            raise EOFError("fewer voxels than the header tells of")
        # To the end, for gzip compares its checksum at the very end only.
        for _ in range(MAX_SURPLUS_MIB):
            if not file.read(2**20):
                return np.frombuffer(content, layout.dtype).reshape(layout.shape, order="F")
    raise OSError("far more data than the header tells of")


def _scaling(header: Any) -> tuple[float, float]:
    """Slope and intercept; as in ITK, one that is no number counts for nothing."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    return slope if np.isfinite(slope) and slope else 1.0, intercept if np.isfinite(intercept) else 0.0
