"""Scores in the background: a thread that opens one image after the other while nobody clicks, within a budget.

What matters comes first: images without a score, then, after a new model version, those that would be chosen soon. It
gives way to requests between patches (lib.infers.turns), rests as long as its share of the time asks, and goes on after
a restart with what is missing. The scores themselves are made by a pure function (lib.scoring.image_score), here or by
the workers of a cluster (lib.cluster), which serve no clicks and so need not rest; this process alone stores them.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import HTTPException
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.interfaces.datastore import Datastore

from lib.activelearning.pace import Pace, in_words
from lib.activelearning.references import travelling
from lib.cluster.link import Link
from lib.cluster.orders import Failure, Order, Outcome
from lib.cluster.travelling import Weights
from lib.datastore.archive import ArchiveDatastore
from lib.datastore.listed import ListedFolder
from lib.errors import ClusterError, Sam3DError, SettingsError
from lib.images.volumes import file_stamp, open_volume
from lib.infers.failures import as_answers
from lib.infers.images import stored_path
from lib.infers.model import BackgroundNetwork, SharedPredictor
from lib.infers.turns import Interrupted
from lib.scoring.calibration import Calibration, load
from lib.scoring.image_score import ImageScore, ScoreSettings, score_volume
from lib.scoring.selection import Pool
from lib.scoring.store import ScoreStore, StoredScore, score_key
from lib.settings import ClusterSettings
from lib.works.score import score_from, score_order

if TYPE_CHECKING:
    from lib.cluster.dask_client import DaskCluster

logger = logging.getLogger(__name__)

# How soon new images and versions are seen; kinds of images are told apart anew after so many scores.
LOOK_S = 10.0
# How soon an image is seen that is not new but has another content, and one is tried again that was not to be had.
CHANGED_S = 300.0
SETTLE_EVERY = 25
# Of the images that cannot be scored, so many are named.
NAMED = 20
# The status from which on a refusal is the server's fault, not the image's.
FIRST_OF_ITS_OWN = 500


@dataclass(frozen=True)
class Progress:
    """How far a pass over the images is, or how the last one ended."""

    scored: int = 0
    total: int = 0
    version: str = ""
    is_running: bool = False
    # Images that cannot be scored, with the key of the score that they have not got; no key where that may pass.
    problems: dict[str, str] = field(default_factory=dict)
    # Of a cluster; none while this machine scores.
    places: int = 0
    per_hour: float = 0.0

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left that could be scored."""
        return self.scored + len(self.problems) == self.total

    @property
    def sentence(self) -> str:
        failed = f", {len(self.problems)} cannot be scored" if self.problems else ""
        state = "scoring" if self.is_running else "scored"
        done = f"{state}: {self.scored} of {self.total} images by {self.version or 'no version yet'}"
        places = f" on {self.places} places" if self.is_running and self.places else ""
        pace = f", {round(self.per_hour)} an hour, about {in_words(self.left_s)} left" if self.left_s else ""
        return f"{done}{places}{pace}{failed}"

    def as_json(self) -> dict[str, Any]:
        """For /info/ and GET /scoring/."""
        return {
            "scored": self.scored,
            "total": self.total,
            "version": self.version,
            "places": self.places,
            "images_an_hour": round(self.per_hour),
            "left_s": round(self.left_s),
            "unscored": sorted(self.problems)[:NAMED],
        }

    @property
    def left_s(self) -> float:
        """How long the rest will take at this pace; 0 where that is not known, or nothing is left."""
        left = self.total - self.scored - len(self.problems)
        return 3600 * left / self.per_hour if self.is_running and self.per_hour else 0.0


