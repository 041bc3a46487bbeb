"""The voxels and the affine of image files: NIfTI (.nii, .nii.gz), NRRD and MetaImage (.nrrd, .mha, .mhd).

Headers are checked before a voxel is decoded: what is no single grey 3D volume, or too large, is refused unread.
"""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from nibabel.filebasedimages import ImageFileError
from nibabel.fileholders import FileHolder
from nibabel.nifti1 import Nifti1Image
from nibabel.nifti2 import Nifti2Image
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from lib.errors import VolumeError
from lib.geometry import check_affine

Floats = NDArray[np.float64]
# Stored values (I, J, K), RAS affine, slope and intercept.
Voxels = tuple[NDArray[Any], Floats, float, float]

NIFTI_ENDINGS = (".nii", ".nii.gz")
ITK_ENDINGS = (".nrrd", ".mha", ".mhd")
# Bytes of the grey values that ITK can read; a NRRD list of one value counts as a vector to it.
ITK_ITEM_SIZES = {
    **dict.fromkeys((sitk.sitkInt8, sitk.sitkUInt8, sitk.sitkVectorInt8, sitk.sitkVectorUInt8), 1),
    **dict.fromkeys((sitk.sitkInt16, sitk.sitkUInt16, sitk.sitkVectorInt16, sitk.sitkVectorUInt16), 2),
    **dict.fromkeys((sitk.sitkInt32, sitk.sitkUInt32, sitk.sitkVectorInt32, sitk.sitkVectorUInt32), 4),
    **dict.fromkeys((sitk.sitkInt64, sitk.sitkUInt64, sitk.sitkVectorInt64, sitk.sitkVectorUInt64), 8),
    **dict.fromkeys((sitk.sitkFloat32, sitk.sitkVectorFloat32), 4),
    **dict.fromkeys((sitk.sitkFloat64, sitk.sitkVectorFloat64), 8),
}
# A header is short text before its data: this much of a file is searched for the name of a data file.
HEADER_BYTES = 65_536
# A file may go on this far behind its voxels; more is no image, and may be a gzip file made to unpack without end.
MAX_SURPLUS_MIB = 64
NRRD_END = re.compile(rb"\r?\n\r?\n")
NRRD_DATA_FILE = re.compile(rb"(?im)^data ?file:([^\r\n]*)")
META_END = re.compile(rb"(?im)^[ \t]*ElementDataFile[ \t]*=([^\r\n]*)")
DAMAGED = (ImageFileError, HeaderDataError, WrapStructError, OSError, EOFError, ValueError, zlib.error)


def read_image_file(path: Path, limit_bytes: int) -> Voxels:
    """What an image file stores; VolumeError, or GeometryError for its affine, if that is no volume."""
    name = path.name
    if not path.is_file():
        raise VolumeError(f"{name} does not exist; choose an image of the study list")
    if path.stat().st_size == 0:
        raise VolumeError(f"{name} is an empty file; copy or download it again")
    if name.lower().endswith(NIFTI_ENDINGS):
        return _read_nifti(path, limit_bytes)
    if name.lower().endswith(ITK_ENDINGS):
        return _read_itk(path, limit_bytes)
    known = ", ".join((*NIFTI_ENDINGS, *ITK_ENDINGS))
    raise VolumeError(f"{name} is of no known format; use one of {known}, or a folder with one DICOM series")


def _read_nifti(path: Path, limit_bytes: int) -> Voxels:
    name = path.name
    opener: Any = gzip.open if name.lower().endswith(".gz") else open
    try:
        with opener(path, "rb") as file:
            size_of_header = file.read(4)
            is_second = 540 in (int.from_bytes(size_of_header, "little"), int.from_bytes(size_of_header, "big"))
            kind: Any = Nifti2Image if is_second else Nifti1Image
            file.seek(0)
            # Without nibabel's check, which quietly mends a spacing of 0 or below.
            unchecked = kind.header_class(file.read(kind.header_class.template_dtype.itemsize), check=False)
            if not unchecked["magic"].tobytes().startswith(b"n+"):
                raise ImageFileError("the signature of a one-file NIfTI image is missing")
            image = kind.from_file_map({"image": FileHolder(fileobj=file), "header": FileHolder(fileobj=file)})
            shape, dtype = tuple(int(length) for length in image.shape), image.get_data_dtype()
            _check_header(name, shape, dtype.kind in "biuf", dtype.itemsize, limit_bytes)
            check_spacing(name, unchecked["pixdim"][1 : 1 + min(3, len(shape))])
            raw = np.asarray(image.dataobj.get_unscaled())
            _read_to_end(file)
    except DAMAGED as error:
        raise VolumeError(f"{name} is damaged, cut short or no NIfTI image; copy or download it again") from error
    return _as_3d(raw), image.affine, float(image.dataobj.slope), float(image.dataobj.inter)


