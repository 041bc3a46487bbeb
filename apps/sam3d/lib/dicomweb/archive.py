"""The instances in a folder, found by UID. Headers are read once and kept; what is new there is seen in seconds.

What comes in is checked, then put in place whole or not at all. Pixels and whole headers are read from the files when
somebody asks for them.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.encaps import generate_pixel_data_frame
from pydicom.uid import UID as Uid

from lib.dicomweb.headers import (
    BIG_ENDIAN,
    DEFLATED,
    PATIENT_ID,
    PLAIN,
    SERIES_UID,
    STUDY_UID,
    UNREADABLE,
    Element,
    Header,
    first_value,
    read_data,
    read_fields,
    read_header,
)
from lib.dicomweb.index import Entry, Index
from lib.images.dicom_pixels import stored_frames

logger = logging.getLogger(__name__)

# What the names of files begin with that have not come in whole.
INCOMING = ".incoming-"
UID = re.compile(r"[0-9]+(\.[0-9]+)*")
# What a series is asked for, and what is said of it.
SERIES_TAGS = (
    *("00080005", "00080020", "00080030", "00080050", "00080060", "00080090", "00080201", "00081030", "00080021"),
    *("00080031", "0008103E", "00100010", PATIENT_ID, "00100030", "00100040", "00180015", STUDY_UID, SERIES_UID),
    *("00200010", "00200011", "00400244", "00400245", "00400275"),
)
# Reasons for a refusal, PS3.18 table I.2-2.
CANNOT_UNDERSTAND, WRONG_STUDY, DUPLICATE = 0xC000, 0xA900, 0x0111
# Seconds from one look at the folder to the next, at least, and how many times longer than a look itself takes.
LOOK_S, LOOK_SHARE = 2.0, 10.0
# A folder's time of change tells of a new file only if the file came later than the tick of the clock.
COARSE_S = 2.0
# How long a list waits for the first look at a new folder, and a series for the last file of it to be read.
LIST_WAIT_S, WHOLE_WAIT_S = 20.0, 25.0
# What has not come in whole within this time never does.
ABANDONED_S = 3600.0
# Headers that are read before what they say is seen.
BATCH = 500
# Seconds of reading that a crash may cost: each time that what was read is kept, the disk is waited for.
KEEP_S = 5.0


class RefusedError(Exception):
    """An instance that is not taken, with DICOM's number for the reason."""

    def __init__(self, reason: int, sentence: str, instance: Instance | None = None) -> None:
        super().__init__(sentence)
        self.reason, self.instance = reason, instance


@dataclass(frozen=True, eq=False)
class Instance:
    """One file, and what its header says of it."""

    path: Path
    header: Header

    @property
    def study(self) -> str:
        return self.header.study

    @property
    def series(self) -> str:
        return self.header.series

    @property
    def uid(self) -> str:
        return self.header.uid

    @property
    def frames(self) -> int:
        return self.header.frames

    def fields(self) -> dict[str, Element]:
        """The whole header as DICOM JSON; RefusedError if the file is gone or damaged meanwhile."""
        try:
            return read_fields(self.path)
        except UNREADABLE as error:
            raise RefusedError(CANNOT_UNDERSTAND, f"{self.path.name} cannot be read ({error})", self) from error


@dataclass(eq=False)
class Series:
    """The instances of a series by UID, each with its files by name; and the elements that are asked for."""

    study: str
    uid: str
    fields: Mapping[str, Element] = field(default_factory=dict)
    files: dict[str, dict[str, Instance]] = field(default_factory=dict)

    def instance(self, uid: str) -> Instance:
        """The one with a UID; of several files the first by name."""
        files = self.files[uid]
        return files[min(files)]

    def instances(self) -> list[Instance]:
        """All, in the order of their numbers."""
        found = [self.instance(uid) for uid in self.files]
        return sorted(found, key=lambda each: (each.header.number, each.uid))


@dataclass(frozen=True)
class _Listed:
    """What a folder held when it had changed last (-1: listed too soon after that to be sure)."""

    changed_ns: int
    below: tuple[str, ...]
    names: frozenset[str]


