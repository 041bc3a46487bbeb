"""The instances in one folder, found by UID; what comes in is checked, then put in place whole or not at all."""

from __future__ import annotations

import json
import logging
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

logger = logging.getLogger(__name__)

# An element as DICOM JSON has it: its vr and, where it is not empty, its Value.
Element = Mapping[str, Any]

STUDY_UID, SERIES_UID, INSTANCE_UID = "0020000D", "0020000E", "00080018"
PATIENT_ID = "00100020"
CLASS_UID, MODALITY, INSTANCE_NUMBER, FRAMES = "00080016", "00080060", "00200013", "00280008"
# What the names of files begin with that have not come in whole.
INCOMING = ".incoming-"
UNCOMPRESSED = (ImplicitVRLittleEndian, ExplicitVRLittleEndian)
UID = re.compile(r"[0-9]+(\.[0-9]+)*")
UNREADABLE = (
    InvalidDicomError,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    KeyError,
    NotImplementedError,
)
# Reasons for a refusal, PS3.18 table I.2-2.
CANNOT_UNDERSTAND, WRONG_STUDY, WRONG_SYNTAX, DUPLICATE = 0xC000, 0xA900, 0xC122, 0x0111


class RefusedError(Exception):
    """An instance that is not taken, with DICOM's number for the reason."""

    def __init__(self, reason: int, sentence: str, instance: Instance | None = None) -> None:
        super().__init__(sentence)
        self.reason, self.instance = reason, instance


@dataclass(frozen=True, eq=False)
class Instance:
    """One file: its UIDs, its header as DICOM JSON, and how many frames it has."""

    path: Path
    study: str
    series: str
    uid: str
    fields: Mapping[str, Element]
    metadata: str
    frames: int

    def first(self, tag: str) -> Any:
        """The first value of an element; None where there is none."""
        return first_value(self.fields, tag)


class Archive:
    """Thread-safe; other processes must leave the folder alone while it is open."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.left_out: dict[Path, str] = {}
        self._lock = threading.Lock()
        self._instances: dict[str, Instance] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob(f"{INCOMING}*"):  # of a server that was killed
            path.unlink()
        for path in sorted(folder.rglob("*")):
            is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
            if path.is_file() and not is_hidden and _is_meant(path):
                self._add(path)

    def _add(self, path: Path) -> None:
        try:
            instance = read_instance(path)
        except RefusedError as refusal:
            self.left_out[path] = str(refusal)
            return
        known = self._instances.setdefault(instance.uid, instance)
        if known is not instance:
            self.left_out[path] = f"{path.name} has the SOPInstanceUID of {known.path.name}"

    def find(self, study: str | None = None, series: str | None = None, uid: str | None = None) -> list[Instance]:
        """The instances of a study, a series, or the one with a UID, in the order of their numbers."""
        with self._lock:
            one = self._instances.get(uid) if uid is not None else None
            candidates = list(self._instances.values()) if uid is None else [one] if one else []
        found = [each for each in candidates if study in (None, each.study) and series in (None, each.series)]
        return sorted(found, key=lambda each: (each.study, each.series, _number(each), each.uid))

    def store(self, received: Path, study: str | None = None) -> Instance:
        """Take over a file of this folder's own file system; RefusedError if it cannot be served.

        The same bytes again are fine: a client whose answer was lost sends them again.
        """
        instance = read_instance(received)
        if study not in (None, instance.study):
            raise RefusedError(WRONG_STUDY, f"the instance belongs to study {instance.study}, not {study}", instance)
        self._refuse_another_patient(instance)
        target = self.folder / instance.study / instance.series / f"{instance.uid}.dcm"
        with self._lock:
            known = self._instances.get(instance.uid)
            if known is not None:
                if _digest(known.path) != _digest(received):
                    raise RefusedError(DUPLICATE, f"another instance has the UID {instance.uid} already", instance)
                return known
            target.parent.mkdir(parents=True, exist_ok=True)
            with received.open("rb") as file:
                os.fsync(file.fileno())
            received.replace(target)
            stored = Instance(**{**vars(instance), "path": target})
            self._instances[instance.uid] = stored
        return stored

    def _refuse_another_patient(self, instance: Instance) -> None:
        patient = instance.first(PATIENT_ID)
        for known in self.find(instance.study)[:1]:
            if known.first(PATIENT_ID) != patient:
                sentence = f"study {instance.study} is of patient {known.first(PATIENT_ID)}, not of {patient}"
                raise RefusedError(WRONG_STUDY, sentence, instance)


def read_instance(path: Path) -> Instance:
    """A file's header; RefusedError for what is no uncompressed DICOM instance with sound UIDs."""
    try:
        data: Any = pydicom.dcmread(path, stop_before_pixels=True)
        syntax = data.file_meta.TransferSyntaxUID
        fields = data.to_json_dict(suppress_invalid_tags=True)
        metadata = json.dumps(fields, allow_nan=False)
        uids = [str(first_value(fields, tag) or "") for tag in (STUDY_UID, SERIES_UID, INSTANCE_UID)]
        frames = int(first_value(fields, FRAMES) or 1)
    except UNREADABLE as error:
        raise RefusedError(CANNOT_UNDERSTAND, f"{path.name} is no whole DICOM file ({error})") from error
    for uid in uids:
        if len(uid) > 64 or not UID.fullmatch(uid):
            raise RefusedError(CANNOT_UNDERSTAND, f"{path.name} has {uid[:80]!r} where a UID must be")
    instance = Instance(path, uids[0], uids[1], uids[2], fields, metadata, frames)
    if syntax not in UNCOMPRESSED:
        raise RefusedError(WRONG_SYNTAX, f"{path.name} is stored as {syntax.name}; decompress it first", instance)
    return instance


def pixels_of(instance: Instance) -> list[bytes]:
    """The frames of an instance, little endian; RefusedError where they are missing or not made of whole bytes."""
    data: Any = pydicom.dcmread(instance.path)
    bits = int(data.get("BitsAllocated") or 0)
    if "PixelData" not in data or bits % 8:
        raise RefusedError(CANNOT_UNDERSTAND, f"{instance.uid} has no frames of whole bytes; retrieve the instance")
    size = int(data.Rows) * int(data.Columns) * int(data.get("SamplesPerPixel") or 1) * bits // 8
    if len(data.PixelData) < size * instance.frames:
        raise RefusedError(CANNOT_UNDERSTAND, f"{instance.uid} is cut short: it has {len(data.PixelData)} bytes")
    return [data.PixelData[start : start + size] for start in range(0, size * instance.frames, size)]


def first_value(fields: Mapping[str, Element], tag: str) -> Any:
    """The first value of an element; None where there is none."""
    values = fields.get(tag, {}).get("Value") or [None]
    return values[0]


def _is_meant(path: Path) -> bool:
    """Whether a file calls itself DICOM, by its name or its signature; others are passed over without a word."""
    with path.open("rb") as file:
        return path.suffix.lower() == ".dcm" or file.read(132)[128:] == b"DICM"


def _number(instance: Instance) -> int:
    number = instance.first(INSTANCE_NUMBER)
    return number if isinstance(number, int) else 0


def _digest(path: Path) -> bytes:
    return sha256(path.read_bytes()).digest()
