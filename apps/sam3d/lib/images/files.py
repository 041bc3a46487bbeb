"""The voxels and the affine of image files: NIfTI and Analyze, NRRD and MetaImage, told apart by their content.

Headers are checked before a voxel is decoded: what is no single grey 3D volume, or too large, is refused unread.
"""

from __future__ import annotations

import re
from pathlib import Path

from lib.errors import VolumeError
from lib.images.foreign import named_content
from lib.images.itk_files import HEADER_BYTES, data_name, kind_of, read_itk
from lib.images.nifti import DAMAGED, data_files, is_nifti, is_packed, opened, read_nifti
from lib.images.stored import Stored
from lib.images.uploads import shown_name

# What people call such files. Any content may lie under any of them.
NIFTI_ENDINGS = (".nii", ".nii.gz", ".hdr", ".hdr.gz")
# Headers of two files that have their voxels in a file of the same name.
PAIRED_ENDINGS, HEADERS = (".hdr", ".hdr.gz"), (".hdr", ".HDR", ".hdr.gz", ".HDR.GZ")
VOXELS = re.compile(r"(?i)\.img(\.gz)?$")
ITK_ENDINGS = (".nrrd", ".nhdr", ".mha", ".mhd")


def read_image_file(path: Path, limit_bytes: int) -> Stored:
    """What an image file stores; VolumeError, or GeometryError for its affine, if that is no volume."""
    name, path = shown_name(path), header_of(path)
    if not path.is_file():
        raise VolumeError(f"{name} does not exist; choose an image of the study list")
    if path.stat().st_size == 0:
        raise VolumeError(f"{name} is an empty file; copy or download it again")
    reader = reader_of(path)
    return read_nifti(path, limit_bytes) if reader is None else read_itk(path, reader, limit_bytes)


def reader_of(path: Path) -> str | None:
    """ITK's reader of what a file holds, None for NIfTI; VolumeError for what is neither."""
    name = shown_name(path)
    try:
        with opened(path) as file:
            start = file.read(HEADER_BYTES)
    except DAMAGED as error:
        raise VolumeError(f"{name} is damaged, cut short or no NIfTI image; copy or download it again") from error
    if is_nifti(start):
        return None
    kind = kind_of(start)
    if kind is None and (what := named_content(start)):
        raise VolumeError(f"{name} is {what}")
    if kind is None and name.lower().endswith((*NIFTI_ENDINGS, *ITK_ENDINGS)):
        raise VolumeError(
            f"{name} is damaged, cut short or no NIfTI image, nor NRRD or MetaImage; copy or download it again"
        )
    if kind is None:
        known = ", ".join((*NIFTI_ENDINGS, *ITK_ENDINGS))
        raise VolumeError(f"{name} is of no known format; use one of {known}, or a folder with one DICOM series")
    if is_packed(path):
        raise VolumeError(f"{name} is a NRRD or MetaImage file packed with gzip; unpack it (gunzip)")
    return kind


def header_of(path: Path) -> Path:
    """The file with the header of an image: that beside it, for the voxels of an Analyze or NIfTI pair."""
    if VOXELS.search(path.name):
        stem = VOXELS.sub("", path.name)
        return next((found for end in HEADERS if (found := path.with_name(stem + end)).is_file()), path)
    return path


def files_of(path: Path) -> list[Path]:
    """A file, and that beside it that holds its voxels where it is a header without any; FileNotFoundError if it is
    not there."""
    header = header_of(path)
    if header.name.lower().endswith(PAIRED_ENDINGS):
        return [header, *data_files(header)]
    if not path.name.lower().endswith(ITK_ENDINGS):
        return [path]
    stat = path.stat()
    beside = data_name(path, (stat.st_size, stat.st_mtime_ns))
    return [path, *([found] if beside and (found := path.with_name(beside)).is_file() else ())]
