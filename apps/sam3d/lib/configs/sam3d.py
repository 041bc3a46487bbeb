"""Which task is which: everything the app registers with MONAI Label, made from the settings."""

from __future__ import annotations

from pathlib import Path

from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask

from lib.activelearning.background import BackgroundScoring, known_pool, scores_folder
from lib.activelearning.case_states import CaseStates
from lib.activelearning.drafts import Drafts
from lib.activelearning.leases import Leases
from lib.activelearning.presence import Presence
from lib.activelearning.references import shared_root
from lib.activelearning.scoring import PoolScoring
from lib.activelearning.strategies import First, Random, Scored
from lib.activelearning.unopened import Unopened
from lib.cluster.link import Link
from lib.datastore.identity import identity_of
from lib.images.volumes import VolumeCache
from lib.infers.model import SharedPredictor
from lib.infers.reply import ReplyFiles
from lib.infers.sam3d import Sam3DInfer
from lib.infers.sam3d_auto import Sam3DAutoInfer
from lib.scoring.selection import METHODS
from lib.scoring.store import ScoreStore
from lib.settings import BACKGROUND, Settings
from lib.trainers.sam3d import Sam3DTrainer


class Sam3DConfig:
    """The tasks of one server; they share one predictor, one cache of volumes, one writer of replies and the scores of
    the images of `studies`."""

    def __init__(self, settings: Settings, studies: str) -> None:
        self.settings, self._studies = settings, studies
        self.model = SharedPredictor(settings)
        self._volumes = VolumeCache(settings.volume_cache_mib * 2**20)
        self._replies = ReplyFiles()
        self.leases, self.presence = Leases(settings.serving.lease_s), Presence()
        self.states = CaseStates(self.leases, self.presence)
        self.unopened = Unopened(self._volumes.open)
        store = ScoreStore(scores_folder(Path(settings.model_folder), identity_of(studies)))
        self._pool = known_pool(store)
        self.link = Link(settings.cluster)
        self._root = shared_root(studies)
        self.background = BackgroundScoring(self.model, store, self._pool, self.link, self._root)

    @property
    def labels(self) -> list[str]:
        """For /info/: a list, because OHIF appends to it, with background last, because Slicer selects the first."""
        return [*self.settings.labels, *([BACKGROUND] if self.settings.lists_background else [])]

    def drafts(self) -> Drafts:
        """What makes drafts of many images."""
        auto = Sam3DAutoInfer(self.model, self._volumes, self._replies)
        return Drafts(self.model, auto, self.link, self._root)

    def infers(self) -> dict[str, InferTask]:
        """Name to infer task."""
        return {
            "sam3d": Sam3DInfer(self.model, self._volumes, self._replies),
            "sam3d_auto": Sam3DAutoInfer(self.model, self._volumes, self._replies),
        }

    def trainers(self) -> dict[str, TrainTask]:
        """Name to trainer: what "Update Model" starts."""
        return {"sam3d": Sam3DTrainer(self.model, self._studies)}

    def strategies(self) -> dict[str, Strategy]:
        """Name to strategy. OHIF as it ships asks for `random`, whatever is chosen, and gets what the settings say."""
        by_name: dict[str, Strategy] = {"first": First(self.leases), "random": Random(self.leases)}
        by_name |= {method: Scored(method, self.leases, self._pool) for method in METHODS}
        return {**by_name, "random": by_name[self.settings.scoring.next_sample]}

    def scoring_methods(self) -> dict[str, ScoringMethod]:
        """Name to scoring method."""
        return {method: PoolScoring(method, self.background, self._pool) for method in METHODS}