class Archive:
    """Thread-safe. What is stored goes to `received`, the folder itself unless named; the index to `kept`."""

    def __init__(self, folder: Path, received: Path | None = None, kept: Path | None = None) -> None:
        self.folder, self.received = folder, received or folder
        self._roots = [self.folder] if self.received == folder else [self.folder, self.received]
        self._index = Index(kept) if kept else None
        self._lock = threading.RLock()
        self._entries: dict[str, Entry] = {}
        # The files that may be whole by and by, as those are that are being copied.
        self._doubtful: set[str] = set()
        # The files that are no DICOM.
        self._others: set[str] = set()
        self._series: dict[tuple[str, str], Series] = {}
        self._studies: dict[str, dict[str, Series]] = {}
        self._listed: dict[Path, _Listed] = {}
        # What was read since the index was written.
        self._unkept: list[Entry] = []
        self._unkept_series: dict[tuple[str, str], Mapping[str, Element]] = {}
        self._kept_at = time.monotonic()
        self._has_list, self._is_whole, self._closed = threading.Event(), threading.Event(), threading.Event()
        self._problem = ""
        for root in self._roots:
            root.mkdir(parents=True, exist_ok=True)
        for path in self.received.glob(f"{INCOMING}*"):  # of a server that was killed; others may be coming in now
            if time.time() - path.stat().st_mtime > ABANDONED_S:
                path.unlink(missing_ok=True)
        if self._index is not None:
            self._restore(self._index)
        self._thread = threading.Thread(target=self._watch, daemon=True, name="dicom-index")
        self._thread.start()

    def close(self) -> None:
        """End the thread that looks for new files."""
        self._closed.set()
        self._thread.join(5.0)
        self._keep()

    def wait(self, limit_s: float | None = None) -> bool:
        """Until every file was looked at once; whether that is so."""
        return self._is_whole.wait(limit_s)

    # ----------------------------------------------------------------- what there is

    def series(self, study: str | None = None) -> list[Series]:
        """All series, or those of a study, as far as they are known."""
        self._has_list.wait(LIST_WAIT_S)
        with self._lock:
            groups = [self._studies.get(study, {})] if study is not None else list(self._studies.values())
            found = [series for group in groups for series in group.values()]
        return sorted(found, key=lambda each: (each.study, each.uid))

    def find(self, study: str | None = None, series: str | None = None, uid: str | None = None) -> list[Instance]:
        """The instances of a study, a series, or the one with a UID, in the order of their numbers.

        While a new folder is read for the first time, this waits for its last file, for it may be of this series.
        """
        self._is_whole.wait(WHOLE_WAIT_S)
        groups = [each for each in self.series(study) if series in (None, each.uid)]
        with self._lock:
            if uid is not None:
                return [each.instance(uid) for each in groups if uid in each.files]
            return [one for each in groups for one in each.instances()]

    def _with_uid(self, uid: str) -> list[Instance]:
        return [each.instance(uid) for each in self._series.values() if uid in each.files]

    def left_out(self) -> dict[str, str]:
        """The DICOM files that cannot be served, by name, and why, as far as they were read."""
        with self._lock:
            reasons = {name: entry.problem for name, entry in self._entries.items() if entry.problem}
            for series in self._series.values():
                for uid, files in series.files.items():
                    first, *others = sorted(files)
                    reasons |= dict.fromkeys(others, f"it has the SOPInstanceUID of {first} ({uid})")
        return dict(sorted(reasons.items()))

    def others(self) -> list[str]:
        """The names of files that are no DICOM, as far as they were read."""
        with self._lock:
            return sorted(self._others)

    # ----------------------------------------------------------------- what comes in

    def store(self, received: Path, study: str | None = None) -> Instance:
        """Take over a file of the received folder's own file system; RefusedError if it cannot be served.

        The same bytes again are fine: a client whose answer was lost sends them again.
        """
        instance = read_instance(received)
        if study not in (None, instance.study):
            raise RefusedError(WRONG_STUDY, f"the instance belongs to study {instance.study}, not {study}", instance)
        self._refuse_another_patient(instance)
        target = self.received / instance.study / instance.series / f"{instance.uid}.dcm"
        self._is_whole.wait(WHOLE_WAIT_S)
        with self._lock:
            for known in self._with_uid(instance.uid):
                if _digest(known.path) != _digest(received):
                    raise RefusedError(DUPLICATE, f"another instance has the UID {instance.uid} already", instance)
                return known
            target.parent.mkdir(parents=True, exist_ok=True)
            with received.open("rb") as file:
                os.fsync(file.fileno())
            received.replace(target)
            self._take([self._read(self._name_of(self.received, target), target.stat())])
        return Instance(target, instance.header)

    def _refuse_another_patient(self, instance: Instance) -> None:
        patient = first_value(instance.fields(), PATIENT_ID)
        for known in self.series(instance.study)[:1]:
            if (its := first_value(known.fields, PATIENT_ID)) != patient:
                raise RefusedError(
                    WRONG_STUDY, f"study {instance.study} is of patient {its}, not of {patient}", instance
                )

    # ----------------------------------------------------------------- the folder

    def _watch(self) -> None:
        while not self._closed.is_set():
            begun = time.monotonic()
            try:
                self._look()
                self._problem = ""
            except OSError as error:  # a network drive that is away; what is known counts until it is back
                if not self._problem:
                    logger.warning("the folder of DICOM files cannot be read, and what is known counts: %s", error)
                self._problem = str(error)
            self._has_list.set()
            self._is_whole.set()
            self._closed.wait(max(LOOK_S, LOOK_SHARE * (time.monotonic() - begun)))

    def _look(self) -> None:
        """Read what is new or changed, first one file of each folder, so that all series are soon listed."""
        due, gone = self._changes()
        if gone:
            self._forget(gone)
        firsts = {name.rpartition("/")[0]: name for name in reversed(due)}
        ordered = [*firsts.values(), *(name for name in due if firsts[name.rpartition("/")[0]] != name)]
        begun = time.monotonic()
        for start in range(0, len(ordered), BATCH):
            if self._closed.is_set():
                return
            read = [entry for name in ordered[start : start + BATCH] if (entry := self._stat_and_read(name))]
            self._take(read)
            if start + BATCH >= len(firsts):
                self._has_list.set()
        self._keep()
        if len(ordered) > BATCH:
            logger.info("read %d headers of %s in %.1f s", len(ordered), self.folder, time.monotonic() - begun)

    def _changes(self) -> tuple[list[str], set[str]]:
        """The files that are new or changed, and those that are gone. OSError while the folder is away.

        The first look asks about every file, later ones about every folder, about files of folders that changed, and
        about files that could not be read.
        """
        is_first = not self._is_whole.is_set()
        names = set(self._entries) if is_first else set()
        due: list[str] = []
        there: set[str] = set()
        visited: set[Path] = set()
        for root, folder, changed_ns in self._folders(visited):
            known = self._listed.get(folder)
            if known is not None and known.changed_ns == changed_ns:
                continue
            below, files = _listing(folder)
            if folder == self.folder and not below and not files and self._entries:
                raise FileNotFoundError(f"{folder} is empty")
            is_settled = abs(time.time() - changed_ns / 1e9) > COARSE_S
            found = frozenset(self._name_of(root, folder / base) for base in files)
            names |= known.names if known else frozenset()
            there |= found
            self._listed[folder] = _Listed(changed_ns if is_settled else -1, tuple(below), found)
            due += sorted(name for name in found if self._has_changed(name))
        for folder in self._listed.keys() - visited:
            names |= self._listed.pop(folder).names
        doubtful = sorted(self._doubtful - there - names)
        due += [name for name in doubtful if self._has_changed(name)]
        return due, names - there

    def _folders(self, visited: set[Path]) -> Iterator[tuple[Path, Path, int]]:
        """Every folder with its root and the time of its last change; whoever iterates lists those that changed."""
        seen: set[tuple[int, int]] = set()
        folders = [(root, root) for root in self._roots]
        while folders:
            root, folder = folders.pop()
            try:
                stat = folder.stat()
                if (stat.st_dev, stat.st_ino) in seen:  # a link that leads back
                    continue
                seen.add((stat.st_dev, stat.st_ino))
                yield root, folder, stat.st_mtime_ns
            except (PermissionError, FileNotFoundError, NotADirectoryError):
                if folder == root:
                    raise
                continue
            visited.add(folder)
            folders += [(root, folder / name) for name in self._listed[folder].below]

    def _has_changed(self, name: str) -> bool:
        entry = self._entries.get(name)
        try:
            stat = (self.folder / name).stat()
        except OSError:
            return False
        return entry is None or entry.state != (stat.st_size, stat.st_mtime_ns)

    def _name_of(self, root: Path, path: Path) -> str:
        """A file's name below the folder; of files elsewhere the whole path."""
        return str(path.relative_to(root) if root == self.folder else path)

    def _stat_and_read(self, name: str) -> Entry | None:
        try:
            return self._read(name, (self.folder / name).stat())
        except FileNotFoundError:
            return None

    def _read(self, name: str, stat: os.stat_result) -> Entry:
        path = self.folder / name  # which is the name itself where that is absolute
        state = (name, stat.st_size, stat.st_mtime_ns)
        try:
            header = read_header(path)
            if header is None:
                return Entry(*state, None)
            _refuse_odd_uids(header, path.name)
            if not is_known_syntax(header.syntax):
                return Entry(*state, None, f"it has transfer syntax {header.syntax[:64]}, which is not known here")
            return Entry(*state, header)
        except RefusedError as refusal:
            return Entry(*state, None, str(refusal))
        except UNREADABLE as error:
            return Entry(*state, None, f"it is no whole DICOM file ({error})")

    def _restore(self, index: Index) -> None:
        described = index.series()
        entries = index.entries()
        with self._lock:
            for entry in entries:
                self._add(entry, described)
        if entries:
            self._has_list.set()

    def _take(self, entries: Iterable[Entry]) -> None:
        """Let what was read be found, and keep it soon."""
        new: dict[tuple[str, str], Mapping[str, Element]] = {}
        with self._lock:
            taken = list(entries)
            for entry in taken:
                self._drop(entry.name)
                self._add(self._described(entry, new), new)
            self._unkept += [self._entries[entry.name] for entry in taken]
            self._unkept_series |= new
        if time.monotonic() - self._kept_at > KEEP_S:
            self._keep()

    def _keep(self) -> None:
        """Write what was read into the index."""
        with self._lock:
            entries, self._unkept = self._unkept, []
            series, self._unkept_series = self._unkept_series, {}
        if self._index is not None and entries:
            self._index.put(entries, series)
        self._kept_at = time.monotonic()

    def _described(self, entry: Entry, new: dict[tuple[str, str], Mapping[str, Element]]) -> Entry:
        """The entry, after what is queried of its series was put into `new` if that is a new one."""
        if entry.header is None or (entry.header.study, entry.header.series) in self._series:
            return entry
        try:
            fields = read_fields(self.folder / entry.name)
        except UNREADABLE as error:
            return Entry(entry.name, *entry.state, None, f"it is no whole DICOM file ({error})")
        new[entry.header.study, entry.header.series] = {tag: fields[tag] for tag in SERIES_TAGS if tag in fields}
        return entry

    def _forget(self, names: Iterable[str]) -> None:
        with self._lock:
            before = set(self._series)
            for name in names:
                self._drop(name)
            gone = before - set(self._series)
        self._keep()
        if self._index is not None:
            self._index.put([], {}, names, gone)

    def _add(self, entry: Entry, described: Mapping[tuple[str, str], Mapping[str, Element]]) -> None:
        self._entries[entry.name] = entry
        if entry.problem:
            self._doubtful.add(entry.name)
        if entry.header is None:
            if not entry.problem:
                self._others.add(entry.name)
            return
        uids = (entry.header.study, entry.header.series)
        series = self._series.get(uids)
        if series is None:
            series = self._series[uids] = Series(*uids, described.get(uids, {}))
            self._studies.setdefault(uids[0], {})[uids[1]] = series
        instance = Instance(self.folder / entry.name, entry.header)
        series.files.setdefault(entry.header.uid, {})[entry.name] = instance

    def _drop(self, name: str) -> None:
        self._doubtful.discard(name)
        self._others.discard(name)
        entry = self._entries.pop(name, None)
        if entry is None or entry.header is None:
            return
        uids = (entry.header.study, entry.header.series)
        series = self._series[uids]
        files = series.files[entry.header.uid]
        del files[name]
        if not files:
            del series.files[entry.header.uid]
        if not series.files:
            del self._series[uids]
            del self._studies[uids[0]][uids[1]]
            if not self._studies[uids[0]]:
                del self._studies[uids[0]]


