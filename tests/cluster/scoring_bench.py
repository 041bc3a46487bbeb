"""A server's scoring without the server, over a cluster or not; what it stores is counted."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from conftest import settings_at
from lib.activelearning.background import BackgroundScoring, Progress, known_pool
from lib.activelearning.references import shared_root
from lib.cluster.link import Link
from lib.datastore.versioned import VersionedDatastore
from lib.infers.model import SharedPredictor
from lib.scoring.store import ScoreStore, StoredScore


class ScoringBench:
    """Scores of `studies`, kept below `folder`."""

    def __init__(self, folder: Path, studies: Path, weights: Path, address: str = "", wait_s: float = 30.0) -> None:
        self.settings = settings_at(folder, weights, address, wait_s)
        self.datastore = VersionedDatastore(str(studies), extensions=("*.nii.gz",))
        self.folder = folder / "scores"
        self.model, self.store = SharedPredictor(self.settings), ScoreStore(self.folder)
        self.pool, self.link = known_pool(self.store), Link(self.settings.cluster)
        self.scoring = BackgroundScoring(self.model, self.store, self.pool, self.link, shared_root(str(studies)))
        self.stored, self.ends = list[str](), list[float]()
        self.on_stored: Callable[[int], object] = lambda count: None
        self._put = self.store.put
        self.store.put = self._counted

    def _counted(self, score: StoredScore) -> None:
        self._put(score)
        self.stored.append(score.image)
        self.ends.append(time.monotonic())
        self.on_stored(len(self.stored))

    @property
    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob("*") if path.is_file())

    def run(self) -> Progress:
        return self.scoring.run(self.datastore)

    def close(self) -> None:
        self.link.close()
        self.datastore.close()
