"""The interactive protocol: a simulated user clicks, sees the mask, corrects its largest error, and all is scored.

The first click is the middle of the target; every later one the middle of the largest error (interactive.clicks). Dice
and NSD (at 2 mm unless told otherwise) are kept after each click. Whoever finds no error is done; the last scores
repeat.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.boxes import Index
from lib.datasets.labelled_cases import Case, opened
from lib.evaluation.baselines import BASELINES, Baseline
from lib.evaluation.figures import Snapshot
from lib.evaluation.metrics import auc_over_clicks, clicks_to, dice, surface_dice
from lib.images.volumes import Volume
from lib.interactive.clicks import first_click, next_click
from lib.interactive.predictor import Predictor
from lib.interactive.prompts import prompts_from_request
from lib.settings import BACKGROUND

Mask = NDArray[np.bool_]

TOLERANCE_MM = 2.0
MARKS = (1, 3, 5, 10)  # clicks after which scores are tabled
AUC_CLICKS = 5
GOOD_DICE = 0.8
FAILED_DICE = 0.5
NOTABLE_DROP = 0.05
FEWEST_VOXELS = 27
OWN_METHOD = "sam3d"


@dataclass(frozen=True)
class Answer:
    """A mask (I, J, K) and what it cost: patches that were decoded, and of them those that had to be encoded."""

    mask: Mask
    patches: int = 0
    encoder_calls: int = 0


# Foreground and background clicks in, the answer to all of them out.
Segmenter = Callable[[Sequence[Index], Sequence[Index]], Answer]


@dataclass(frozen=True)
class Round:
    """One click, the scores of the mask that followed, and its cost."""

    click: Index
    is_foreground: bool
    dice: float
    nsd: float
    seconds: float
    patches: int
    encoder_calls: int


@dataclass(frozen=True)
class Target:
    """What was sought: one value of one case's label map."""

    case: str
    name: str
    voxels: int
    ml: float


@dataclass(frozen=True)
class Result:
    """One target as one method found it. `rounds` may end before `n_clicks`, with no error left; scores never do."""

    target: Target
    method: str
    rounds: tuple[Round, ...]
    n_clicks: int
    snapshot: Snapshot | None = None

    @property
    def dices(self) -> list[float]:
        return self._repeated([turn.dice for turn in self.rounds])

    @property
    def nsds(self) -> list[float]:
        return self._repeated([turn.nsd for turn in self.rounds])

    @property
    def worst_drop(self) -> float:
        """The most Dice that one more click cost, 0 where none did."""
        return max([0.0, *(before - after for before, after in pairwise(self.dices))])

    def __str__(self) -> str:
        scores = " ".join(f"{score:.2f}" for score in self.dices)
        seconds = sum(turn.seconds for turn in self.rounds)
        return f"{self.target.case}, label {self.target.name}, {self.method}: Dice {scores} ({seconds:.1f} s)"

    def _repeated(self, scores: list[float]) -> list[float]:
        return scores + scores[-1:] * (self.n_clicks - len(scores))


def evaluate_target(
    segment: Segmenter,
    label: Mask,
    spacing: NDArray[np.float64],
    n_clicks: int,
    seed: int = 0,
    tolerance_mm: float = TOLERANCE_MM,
) -> tuple[list[Round], list[Mask]]:
    """Up to `n_clicks` rounds on one target (I, J, K), and the masks after the first and the last of them."""
    rng = np.random.default_rng(seed)  # breaks ties
    click, is_foreground = first_click(label, spacing), True
    clicks: list[tuple[Index, bool]] = []
    rounds: list[Round] = []
    masks: list[Mask] = []
    while True:
        clicks.append((click, is_foreground))
        played, mask = _played(segment, clicks, label, spacing, tolerance_mm)
        rounds.append(played)
        masks = [*masks[:1], mask]
        correction = next_click(label, mask, spacing, rng) if len(rounds) < n_clicks else None
        if correction is None:
            return rounds, masks
        click, is_foreground = correction


def replay(
    segment: Segmenter,
    rounds: Sequence[Round],
    label: Mask,
    spacing: NDArray[np.float64],
    tolerance_mm: float = TOLERANCE_MM,
) -> list[Round]:
    """The rounds of another method that is given the very same clicks."""
    clicks = [(turn.click, turn.is_foreground) for turn in rounds]
    counts = range(1, len(clicks) + 1)
    return [_played(segment, clicks[:count], label, spacing, tolerance_mm)[0] for count in counts]


def _played(
    segment: Segmenter,
    clicks: Sequence[tuple[Index, bool]],
    label: Mask,
    spacing: NDArray[np.float64],
    tolerance_mm: float,
) -> tuple[Round, Mask]:
    click, is_foreground = clicks[-1]
    start = time.perf_counter()
    answer = segment([at for at, inside in clicks if inside], [at for at, inside in clicks if not inside])
    seconds = time.perf_counter() - start
    scores = dice(label, answer.mask), surface_dice(label, answer.mask, spacing, tolerance_mm)
    return Round(click, is_foreground, *scores, seconds, answer.patches, answer.encoder_calls), answer.mask


