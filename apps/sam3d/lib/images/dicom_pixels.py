"""The values that a DICOM file stores, before any rescaling, whatever its transfer syntax."""

from __future__ import annotations

import zlib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import generate_pixel_data_frame
from pydicom.uid import RLELossless, SecondaryCaptureImageStorage, generate_uid

# Deflated Image Frame Compression, which this pydicom does not know.
DEFLATED_FRAMES = "1.2.840.10008.1.2.8.1"
# What says how pixels are stored, and nothing of what they mean.
LAYOUT = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")


def stored_frames(data: Any) -> NDArray[Any]:
    """The grey values (frames, rows, columns) of a data set, as stored: not rescaled, and never inverted.

    RuntimeError or ValueError for what cannot be decoded, AttributeError where there are no pixels.
    """
    frames = int(data.get("NumberOfFrames") or 1)
    shape = (frames, int(data.Rows), int(data.Columns))
    if int(data.get("SamplesPerPixel") or 1) != 1:
        raise ValueError("a colour image has no grey values")
    syntax = data.file_meta.TransferSyntaxUID
    if syntax == DEFLATED_FRAMES:
        return _inflated(data, shape)
    if syntax.is_encapsulated and syntax != RLELossless:
        return _decoded(data).reshape(shape)
    pixels: NDArray[Any] = data.pixel_array
    return pixels.reshape(shape)


def is_encapsulated(data: Any) -> bool:
    """Whether each frame is packed on its own, as in JPEG."""
    syntax = data.file_meta.TransferSyntaxUID
    return bool(syntax == DEFLATED_FRAMES or syntax.is_encapsulated)


def _inflated(data: Any, shape: tuple[int, int, int]) -> NDArray[Any]:
    """Frames that are deflated one by one, as segmentations are stored."""
    bits, size = int(data.BitsAllocated), shape[1] * shape[2]
    most = (size * bits + 7) // 8 + 1  # a frame ends on an even byte
    values = np.empty(shape, dtype=f"<u{max(1, bits // 8)}")
    packed = list(generate_pixel_data_frame(data.PixelData, shape[0]))
    if len(packed) != shape[0]:
        raise ValueError(f"{len(packed)} of {shape[0]} frames")
    for index, frame in enumerate(packed):
        content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(frame, most)
        if len(content) * 8 < size * bits:
            raise ValueError(f"frame {index} is cut short")
        if bits == 1:
            unpacked = np.unpackbits(np.frombuffer(content, np.uint8), bitorder="little")[:size]
        else:
            unpacked = np.frombuffer(content, values.dtype, count=size)
        values[index] = unpacked.reshape(shape[1:])
    return values


def _decoded(data: Any) -> NDArray[Any]:
    """By ITK's decoders, of a copy that says nothing but how its pixels are stored, so that ITK changes no value."""
    plain: Any = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
    plain.file_meta.MediaStorageSOPClassUID = plain.SOPClassUID = SecondaryCaptureImageStorage
    plain.file_meta.MediaStorageSOPInstanceUID = plain.SOPInstanceUID = generate_uid()
    plain.file_meta.TransferSyntaxUID = data.file_meta.TransferSyntaxUID
    plain.is_little_endian, plain.is_implicit_VR = True, False
    plain.PhotometricInterpretation = "MONOCHROME2"
    for keyword in LAYOUT:
        if keyword in data:
            setattr(plain, keyword, data[keyword].value)
    if "NumberOfFrames" in data:
        plain.NumberOfFrames = data.NumberOfFrames
    plain.PixelData = data.PixelData
    plain["PixelData"].is_undefined_length = True
    with TemporaryDirectory() as place:
        path = Path(place) / "plain.dcm"
        plain.save_as(path, write_like_original=False)
        reader: Any = sitk.ImageFileReader()  # type: ignore[no-untyped-call]
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(path))
        values: NDArray[Any] = sitk.GetArrayFromImage(reader.Execute())
    return values


def rescaled(values: NDArray[Any], slope: float, intercept: float) -> NDArray[np.float32]:
    """slope * values + intercept as float32."""
    return (values.astype(np.float64) * slope + intercept).astype(np.float32)


def group_of(data: Dataset, index: int, sequence: str) -> Any:
    """What a multi-frame data set says of a frame in one of its functional groups: for it alone, or for all of them.

    None where it says nothing.
    """
    own = data.get("PerFrameFunctionalGroupsSequence") or ()
    shared = data.get("SharedFunctionalGroupsSequence") or ()
    for groups in (own[index : index + 1], shared[:1]):
        if groups and groups[0].get(sequence):
            return groups[0][sequence][0]
    return None
