"""What lies under an image's name and is none that opens, by its first bytes, with what its user can do about it."""

from __future__ import annotations

SAVED_AS = "save it as NIfTI or NRRD"
STARTS = {
    b"\x1f\x8b": "packed twice with gzip: unpack it once (gunzip)",
    b"PK\x03\x04": "a ZIP archive: unpack it (unzip)",
    b"BZh": "packed with bzip2: unpack it (bunzip2)",
    b"\xfd7zXZ\x00": "packed with xz: unpack it (unxz)",
    b"\x28\xb5\x2f\xfd": "packed with zstd: unpack it (unzstd)",
    b"version https://git-lfs": "a placeholder of Git LFS: fetch the file that it stands for (git lfs pull)",
    b"\x89HDF\r\n": f"an HDF5 or MINC file: {SAVED_AS}",
    b"CDF\x01": f"a MINC file: {SAVED_AS}",
    b"\x93NUMPY": f"a NumPy array, which does not say where it lies: {SAVED_AS}",
    b"# vtk": f"a VTK file: {SAVED_AS}",
    b"\x89PNG": "a picture (PNG), not a volume",
    b"\xff\xd8\xff": "a picture (JPEG), not a volume",
    b"II*\x00": f"a TIFF file, which does not say where it lies: {SAVED_AS}",
    b"MM\x00*": f"a TIFF file, which does not say where it lies: {SAVED_AS}",
}
DICOM, DICOM_AT = b"DICM", 128
# At the end of a GIPL header, as large as that always is.
GIPL, GIPL_AT = (b"\x2a\xe3\x89\xb8", b"\xef\xff\xe9\xb0"), 252
PAGES = (b"<!doctype html", b"<html", b"<?xml")


def named_content(start: bytes) -> str:
    """What the first bytes of a file, unpacked once where it is packed, are those of; empty where nobody knows."""
    if start[DICOM_AT : DICOM_AT + len(DICOM)] == DICOM:
        return "a DICOM file: give the folder that holds its whole series"
    if start[GIPL_AT : GIPL_AT + len(GIPL[0])] in GIPL:
        return f"a GIPL file: {SAVED_AS}"
    if start.lstrip().lower().startswith(PAGES):
        return "a page of text, perhaps of a login, and not what it links to: download it again while logged in"
    return next((what for mark, what in STARTS.items() if start.startswith(mark)), "")