def _read_to_end(file: Any) -> None:
    """Read past the voxels, for gzip compares its checksum at the very end only; OSError if that end is far off."""
    for _ in range(MAX_SURPLUS_MIB):
        if not file.read(2**20):
            return
    raise OSError("far more data than the header tells of")


def _read_itk(path: Path, limit_bytes: int) -> Voxels:
    name = path.name
    check_data_file(path)
    reader: Any = sitk.ImageFileReader()  # type: ignore[no-untyped-call]
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        shape = tuple(int(length) for length in reader.GetSize())
        is_grey = reader.GetNumberOfComponents() == 1 and reader.GetPixelID() in ITK_ITEM_SIZES
        _check_header(name, shape, is_grey, ITK_ITEM_SIZES.get(reader.GetPixelID(), 8), limit_bytes)
        check_spacing(name, np.array(reader.GetSpacing())[:3])
        affine = check_affine(itk_affine(reader, shape))
        raw = sitk.GetArrayFromImage(reader.Execute()).T
    except (RuntimeError, TypeError) as error:
        raise VolumeError(
            f"{name} is damaged, cut short or has a header that makes no sense; copy or download it again"
        ) from error
    return _as_3d(raw), affine, 1.0, 0.0


def itk_affine(reader: Any, shape: tuple[int, ...]) -> Floats:
    """RAS affine of the three axes that are space: the first three, or the last three behind a single channel."""
    n_axes = len(shape)
    matrix = np.array(reader.GetDirection()).reshape(n_axes, n_axes) * np.array(reader.GetSpacing())
    first = 1 if n_axes == 4 and shape[0] == 1 and shape[3] != 1 else 0
    space = slice(first, min(first + 3, n_axes))
    affine = np.eye(4)
    n_space = space.stop - space.start
    affine[:n_space, :n_space] = matrix[space, space]
    affine[:n_space, 3] = np.array(reader.GetOrigin())[space]
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # LPS to RAS


def check_data_file(path: Path) -> None:
    """A header may name other files to read its voxels from: only one, beside it, is followed."""
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES)
    is_nrrd = header.startswith(b"NRRD")
    end = NRRD_END.search(header) if is_nrrd else META_END.search(header)
    if end is None and len(header) == HEADER_BYTES:
        raise VolumeError(f"{path.name} has no header in its first {HEADER_BYTES} bytes; it is damaged or no image")
    named = NRRD_DATA_FILE.search(header[: end.start()] if end else header) if is_nrrd else end
    if named and re.search(rb"[/\\]|^LIST", named[1].strip()):
        raise VolumeError(
            f"{path.name} points to data files elsewhere, or to a list of them; save header and data as one file"
        )


def _check_header(name: str, shape: tuple[int, ...], is_grey: bool, itemsize: int, limit_bytes: int) -> None:
    if not is_grey:
        raise VolumeError(f"{name} has colours or several values per voxel; save one grey value per voxel")
    if len(shape) < 2 or min(shape) < 1:
        raise VolumeError(f"{name} has no voxels: its shape is {shape}")
    if len(_without_ones(shape)) > 3:
        raise VolumeError(
            f"{name} has {len(shape)} dimensions, shape {shape}: a volume has 3; save one channel or time point as a "
            "file of its own"
        )
    check_size(name, int(np.prod([float(length) for length in shape])) * max(itemsize, 4), limit_bytes)


def check_size(name: str, size_bytes: int, limit_bytes: int) -> None:
    """VolumeError for what would take more memory than allowed."""
    if size_bytes > limit_bytes:
        raise VolumeError(
            f"{name} would take {size_bytes / 2**20:.0f} MiB of memory, more than the {limit_bytes / 2**20:.0f} MiB "
            "allowed; crop or resample it"
        )


def check_spacing(name: str, spacing: NDArray[Any]) -> None:
    """VolumeError for voxels without a length."""
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        listed = [float(f"{length:.6g}") for length in spacing]
        raise VolumeError(f"{name} has a voxel spacing of {listed} mm; it must be more than 0: correct its header")


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without the single channels behind, or the one before, its three axes of space."""
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return shape[1:] if len(shape) == 4 and shape[0] == 1 else shape


def _as_3d(array: NDArray[Any]) -> NDArray[Any]:
    shape = _without_ones(array.shape)
    return array.reshape((*shape, 1) if len(shape) == 2 else shape)
