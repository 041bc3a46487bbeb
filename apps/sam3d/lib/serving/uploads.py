"""The one place that owns temporary files of what clients send: each is gone when its request has its answer."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from starlette.datastructures import UploadFile

from lib.images.files import ITK_ENDINGS, NIFTI_ENDINGS
from lib.images.uploads import uploaded_as
from lib.infers.failures import answer, as_answers
from lib.naming import ending_of

IMAGE_ENDINGS = (*NIFTI_ENDINGS, *ITK_ENDINGS)
UNNAMED = "image.nii.gz"
DICOM = ".dcm"
# Where a DICOM file says that it is one.
DICOM_MARK, DICOM_MARK_AT = b"DICM", 128


@contextmanager
def on_disk(upload: UploadFile, endings: Sequence[str], what: str) -> Iterator[Path]:
    """A file that was sent as a temporary one, named as MONAI Label names uploads; HTTPException 422, which calls it
    `what`, if its name has none of the `endings`."""
    with as_answers():
        ending = ending_of(upload.filename or UNNAMED, tuple(endings), what)
    with tempfile.NamedTemporaryFile(suffix=ending) as file, uploaded_as(upload.filename, Path(file.name)):
        with as_answers():
            shutil.copyfileobj(upload.file, file)
            file.flush()
        yield Path(file.name)


@contextmanager
def image_or_series(uploads: Sequence[UploadFile]) -> Iterator[Path]:
    """One image as a file, or DICOM files as a folder, under names of ours; HTTPException 422 for anything else."""
    with tempfile.TemporaryDirectory() as place:
        if len(uploads) == 1 and not _is_dicom(uploads[0]):
            name = uploads[0].filename or UNNAMED
            with as_answers():
                ending = ending_of(name, IMAGE_ENDINGS, "the file sent along")
            yield _written(uploads[0], Path(place) / f"image{ending}")
            return
        folder = Path(place) / "series"
        folder.mkdir()
        for number, upload in enumerate(uploads):
            if not _is_dicom(upload):
                raise answer(
                    422,
                    f"{(upload.filename or '')[-40:]!r} is no DICOM file: send one image, or the DICOM files of one "
                    "series, and no archive of files",
                )
            _written(upload, folder / f"{number:05d}{DICOM}")
        yield folder


def _is_dicom(upload: UploadFile) -> bool:
    upload.file.seek(DICOM_MARK_AT)
    mark = upload.file.read(len(DICOM_MARK))
    upload.file.seek(0)
    return bool(mark == DICOM_MARK)


def _written(upload: UploadFile, path: Path) -> Path:
    with as_answers(), path.open("wb") as file:
        shutil.copyfileobj(upload.file, file)
    return path