def segmenter_of(predictor: Predictor, volume: Volume) -> Segmenter:
    """The predictor as it answers a request of a server's client, for the first of its labels."""
    name = predictor.settings.labels[0]

    def segment(foreground: Sequence[Index], background: Sequence[Index]) -> Answer:
        request = {name: [list(click) for click in foreground], BACKGROUND: [list(click) for click in background]}
        clicks = prompts_from_request(request, predictor.settings.labels, volume.shape)
        segmentation = predictor.segment(volume, clicks)
        report = segmentation.report
        return Answer(segmentation.label_map == 1, report.n_patches, report.n_encoded)

    return segment


def _segmenter_by(baseline: Baseline, volume: Volume) -> Segmenter:
    return lambda foreground, background: Answer(baseline(volume, foreground, background))


def evaluate(
    predictor: Predictor,
    cases: Iterable[Case],
    n_clicks: int,
    max_targets: int,
    has_baselines: bool = False,
    tolerance_mm: float = TOLERANCE_MM,
) -> Iterator[Result | str]:
    """Results of the targets as they come, each followed by the baselines'; and a sentence for what was left out."""
    game = Game(n_clicks, tolerance_mm, has_baselines)
    for case in cases:
        yield from evaluate_case(predictor, case, game, max_targets)


def evaluate_case(predictor: Predictor, case: Case, game: Game, max_targets: int) -> Iterator[Result | str]:
    """The same of one case."""
    for found in opened([case]):
        if isinstance(found, str):
            yield found
            return
        _, volume, label_map = found
        values = [int(value) for value in np.unique(label_map) if value > 0]
        if len(values) > max_targets:
            yield f"{case.name}: the first {max_targets} of {len(values)} labels were taken"
        for value in values[:max_targets]:
            label = np.asarray(label_map == value)
            name = case.label_names.get(value, str(value))
            voxels = int(label.sum())
            if voxels < FEWEST_VOXELS:
                yield f"{case.name}: label {name} was left out, for it has {voxels} voxels only"
                continue
            target = Target(case.name, name, voxels, voxels * float(np.prod(volume.spacing)) / 1000)
            yield from _results(predictor, volume, label, target, game)


@dataclass(frozen=True)
class Game:
    """How long it is played, how surfaces are compared, and whether classical methods get the same clicks."""

    n_clicks: int
    tolerance_mm: float = TOLERANCE_MM
    has_baselines: bool = False


def _results(predictor: Predictor, volume: Volume, label: Mask, target: Target, game: Game) -> Iterator[Result]:
    n_clicks, tolerance_mm = game.n_clicks, game.tolerance_mm
    segment = segmenter_of(predictor, volume)
    rounds, masks = evaluate_target(segment, label, volume.spacing, n_clicks, tolerance_mm=tolerance_mm)
    snapshot = Snapshot.of(volume, label, masks, rounds[0].click)
    yield Result(target, OWN_METHOD, tuple(rounds), n_clicks, snapshot)
    for method, baseline in BASELINES.items() if game.has_baselines else ():
        played = replay(_segmenter_by(baseline, volume), rounds, label, volume.spacing, tolerance_mm)
        yield Result(target, method, tuple(played), n_clicks)


def summarise(results: Sequence[Result]) -> dict[str, Any]:
    """Averages over targets of one method. Marks beyond the clicks that were made are left out."""
    dices = np.array([result.dices for result in results])  # (targets, clicks)
    nsds = np.array([result.nsds for result in results])
    drops = np.array([result.worst_drop for result in results])
    marks = [mark for mark in MARKS if mark <= dices.shape[1]]
    first_seconds = [result.rounds[0].seconds for result in results]
    later_seconds = [turn.seconds for result in results for turn in result.rounds[1:]]
    return {
        "targets": len(results),
        "dice": {mark: float(dices[:, mark - 1].mean()) for mark in marks},
        "nsd": {mark: float(nsds[:, mark - 1].mean()) for mark in marks},
        "failed_share": {mark: float((dices[:, mark - 1] < FAILED_DICE).mean()) for mark in marks},
        "auc_dice": _mean_auc(dices),
        "auc_nsd": _mean_auc(nsds),
        "noc_80": float(np.mean([clicks_to(row.tolist(), GOOD_DICE) for row in dices])),
        "worst_drop_mean": float(drops.mean()),
        "worst_drop_max": float(drops.max()),
        "dropped_share": float((drops > NOTABLE_DROP).mean()),
        "dice_by_click": dices.mean(axis=0).tolist(),
        "nsd_by_click": nsds.mean(axis=0).tolist(),
        "first_click_seconds": float(np.mean(first_seconds)),
        "later_click_seconds": float(np.mean(later_seconds)) if later_seconds else None,
    }


def _mean_auc(scores: NDArray[np.float64]) -> float | None:
    """None where fewer clicks were made than the area is defined over."""
    if scores.shape[1] < AUC_CLICKS:
        return None
    return float(np.mean([auc_over_clicks(row.tolist(), AUC_CLICKS) for row in scores]))


def by_method(results: Iterable[Result]) -> Mapping[str, list[Result]]:
    """Results grouped by method, in the order in which the methods first appear."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.method, []).append(result)
    return groups
