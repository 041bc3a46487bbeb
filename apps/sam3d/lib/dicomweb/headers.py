"""What the header of a DICOM file says: of an instance the few things that an index needs, of a series what is queried.

An index reads a header of each of many files, so the few elements are looked for directly, in the first bytes of a
file. What is stored in an unusual way is left to pydicom, which takes several times as long.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_partial
from pydicom.multival import MultiValue
from pydicom.tag import Tag

from lib.images.dicom_places import Place

# An element as DICOM JSON has it: its vr and, where it is not empty, its Value.
Element = Mapping[str, Any]

STUDY_UID, SERIES_UID, INSTANCE_UID = "0020000D", "0020000E", "00080018"
PATIENT_ID = "00100020"
CLASS_UID, MODALITY, INSTANCE_NUMBER, FRAMES = "00080016", "00080060", "00200013", "00280008"
POSITION, ORIENTATION = "00200032", "00200037"
ROWS, COLUMNS = "00280010", "00280011"
ENTRY_TAGS = (
    *(CLASS_UID, INSTANCE_UID, STUDY_UID, SERIES_UID, INSTANCE_NUMBER, POSITION, ORIENTATION, FRAMES, ROWS, COLUMNS),
)
# The last of them; everything is sorted.
LAST_TAG = int(COLUMNS, 16)
WANTED = {int(tag, 16): tag for tag in ENTRY_TAGS}
# So much of a file is read to find them.
FIRST_BYTES = 16_384
SIGNATURE_AT, SIGNATURE = 128, b"DICM"
META_SYNTAX = 0x00020010
IMPLICIT = "1.2.840.10008.1.2"
PLAIN = (IMPLICIT, "1.2.840.10008.1.2.1")
DEFLATED, BIG_ENDIAN = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
# Whose length takes four bytes.
LONG = frozenset(
    each.encode() for each in ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV")
)
UNDEFINED = 0xFFFFFFFF
# Files that lack the signature may be DICOM all the same if they are called so.
DICOM_ENDINGS = (".dcm", ".dicom", ".ima")
UNREADABLE = (
    *(InvalidDicomError, OSError, EOFError, ValueError, TypeError, AttributeError, KeyError, NotImplementedError),
    *(struct.error, IndexError),
)


@dataclass(frozen=True)
class Header:
    """What an index knows of an instance beside its series."""

    study: str
    series: str
    uid: str
    sop_class: str
    syntax: str
    number: int
    frames: int
    rows: int
    columns: int
    position: str = ""
    orientation: str = ""

    @property
    def place(self) -> Place:
        """Where it lies, as far as it says so."""
        try:
            return Place(self.frames, _numbers(self.position), _numbers(self.orientation))
        except ValueError:
            return Place(self.frames)

    def fields(self) -> dict[str, Element]:
        """As DICOM JSON."""
        return {
            CLASS_UID: {"vr": "UI", "Value": [self.sop_class]},
            INSTANCE_UID: {"vr": "UI", "Value": [self.uid]},
            INSTANCE_NUMBER: {"vr": "IS", "Value": [self.number]},
            **({FRAMES: {"vr": "IS", "Value": [self.frames]}} if self.frames > 1 else {}),
            ROWS: {"vr": "US", "Value": [self.rows]},
            COLUMNS: {"vr": "US", "Value": [self.columns]},
        }


def read_header(path: Path) -> Header | None:
    """The header of a file; None for what is no DICOM instance and does not call itself one.

    One of UNREADABLE for a DICOM file that is damaged or cut short.
    """
    with path.open("rb") as file:
        start = file.read(FIRST_BYTES)
    if start[SIGNATURE_AT : SIGNATURE_AT + 4] != SIGNATURE and not path.name.lower().endswith(DICOM_ENDINGS):
        return None
    said = _found(start) or _found_by_pydicom(path)
    if said.get("class") == "1.2.840.10008.1.3.10":  # a DICOMDIR, which is about instances and none itself
        return None
    return Header(
        study=said[STUDY_UID],
        series=said[SERIES_UID],
        uid=said[INSTANCE_UID],
        sop_class=said.get(CLASS_UID, ""),
        syntax=said["syntax"],
        number=_whole(said.get(INSTANCE_NUMBER)),
        frames=_whole(said.get(FRAMES)) or 1,
        rows=_whole(said.get(ROWS)),
        columns=_whole(said.get(COLUMNS)),
        position=said.get(POSITION, ""),
        orientation=said.get(ORIENTATION, ""),
    )


def _found(start: bytes) -> dict[str, str] | None:
    """The wanted elements of a file that begins with these bytes; None where they are not all in plain sight."""
    at, syntax = SIGNATURE_AT + 4, ""
    said: dict[str, str] = {}
    is_implicit = False
    try:
        while True:
            group, element = struct.unpack_from("<HH", start, at)
            tag = group << 16 | element
            if group > 2 and not syntax:
                return None
            if group > 2 and "syntax" not in said:
                if syntax not in PLAIN and (
                    syntax in (DEFLATED, BIG_ENDIAN) or not syntax.startswith("1.2.840.10008.")
                ):
                    return None
                said["syntax"], is_implicit = syntax, syntax == IMPLICIT
            if tag > LAST_TAG:
                return said if said.keys() >= {STUDY_UID, SERIES_UID, INSTANCE_UID} else None
            vr = start[at + 4 : at + 6]
            if is_implicit:
                (length,) = struct.unpack_from("<I", start, at + 4)
                at += 8
            elif vr in LONG:
                (length,) = struct.unpack_from("<I", start, at + 8)
                at += 12
            else:
                (length,) = struct.unpack_from("<H", start, at + 6)
                at += 8
            if length == UNDEFINED:
                return None
            value = start[at : at + length]
            at += length
            if tag == META_SYNTAX:
                syntax = _text(value)
            elif tag in WANTED:
                if len(value) < length:
                    return None
                is_number = WANTED[tag] in (ROWS, COLUMNS)
                said[WANTED[tag]] = str(int.from_bytes(value[:2], "little")) if is_number else _text(value)
    except (struct.error, UnicodeDecodeError):
        return None


def _found_by_pydicom(path: Path) -> dict[str, str]:
    with path.open("rb") as file:
        has_signature = file.read(SIGNATURE_AT + 4)[SIGNATURE_AT:] == SIGNATURE
        file.seek(0)
        data: Any = read_partial(
            file,
            stop_when=lambda tag, vr, length: tag > LAST_TAG,
            force=not has_signature,
            specific_tags=[Tag(tag) for tag in WANTED],
        )
    values = {name: data[tag].value for tag, name in WANTED.items() if tag in data}
    said = {name: _joined(value) for name, value in values.items() if value is not None}
    if not has_signature and INSTANCE_UID not in said:
        raise InvalidDicomError("it has neither DICOM's signature nor an instance's UID")
    missing = {STUDY_UID, SERIES_UID, INSTANCE_UID} - said.keys()
    if "MediaStorageSOPClassUID" in data.file_meta:
        said["class"] = str(data.file_meta.MediaStorageSOPClassUID)
    if missing and said.get("class") != "1.2.840.10008.1.3.10":
        raise InvalidDicomError("it names no study, series or instance")
    said["syntax"] = str(data.file_meta.get("TransferSyntaxUID") or (IMPLICIT if data.is_implicit_VR else PLAIN[1]))
    return {**dict.fromkeys(missing, ""), **said}


def _joined(value: Any) -> str:
    """One value as a text, or several as DICOM writes them."""
    return "\\".join(map(str, value)) if isinstance(value, MultiValue) else str(value)


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split("\\") if part.strip())


def _text(value: bytes) -> str:
    return value.decode("ascii").strip("\0 ")


def _whole(text: str | None) -> int:
    try:
        return int(float(text or 0))
    except ValueError:
        return 0


def read_fields(path: Path) -> dict[str, Element]:
    """The whole header of a file, without its pixels, as DICOM JSON."""
    data: Any = read_data(path, stop_before_pixels=True)
    fields: dict[str, Element] = data.to_json_dict(suppress_invalid_tags=True)
    json.dumps(fields, allow_nan=False)  # ValueError for what JSON has no word for
    return fields


def read_data(path: Path, **options: Any) -> Any:
    """A file's data set, also of one without signature whose name says what it is."""
    with path.open("rb") as file:
        has_signature = file.read(SIGNATURE_AT + 4)[SIGNATURE_AT:] == SIGNATURE
    data: Any = pydicom.dcmread(path, force=not has_signature, **options)
    if "TransferSyntaxUID" not in data.file_meta:
        data.file_meta.TransferSyntaxUID = IMPLICIT if data.is_implicit_VR else PLAIN[1]
    return data


def first_value(fields: Mapping[str, Element], tag: str) -> Any:
    """The first value of an element; None where there is none."""
    values = fields.get(tag, {}).get("Value") or [None]
    return values[0]
