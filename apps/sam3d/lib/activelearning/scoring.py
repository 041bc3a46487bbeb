"""The scoring methods that POST /scoring/ names: all of them make the same scores, and each puts them in its order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.scoring import ScoringMethod

from lib.activelearning.background import BackgroundScoring
from lib.activelearning.strategies import DESCRIPTIONS
from lib.infers.failures import as_answers
from lib.scoring.selection import Pool


class PoolScoring(ScoringMethod):
    """Scores of all images of the datastore that have none by the served version."""

    def __init__(self, method: str, background: BackgroundScoring, pool: Pool) -> None:
        super().__init__(DESCRIPTIONS[method])
        self._method, self._background, self._pool = method, background, pool

    def info(self) -> dict[str, Any]:
        """The method as /info/ lists it, with how far the scores are."""
        progress = self._background.progress
        about = progress.as_json()
        return {**super().info(), **about, "message": progress.sentence}

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Score at once and to the end, between clicks; how many have a score, and which case would come next."""
        with as_answers():
            progress = self._background.run(datastore)
        labelled, unlabelled = set(datastore.get_labeled_images()), datastore.get_unlabeled_images()
        choice = self._pool.choose(unlabelled, labelled, set(), self._method)
        best = {"next": choice.image, "reason": choice.reason} if choice else {}
        return {"method": self._method, "message": progress.sentence, **self.info(), **best}
