"""Annotated cases as subjects of practice: one connected part of one label at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lib.boxes import CONNECTED_26, Index
from lib.cache import ByteCache
from lib.learning.case_cache import Region
from lib.learning.cases import CaseStore
from lib.learning.subjects import FEWEST_VOXELS, Subject

# Parts smaller than this share of the largest one, or of fewer than FEWEST_VOXELS, are taken for slips of the hand.
SMALLEST_PART = 0.02
# How fast the chance to be drawn grows with a part's voxels: large ones rather than small ones, each now and then.
SIZE_POWER = 0.25
# What the masks of subjects, and how deep their voxels lie, may hold in memory.
SUBJECTS_MIB = 512


class AnnotatedCases:
    """A pool (lib.learning.made_volumes) of what is labelled in the usable cases of a store. Of all labels only
    `sought` is what the automatic mode should find."""

    def __init__(self, store: CaseStore, sought: str) -> None:
        self._store, self._sought = store, sought
        self._subjects: ByteCache[list[Subject]] = ByteCache(
            SUBJECTS_MIB * 2**20, lambda subjects: sum(2 * subject.region.mask.nbytes for subject in subjects)
        )

    def draw(self, number: int, rng: np.random.Generator) -> Subject:
        """A part of a random label of a random case, decided by `rng` alone; LabelError if there is no case."""
        case_id, case = self._store.draw_case(rng)
        name = str(rng.choice(sorted(case.regions)))
        region = case.regions[name]

        def separate() -> list[Subject]:
            parts = separate_parts(region.mask)
            # A label in one piece stays mapped from disk.
            is_whole = sum(parts[0].counts) == sum(region.counts)
            regions = [region] if is_whole else [_moved(part, region.start) for part in parts]
            is_sought = name == self._sought
            return [Subject(case.volume, case.intensity, part, is_sought=is_sought) for part in regions]

        return draw_subject(self._subjects.get((case_id, name), separate), rng)


def separate_parts(mask: NDArray[np.bool_]) -> list[Region]:
    """The connected parts (26 neighbours) of a mask (I, J, K) that is not empty, without slips of the hand; the largest
    is always one of them."""
    parts, _ = ndimage.label(mask, structure=CONNECTED_26)
    sizes = np.bincount(parts.ravel())[1:]
    fewest = min(sizes.max(), max(FEWEST_VOXELS, SMALLEST_PART * sizes.max()))
    return [Region.around(np.asarray(parts == number + 1)) for number in np.flatnonzero(sizes >= fewest)]


def draw_subject(subjects: Sequence[Subject], rng: np.random.Generator) -> Subject:
    """One of the subjects, large ones rather than small ones."""
    weights = np.array([sum(subject.region.counts) for subject in subjects], np.float64) ** SIZE_POWER
    return subjects[int(rng.choice(len(subjects), p=weights / weights.sum()))]


def _moved(part: Region, start: Index) -> Region:
    """A part that was found in a box that begins at the voxel `start`."""
    i, j, k = (own + first for own, first in zip(part.start, start, strict=True))
    return replace(part, start=(i, j, k))
