"""Image files of a known content, and DICOM series with a known fault, written into a test's own folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

LPS_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def numbered(shape: tuple[int, ...], dtype: str = "int16") -> NDArray:
    """Every voxel its own number, so that a swapped axis shows."""
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def write_nifti(
    path: Path, array: NDArray, affine: NDArray, edit: Callable[[nib.Nifti1Header], None] | None = None
) -> Path:
    """A NIfTI file; `edit` may spoil its header after nibabel has written (and mended) it. Uncompressed if it does."""
    nib.save(nib.Nifti1Image(array, affine), path)
    if edit is not None:
        content = bytearray(path.read_bytes())
        header = nib.Nifti1Header(bytes(content[:348]), check=False)
        edit(header)
        content[:348] = header.binaryblock
        path.write_bytes(content)
    return path


def write_itk(path: Path, array: NDArray, affine: NDArray) -> Path:
    """An array (I, J, K) with a right-angled affine, in the format of the path's ending."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    lps = LPS_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(image, str(path))
    return path


def write_dicom_series(
    folder: Path,
    array: NDArray,
    affine: NDArray,
    edit: Callable[[int, FileDataset], None] | None = None,
    skip: tuple[int, ...] = (),
) -> Path:
    """A CT series of an array (I, J, K): slice k at its own place by the affine, under a shuffled file name.

    `edit` may change slice k's data set before it is written; the slices in `skip` are left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lps = LPS_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    frame = (lps[:3, :3] / spacing).T
    series = generate_uid()
    names = np.random.default_rng(7).permutation(array.shape[2])
    for k in range(array.shape[2]):
        if k in skip:
            continue
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = folder / f"{names[k]:04d}.dcm"
        slice_ = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        slice_.is_little_endian, slice_.is_implicit_VR = True, False
        slice_.SOPClassUID, slice_.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        slice_.SeriesInstanceUID, slice_.StudyInstanceUID = series, generate_uid()
        slice_.Modality, slice_.InstanceNumber = "CT", int(names[k]) + 1
        slice_.Columns, slice_.Rows = array.shape[0], array.shape[1]
        slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
        slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit, slice_.PixelRepresentation = 16, 16, 15, 1
        slice_.RescaleSlope, slice_.RescaleIntercept = 1, -1024
        slice_.PixelSpacing = [_short(spacing[1]), _short(spacing[0])]
        slice_.SliceThickness = _short(spacing[2])
        slice_.ImageOrientationPatient = [_short(value) for value in (*frame[0], *frame[1])]
        slice_.ImagePositionPatient = [_short(value) for value in lps[:3, :3] @ [0, 0, k] + lps[:3, 3]]
        slice_.PixelData = np.ascontiguousarray(array[:, :, k].T + 1024).astype("<i2").tobytes()
        if edit is not None:
            edit(k, slice_)
        slice_.save_as(path, write_like_original=False)
    return folder


def _short(value: float) -> str:
    """A decimal string of at most 16 characters, which is all that DICOM takes."""
    return f"{value:.9f}"[:16]
