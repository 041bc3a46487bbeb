"""Which phases the series of an archive hold, and which of them a SEG was drawn on: kept in a file, and looked for.

The phase that a series is opened as has the series' UID as its id, for viewers ask by that; others have ids that are
made of it and their number.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.images.dicom_phases import Phases
from lib.naming import phase_id
from lib.network.weights import write_atomically

logger = logging.getLogger(__name__)

# A phase with less than this share of the slices of the main one is a part that was taken twice, and no image.
LEAST_SHARE = 0.5
# Between two questions to an archive that others work with, and to one that did not answer.
REST_S, AWAY_S = 0.2, 10.0

# The UID of an instance, and the number of its frame, 0 for that of a plain file.
Frame = tuple[str, int]


@dataclass(frozen=True)
class SeriesPhases:
    """What is known of a series of so many instances: the frames of each phase, none where it holds one, and the number
    of the phase that is opened as the series."""

    n_instances: int
    frames: tuple[frozenset[Frame], ...] = ()
    main: int = 1

    @property
    def others(self) -> list[int]:
        """The numbers of the phases that are images beside the series' own."""
        most = max(map(len, self.frames), default=0)
        numbers = [number for number, each in enumerate(self.frames, start=1) if len(each) >= LEAST_SHARE * most]
        return [number for number in numbers if number != self.main]


def known_phases(n_instances: int, phases: Phases | None) -> SeriesPhases:
    """What to know of the phases that were found in so many instances."""
    if phases is None:
        return SeriesPhases(n_instances)
    frames = tuple(
        frozenset((each.instance, each.index + 1 if each.n_frames > 1 else 0) for each in group)
        for group in phases.groups
    )
    return SeriesPhases(n_instances, frames, phases.main)


class PhaseTable:
    """What is known of each series, by its UID. Thread-safe; another process reads at its start what this one kept."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._known: dict[str, SeriesPhases] = _read(path)

    def get(self, series: str) -> SeriesPhases | None:
        """What is known of a series; None if nobody has looked yet."""
        return self._known.get(series)

    def put(self, series: str, found: SeriesPhases) -> None:
        """Keep what was found; of series of one phase, which are many, the file is told by `save`."""
        with self._lock:
            before = self._known.get(series, SeriesPhases(0))
            self._known = {**self._known, series: found}
        if before != found and (before.frames or found.frames):
            self.save()

    def save(self) -> None:
        """Write the file. What cannot be written is found out again."""
        with self._lock:
            try:
                write_atomically(self._path, json.dumps(_as_json(self._known)).encode())
            except OSError as error:
                logger.warning("the phases of series are not kept: %s", error)

    def images(self, series: str) -> list[str]:
        """The ids of the images of a series, its own first."""
        known = self._known.get(series)
        return [series, *(phase_id(series, number) for number in known.others)] if known else [series]

    def drawn_on(self, series: str, frames: Collection[Frame]) -> str | None:
        """The id of the image that these frames of a series are of; None if they are of none or several."""
        known = self._known.get(series)
        if known is None or not known.frames:
            return series
        # Some name the only frame of a plain file.
        named = {*frames, *((uid, 0) for uid, _ in frames)}
        hits = [len(phase & named) for phase in known.frames]
        number = hits.index(max(hits)) + 1
        if max(hits) == 0 or hits.count(max(hits)) > 1:
            return None
        return series if number == known.main else phase_id(series, number)


class PhaseSurvey:
    """A thread that looks for the phases of series that nobody has opened yet, one series after the other.

    `look` says what a series holds of which the archive has so many instances; what it raises of `away` is tried again
    later.
    """

    def __init__(
        self,
        table: PhaseTable,
        look: Callable[[Any], SeriesPhases],
        away: tuple[type[Exception], ...],
        rest_s: float = REST_S,
    ) -> None:
        self._table, self._look, self._away, self._rest_s = table, look, away, rest_s
        self._changed = threading.Condition()
        self._due: dict[str, tuple[int, Any]] = {}
        self._is_stopped = False
        self._thread: threading.Thread | None = None

    def ask(self, listed: Iterable[tuple[str, int, Any]]) -> None:
        """Look for what is new of these series: UID, count of instances (0: not known), and what the archive says."""
        with self._changed:
            for uid, count, series in listed:
                known = self._table.get(uid)
                if known is None or (count and known.n_instances != count):
                    self._due[uid] = (count, series)
            if self._due and self._thread is None and not self._is_stopped:
                self._thread = threading.Thread(target=self._run, daemon=True, name="phases")
                self._thread.start()
            self._changed.notify_all()

    def stop(self) -> None:
        """Look for nothing more."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._due and not self._is_stopped:
                    self._changed.wait()
                if self._is_stopped:
                    return
                uid = next(iter(self._due))
                count, series = self._due.pop(uid)
            self._rest(self._look_at(uid, count, series))

    def _look_at(self, uid: str, count: int, series: Any) -> float:
        """Look at a series, and return for how long to rest then. One that cannot be looked at is asked for again."""
        try:
            found = self._look(series)
        except self._away as error:
            logger.debug("the phases of series %s are not known yet: %s", uid, error)
            return AWAY_S
        except Exception:  # whatever a series holds, the others are looked at
            logger.exception("the phases of series %s are not known until it is opened", uid)
            found = SeriesPhases(count)
        if found.others:
            logger.info("series %s holds %d phases: %s", uid, len(found.frames), _listed(uid, found))
        self._table.put(uid, found)
        if not self._due:
            self._table.save()
        return self._rest_s

    def _rest(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        with self._changed:
            while not self._is_stopped and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)


def _listed(series: str, found: SeriesPhases) -> str:
    return ", ".join([f"{series} is phase {found.main}", *(phase_id(series, number) for number in found.others)])


def _as_json(known: Mapping[str, SeriesPhases]) -> dict[str, Any]:
    return {
        uid: {"n": each.n_instances, "main": each.main, "frames": [sorted(phase) for phase in each.frames]}
        for uid, each in known.items()
    }


def _read(path: Path) -> dict[str, SeriesPhases]:
    """What was kept; nothing of a file that is damaged, for it is found out again."""
    try:
        return {
            uid: SeriesPhases(
                int(each["n"]),
                tuple(frozenset((str(one), int(frame)) for one, frame in phase) for phase in each["frames"]),
                int(each["main"]),
            )
            for uid, each in json.loads(path.read_bytes()).items()
        }
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        logger.warning("%s is damaged, and its series are looked at again: %s", path.name, error)
        return {}
