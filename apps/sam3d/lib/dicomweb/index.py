"""What is known of the files of a folder, kept in a file, so that headers are read once and a start takes seconds."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import astuple, dataclass
from pathlib import Path

from lib.dicomweb.headers import Element, Header

# Changes with what is kept; an index of another form is made anew.
FORM = 2
WAIT_S = 30.0
HEADER = "study, series, uid, sop_class, syntax, number, frames, rows, columns, position, orientation"
N_FIELDS = HEADER.count(",") + 1


@dataclass(frozen=True)
class Entry:
    """A file by its name below the folder, its state, and its header, or why it has none (empty: it is no DICOM)."""

    name: str
    size: int
    mtime_ns: int
    header: Header | None
    problem: str = ""

    @property
    def state(self) -> tuple[int, int]:
        return self.size, self.mtime_ns


class Index:
    """The file. A thread and a process at a time write, and others may read."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._lock = threading.Lock()
        try:
            self._prepare()
        except sqlite3.DatabaseError:  # damaged, and nothing that cannot be read again
            path.unlink(missing_ok=True)
            self._prepare()

    def entries(self) -> list[Entry]:
        """All that is kept."""
        with self._lock, closing(self._connect()) as kept:
            rows = kept.execute(f"SELECT name, size, mtime_ns, problem, {HEADER} FROM files").fetchall()
        return [
            Entry(name, size, mtime_ns, Header(*header) if header[0] is not None else None, problem)
            for name, size, mtime_ns, problem, *header in rows
        ]

    def series(self) -> dict[tuple[str, str], Mapping[str, Element]]:
        """What is queried of each series, by study and series."""
        with self._lock, closing(self._connect()) as kept:
            rows = kept.execute("SELECT study, series, fields FROM series").fetchall()
        return {(study, series): json.loads(fields) for study, series, fields in rows}

    def put(
        self,
        entries: Iterable[Entry],
        series: Mapping[tuple[str, str], Mapping[str, Element]],
        gone: Iterable[str] = (),
        gone_series: Iterable[tuple[str, str]] = (),
    ) -> None:
        """Keep what was read, and forget what is gone."""
        headers = [(each, astuple(each.header) if each.header else (None,) * N_FIELDS) for each in entries]
        files = [(each.name, each.size, each.mtime_ns, each.problem, *header) for each, header in headers]
        described = [(*uids, json.dumps(fields)) for uids, fields in series.items()]
        with self._lock, closing(self._connect()) as kept, kept:
            kept.executemany("DELETE FROM files WHERE name = ?", [(name,) for name in gone])
            kept.executemany("DELETE FROM series WHERE study = ? AND series = ?", list(gone_series))
            kept.executemany(f"INSERT OR REPLACE INTO files VALUES ({', '.join('?' * (4 + N_FIELDS))})", files)
            kept.executemany("INSERT OR REPLACE INTO series VALUES (?, ?, ?)", described)

    def _prepare(self) -> None:
        with self._lock, closing(self._connect()) as kept, kept:
            if kept.execute("PRAGMA user_version").fetchone()[0] != FORM:
                kept.execute("DROP TABLE IF EXISTS files")
                kept.execute("DROP TABLE IF EXISTS series")
                kept.execute(f"PRAGMA user_version = {FORM}")
            kept.execute(
                "CREATE TABLE IF NOT EXISTS files "
                f"(name TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, problem TEXT, {HEADER})"
            )
            kept.execute(
                "CREATE TABLE IF NOT EXISTS series (study TEXT, series TEXT, fields TEXT, PRIMARY KEY (study, series))"
            )

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=WAIT_S)
