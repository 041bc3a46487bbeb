"""The phases of a series: time points, echoes or b-values, each with slices at the places of the others'."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lib.images.dicom_slices import COSINE_TOLERANCE, PHASE_TAGS, Slice

# What they are told apart by where no tag does: at each place the first by number is of the first phase, and so on.
BY_NUMBER = "InstanceNumber"


@dataclass(frozen=True)
class Phases:
    """The slices of each phase, in order, and the tag by whose value they differ."""

    tag: str
    groups: tuple[tuple[Slice, ...], ...]

    @property
    def main(self) -> int:
        """The number, from 1 up, of the phase that the series is opened as: the first of those with most slices."""
        return max(range(len(self.groups)), key=lambda each: (len(self.groups[each]), -each)) + 1


def phases_of(slices: Sequence[Slice]) -> Phases | None:
    """The phases that slices of one kind are of; None where no two lie at one place, or nothing tells these apart."""
    places = places_of(slices)
    if len(places) == len(slices):
        return None
    for tag in PHASE_TAGS:
        values = {each.phase.get(tag) for each in slices}
        if None in values or not 1 < len(values) < len(slices):
            continue
        groups = defaultdict(list)
        for each in slices:
            groups[each.phase[tag]].append(each)
        if all(len(places_of(group)) == len(group) for group in groups.values()):
            first_seen = {value: min(each.order for each in group) for value, group in groups.items()}
            is_ordered = all(isinstance(value, float) for value in groups)
            order = sorted(groups, key=(lambda value: value) if is_ordered else first_seen.__getitem__)
            return Phases(tag, tuple(tuple(groups[value]) for value in order))
    if len({len(each) for each in places}) > 1:
        return None
    ranked = [sorted(each, key=lambda one: one.order) for each in places]
    return Phases(BY_NUMBER, tuple(zip(*ranked, strict=True)))


def places_of(slices: Sequence[Slice]) -> list[list[Slice]]:
    """The slices in groups that lie at one height along the normal, in its order."""
    height = height_along(slices[0])
    ordered = sorted(slices, key=height)
    groups = [[ordered[0]]]
    for each in ordered[1:]:
        if height(each) - height(groups[-1][0]) < COSINE_TOLERANCE:
            groups[-1].append(each)
        else:
            groups.append([each])
    return groups


def height_along(first: Slice) -> Callable[[Slice], float]:
    """How high slices lie along the normal of one of them, in mm."""
    normal = first.normal
    return lambda each: float(each.position @ normal)