class BackgroundScoring:
    """The scores of one server's images: `start` and `stop` a thread, or `run` a pass in the caller's."""

    def __init__(
        self,
        model: SharedPredictor,
        store: ScoreStore,
        pool: Pool,
        link: Link | None = None,
        root: Path | None = None,
    ) -> None:
        self._model, self._store, self._pool = model, store, pool
        # Other machines, and the folder of studies that they see, too.
        self._link, self._root = link or Link(ClusterSettings()), root
        self._pace = Pace()
        # Those that workers were sent last.
        self._weights: Weights | None = None
        self._settings = ScoreSettings(is_named_intensity=model.settings.intensity is not None)
        self._calibration: Calibration = load()
        self._progress = Progress()
        # One pass at a time, the thread's own or one that somebody asked for.
        self._passing = threading.Lock()
        self._closed, self._asked_to_stop, self._woken = threading.Event(), threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def progress(self) -> Progress:
        return self._progress

    def start(self, datastore: Datastore) -> None:
        """Score in a thread from now on; nothing where the settings leave no time for it."""
        self._pool.settle(len(datastore.get_labeled_images()))
        if self._model.settings.scoring.score_share > 0 or self._link.is_set:
            self._thread = threading.Thread(target=self._watch, args=(datastore,), daemon=True, name="scoring")
            self._thread.start()

    def stop(self) -> None:
        """End the thread, between two patches."""
        self._closed.set()
        self._woken.set()
        self._asked_to_stop.set()
        if self._thread is not None:
            self._thread.join()

    def interrupt(self) -> None:
        """End the pass that is going on; the next one goes on from there."""
        self._asked_to_stop.set()

    def wake(self) -> None:
        """Look for new images and versions now."""
        self._woken.set()

    def run(self, datastore: Datastore, share: float = 1.0, is_asked: bool = True) -> Progress:
        """Score what has no score by the served version yet, using a share of the time; Sam3DError or HTTPException if
        there is no version to score by. Returns where that ended. Unless somebody asked for it, no series is fetched
        from an archive: all of them may be more than this machine, or the line to it, has room for."""
        with self._passing:
            self._asked_to_stop.clear()
            try:
                while not self._closed.is_set() and not self._pass(datastore, share, is_asked):
                    pass
            except Interrupted:
                logger.info("stopped %s", self._progress.sentence)
            finally:
                self._progress = replace(self._progress, is_running=False, places=0, per_hour=0.0)
                self._pool.settle(len(datastore.get_labeled_images()))
        return self._progress

    def _watch(self, datastore: Datastore) -> None:
        is_failing, seen, looked = False, None, 0.0
        while not self._closed.is_set():
            try:
                found = (self._model.served_name, datastore.list_images())
                # To ask about every file of a large pool takes long enough to be felt.
                if found != seen or time.monotonic() - looked > CHANGED_S:
                    ended = self.run(datastore, self._model.settings.scoring.score_share, is_asked=False)
                    seen, looked = (found if ended.is_complete else None), time.monotonic()
                is_failing = False
            except (Sam3DError, HTTPException) as error:
                if not is_failing:
                    logger.warning("nothing is scored for now: %s", getattr(error, "detail", error))
                is_failing = True
            except Exception:  # a disk that is full or an archive that is away, and back later
                if not is_failing:
                    logger.exception("nothing is scored until this is over")
                is_failing = True
            self._woken.wait(LOOK_S)
            self._woken.clear()

    def _pass(self, datastore: Datastore, share: float, is_asked: bool) -> bool:
        """Score what is due; False if images or version changed meanwhile, so that other things may be due."""
        network = self._model.in_background(self._asked_to_stop)
        self._pool.put({score.image: score.known for score in self._store.refresh()})
        listed = datastore.list_images()
        images = datastore.at_hand() if isinstance(datastore, ArchiveDatastore) and not is_asked else listed
        due = self._due(images, set(datastore.get_labeled_images()), datastore, network)
        known = set(images) - {image for image, _ in due}
        failed = {image: key for image, key in self._progress.problems.items() if image in known}
        self._progress = Progress(len(known) - len(failed), len(images), network.version, bool(due), failed)
        self._pace = Pace()
        cluster = self._link.awaited(self._asked_to_stop.is_set) if due else None
        if cluster is None:
            return self._score_here(due, datastore, network, listed, share, may_move=True)
        left = self._score_there(cluster, due, datastore, network, listed)
        if left:
            return self._score_here(left, datastore, network, listed, share, may_move=False)
        return left is not None and datastore.list_images() == listed

    def _score_there(
        self,
        cluster: DaskCluster,
        due: Sequence[tuple[str, str]],
        datastore: Datastore,
        network: BackgroundNetwork,
        listed: Sequence[str],
    ) -> list[tuple[str, str]] | None:
        """Have the workers score what they can open; returns the rest, or None where other things may be due by now."""
        if self._weights is None or self._weights.card.sha256 != network.card.sha256:
            self._weights = Weights.served(self._model.settings)
        if self._weights.card.sha256 != network.card.sha256:
            return None
        left: list[tuple[str, str]] = []
        asked: dict[str, list[str]] = {}
        stream = cluster.executor(self._weights).stream(
            self._orders(due, datastore, asked, left), self._asked_to_stop.is_set
        )
        looked = time.monotonic()
        try:
            for number, (order, outcome) in enumerate(stream, start=1):
                for image in asked[order.key]:
                    self._keep(image, order.key, network.version, outcome)
                self._progress = replace(self._progress, places=self._link.places)
                if number % SETTLE_EVERY == 0:
                    self._pool.settle(len(datastore.get_labeled_images()))
                if self._model.served_name != network.version:
                    return None
                if time.monotonic() - looked >= LOOK_S:
                    if datastore.list_images() != listed:
                        return None
                    looked = time.monotonic()
        except ClusterError as error:
            self._link.lost(error)
            return None
        finally:
            stream.close()
        if self._asked_to_stop.is_set():
            raise Interrupted
        self._progress = replace(self._progress, places=0)
        return left

    def _orders(
        self,
        due: Sequence[tuple[str, str]],
        datastore: Datastore,
        asked: dict[str, list[str]],
        left: list[tuple[str, str]],
    ) -> Iterator[Order]:
        """The orders of what is due, as there is room for them. `asked` gets the images of each, `left` what cannot be
        had elsewhere."""
        settings = self._model.settings
        for image, key in due:
            try:
                with as_answers():
                    reference = travelling(image, datastore, self._root)
            except HTTPException as refusal:
                self._refuse(image, key, refusal)
                continue
            known = asked.get(key)
            asked.setdefault(key, []).append(image)
            if known is not None:
                continue
            if reference is None:
                left.append((image, key))
                continue
            order = score_order(key, reference, self._settings, settings.precision, settings.scoring.score_memory_mib)
            if order.is_short:
                yield order
            else:
                left.append((image, key))

    def _score_here(
        self,
        due: Sequence[tuple[str, str]],
        datastore: Datastore,
        network: BackgroundNetwork,
        listed: Sequence[str],
        share: float,
        may_move: bool,
    ) -> bool:
        """Score in this thread, with rests; False if images or version changed meanwhile, or a cluster is there and the
        rest `may_move`."""
        if due and share <= 0:
            raise SettingsError(f"score_share is 0, and there is no cluster that scores ({self._link.problem})")
        looked = time.monotonic()
        for number, (image, key) in enumerate(due, start=1):
            start = time.monotonic()
            self._score(image, key, datastore, network)
            if number % SETTLE_EVERY == 0:
                self._pool.settle(len(datastore.get_labeled_images()))
            if self._asked_to_stop.wait((time.monotonic() - start) * (1 / share - 1)):
                raise Interrupted
            if self._model.served_name != network.version or (may_move and self._link.now() is not None):
                return False
            # Not after each score: a list of a hundred thousand images takes longer than one.
            if time.monotonic() - looked >= LOOK_S:
                if datastore.list_images() != listed:
                    return False
                looked = time.monotonic()
        return not due or datastore.list_images() == listed

    def _due(
        self, images: Sequence[str], labelled: set[str], datastore: Datastore, network: BackgroundNetwork
    ) -> list[tuple[str, str]]:
        """Images whose score is missing or of something else, with the key of the one that they should have: those
        never seen before the others, unlabelled before labelled; of what an earlier version scored, what costs most
        clicks first."""
        stored, due = self._store.all(), []
        for image in images:
            key = score_key(image_reference(image, datastore), network.card, self._settings)
            score = stored.get(image)
            if (score is None or score.key != key) and self._progress.problems.get(image, "") != key:
                clicks = score.expected_clicks if score is not None and score.version != network.version else None
                # In no order that means anything, so that what is known early stands for all of them.
                place = sha256(image.encode(errors="surrogatepass")).hexdigest()
                due.append((clicks is not None, image in labelled, -(clicks or 0.0), place, image, key))
        return [(image, key) for *_, image, key in sorted(due)]

    def _score(self, image: str, key: str, datastore: Datastore, network: BackgroundNetwork) -> None:
        try:
            with as_answers():
                limit = self._model.settings.scoring.score_memory_mib * 2**20
                volume = open_volume(stored_path(image, datastore), limit)
                found = score_volume(network, network.card, volume, self._settings, self._calibration)
        except HTTPException as refusal:
            self._refuse(image, key, refusal)
            return
        self._put(image, key, network.version, found)

    def _keep(self, image: str, key: str, version: str, outcome: Outcome) -> None:
        """What a worker came to."""
        if isinstance(outcome, Failure):
            self._note_problem(image, key if outcome.is_lasting else "", outcome.sentence)
        else:
            self._put(image, key, version, score_from(outcome))

    def _put(self, image: str, key: str, version: str, found: ImageScore) -> None:
        score = StoredScore(image, key, version, found.features, found.disagreement, found.expected_clicks)
        self._store.put(score)
        self._pool.put({image: score.known})
        self._pace.note()
        self._progress = replace(self._progress, scored=self._progress.scored + 1, per_hour=self._pace.per_hour)

    def _refuse(self, image: str, key: str, refusal: HTTPException) -> None:
        # An archive that is away, or memory that is full, may be different at the next look.
        self._note_problem(image, key if refusal.status_code < FIRST_OF_ITS_OWN else "", str(refusal.detail))

    def _note_problem(self, image: str, kept: str, sentence: str) -> None:
        logger.warning("%s is not scored: %s", image, sentence)
        self._progress = replace(self._progress, problems={**self._progress.problems, image: kept})


def image_reference(image: str, datastore: Datastore) -> str:
    """What names the content of an image without opening it: a series by its UID, a file by its state on disk."""
    if isinstance(datastore, ListedFolder):
        return datastore.reference(image)
    if isinstance(datastore, DICOMWebDatastore):
        return f"series {image}"
    return json.dumps(file_stamp(Path(datastore.get_image_uri(image))), default=str)


def scores_folder(model_folder: Path, identity: str) -> Path:
    """Where the scores of one server's images are kept, by what names its studies (lib.datastore.identity): ids of
    other studies may be the same."""
    return model_folder / "scores" / sha256(identity.encode(errors="surrogatepass")).hexdigest()[:16]


def known_pool(store: ScoreStore) -> Pool:
    """The pool of all scores of a store."""
    return Pool({image: score.known for image, score in store.all().items()})