def read_instance(path: Path) -> Instance:
    """A file as an instance; RefusedError for what is no DICOM instance with sound UIDs."""
    try:
        data = read_data(path, stop_before_pixels=True)
        fields = data.to_json_dict(suppress_invalid_tags=True)
        header = read_header(path)
    except UNREADABLE as error:
        raise RefusedError(CANNOT_UNDERSTAND, f"{path.name} is no whole DICOM file ({error})") from error
    if header is None or not fields:
        raise RefusedError(CANNOT_UNDERSTAND, f"{path.name} is no DICOM file")
    _refuse_odd_uids(header, path.name)
    return Instance(path, header)


def _refuse_odd_uids(header: Header, name: str) -> None:
    for uid in (header.study, header.series, header.uid):
        if len(uid) > 64 or not UID.fullmatch(uid):
            raise RefusedError(CANNOT_UNDERSTAND, f"{name} has {uid[:80]!r} where a UID must be")


def is_known_syntax(syntax: str) -> bool:
    """Whether frames in this transfer syntax can be told from each other."""
    return syntax in (*PLAIN, DEFLATED, BIG_ENDIAN) or (Uid(syntax).is_transfer_syntax and Uid(syntax).is_encapsulated)


def frames_of(instance: Instance, numbers: Sequence[int], is_packed: bool) -> tuple[list[bytes], str]:
    """Some frames, counted from 1, and their transfer syntax: as they are stored where they are packed one by one and
    `is_packed` asks for them like that, else uncompressed, little endian. RefusedError for what cannot be unpacked, or
    has frames that are missing or not made of whole bytes."""
    try:
        data: Any = read_data(instance.path)
        syntax = instance.header.syntax
        if Uid(syntax).is_encapsulated:
            if is_packed:
                packed = list(generate_pixel_data_frame(data.PixelData, instance.frames))
                return [packed[number - 1] for number in numbers], syntax
            unpacked = stored_frames(data)
            return [_little(unpacked[number - 1]) for number in numbers], PLAIN[1]
        frames = _plain_frames(instance, data)
        if syntax == BIG_ENDIAN and int(data.BitsAllocated) > 8:
            swapped = [np.frombuffer(each, f">u{int(data.BitsAllocated) // 8}") for each in frames]
            frames = [_little(each) for each in swapped]
        return [frames[number - 1] for number in numbers], PLAIN[1]
    except (*UNREADABLE, RuntimeError) as error:
        sentence = f"the frames of {instance.uid} cannot be unpacked ({error}); retrieve the instance"
        raise RefusedError(CANNOT_UNDERSTAND, sentence, instance) from error


