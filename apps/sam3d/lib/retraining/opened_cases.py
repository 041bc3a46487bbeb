"""A run's cases: opened as the settings say, doubted where a label looks inverted, and the patches to measure on."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lib.learning.cases import MEASURED, Case, CaseStore, TrainingSample
from lib.network.weights import Card
from lib.retraining.gate import Patch
from lib.settings import Settings

CASES = "cases"
# Of a label kept aside this many patches are measured, and of all labels together not more than the second number.
PATCHES_PER_LABEL, MOST_PATCHES = 3, 96
VALIDATION_SEED = 1_000_000_007
# Draws until every label of every case has its patches; cases are drawn at random.
DRAWS_PER_PATCH = 40
MOST_FILLED = 0.5


def open_cases(settings: Settings, cases: Sequence[Case], card: Card, augmented: bool) -> CaseStore:
    """The cases as the settings prepare them, cached on disk."""
    changes: dict[str, Any] = {} if augmented else {"augmentation": None}
    return CaseStore(
        cases,
        settings.labels,
        card,
        settings.model_folder / CASES,
        settings.training.case_cache_mib * 2**20,
        is_named_intensity=settings.intensity is not None,
        **changes,
    )


def validation_patches(store: CaseStore, without: Collection[str] = ()) -> list[Patch]:
    """A few patches of every label of every case, the same ones each time; in turn, so that neighbours differ. Labels
    of `without` are left out."""
    pairs = [(case, label) for case in store.usable() for label in sorted(set(_regions(store, case)) - set(without))]
    wanted = max(1, min(PATCHES_PER_LABEL, MOST_PATCHES // max(1, len(pairs))))
    found: dict[tuple[str, str], list[TrainingSample]] = {pair: [] for pair in pairs}
    draws = DRAWS_PER_PATCH * wanted * len(pairs)
    for sample in store.samples(VALIDATION_SEED, 0, draws, MEASURED):
        kept = found.get((sample.case, sample.label))
        if kept is not None and len(kept) < wanted:
            kept.append(sample)
        if all(len(kept) == wanted for kept in found.values()):
            break
    rounds = [[kept[turn] for kept in found.values() if turn < len(kept)] for turn in range(wanted)]
    return [Patch(each.patch, each.target, each.label, each.case) for row in rounds for each in row]


def doubtful(store: CaseStore, cases: Sequence[str]) -> dict[str, str]:
    """Cases with a label that fills most of its image, as one does whose background was drawn instead."""
    doubts = {}
    for case in cases:
        prepared = store.open(case)
        assert prepared is not None, "only usable cases are asked for"
        for name, region in sorted(prepared.regions.items()):
            share = sum(region.counts) / prepared.volume.array.size
            if share > MOST_FILLED:
                doubts[case] = (
                    f"{name} fills {share:.0%} of the image, as if it were inverted; correct it, or start the server "
                    "with --conf trust_labels true"
                )
    return doubts


def _regions(store: CaseStore, case: str) -> Mapping[str, Any]:
    prepared = store.open(case)
    return prepared.regions if prepared else {}
