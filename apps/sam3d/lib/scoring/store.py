"""Scores on disk, one small file an image: whole or not there, and renewed where they are damaged or out of date.

Files lie in folders by the first two letters of their names, for a look at a hundred thousand of them asks for two
hundred folders' times, and only for the files of those that changed.

A file carries what it is a score of: the digest of the image's reference, the weights and the settings. Whoever brings
the same three finds the score, and need not make it again.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import Any

from lib.network.weights import Card, write_atomically
from lib.scoring.image_score import ScoreSettings
from lib.scoring.selection import Known

logger = logging.getLogger(__name__)

FORMAT = 3
ENDING = ".json"
# A change within so many seconds of another may leave a folder's time as it was, on the coarsest of file systems.
COARSE_S = 2.0


@dataclass(frozen=True)
class StoredScore:
    """The score of an image by its id. `key` says of what it is a score; `version` names the weights for people."""

    image: str
    key: str
    version: str
    features: tuple[float, ...]
    disagreement: float
    expected_clicks: float

    @property
    def known(self) -> Known:
        """What choices are made by."""
        return Known(self.features, self.expected_clicks)


def score_key(image: str, card: Card, settings: ScoreSettings) -> str:
    """The same for the same content of an image (as its datastore refers to it), weights and settings."""
    weights = [card.sha256, card.parent_sha256, card.spacing_mm, asdict(card.intensity)]
    content = json.dumps([FORMAT, image, weights, asdict(settings)])
    return sha256(content.encode(errors="surrogatepass")).hexdigest()


class ScoreStore:
    """The scores of a folder; for several threads, and beside other processes. Each file is read once; what cannot be
    read is left out, and so is scored again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._scores: dict[str, StoredScore] = {}
        self._seen: dict[str, int] = {}
        self._seen_folders: dict[str, int] = {}
        self.refresh()

    def refresh(self) -> list[StoredScore]:
        """Read what another process has written since; returns those scores."""
        fresh = []
        with self._lock:
            for folder in sorted(self._folder.glob("[0-9a-f][0-9a-f]")):
                fresh.extend(self._refreshed(folder))
        return fresh

    def _refreshed(self, folder: Path) -> list[StoredScore]:
        """The scores that were written into one of the folders since."""
        changed = folder.stat().st_mtime_ns
        if self._seen_folders.get(folder.name) == changed:
            return []
        is_settled = abs(time.time() - changed / 1e9) > COARSE_S
        fresh = []
        for path in sorted(folder.glob(f"[!.]*{ENDING}")):
            written = path.stat().st_mtime_ns
            if self._seen.get(path.name) == written:
                continue
            self._seen[path.name] = written
            score = _read(path)
            if score is not None and path == self._path(score.image):
                self._scores[score.image] = score
                fresh.append(score)
        if is_settled:
            self._seen_folders[folder.name] = changed
        return fresh

    def get(self, image: str) -> StoredScore | None:
        with self._lock:
            return self._scores.get(image)

    def all(self) -> Mapping[str, StoredScore]:
        """Scores by image, as they stand now."""
        with self._lock:
            return dict(self._scores)

    def put(self, score: StoredScore) -> None:
        """Keep a score in place of the image's last one."""
        content, path = {"format": FORMAT, **asdict(score)}, self._path(score.image)
        with self._lock:
            write_atomically(path, (json.dumps(content) + "\n").encode())
            self._seen[path.name] = path.stat().st_mtime_ns
            self._scores[score.image] = score

    def _path(self, image: str) -> Path:
        name = sha256(image.encode(errors="surrogatepass")).hexdigest()[:32]
        return self._folder / name[:2] / f"{name}{ENDING}"


def _read(path: Path) -> StoredScore | None:
    try:
        return _from_json(json.loads(path.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("the score %s is damaged and made again: %s", path.name, error)
        return None


def _from_json(content: Mapping[str, Any]) -> StoredScore:
    values = dict(content)
    if values.pop("format") != FORMAT:
        raise ValueError("it is of another format")
    score = StoredScore(
        features=tuple(float(value) for value in values.pop("features")),
        disagreement=float(values.pop("disagreement")),
        expected_clicks=float(values.pop("expected_clicks")),
        **values,
    )
    if not score.features or not all(map(isfinite, (*score.features, score.disagreement, score.expected_clicks))):
        raise ValueError("its numbers are no score")
    if not all(isinstance(text, str) for text in values.values()):
        raise ValueError("its names are no text")
    return score