def _little(values: Any) -> bytes:
    raw: bytes = values.astype(values.dtype.newbyteorder("<")).tobytes()
    return raw


def _plain_frames(instance: Instance, data: Any) -> list[bytes]:
    bits = int(data.get("BitsAllocated") or 0)
    if "PixelData" not in data or bits % 8:
        raise RefusedError(CANNOT_UNDERSTAND, f"{instance.uid} has no frames of whole bytes; retrieve the instance")
    size = int(data.Rows) * int(data.Columns) * int(data.get("SamplesPerPixel") or 1) * bits // 8
    if len(data.PixelData) < size * instance.frames:
        raise RefusedError(CANNOT_UNDERSTAND, f"{instance.uid} is cut short: it has {len(data.PixelData)} bytes")
    return [data.PixelData[start : start + size] for start in range(0, size * instance.frames, size)]


def _listing(folder: Path) -> tuple[list[str], list[str]]:
    """The folders and the files in a folder, by name; those whose names begin with a dot are nobody's."""
    below: list[str] = []
    names: list[str] = []
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda each: each.name):
            if entry.name.startswith(".") or entry.name.upper() == "DICOMDIR" or not _is_text(entry.name):
                continue
            (below if entry.is_dir() else names).append(entry.name)
    return below, names


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _digest(path: Path) -> bytes:
    return sha256(path.read_bytes()).digest()
