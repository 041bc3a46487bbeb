"""Of all slices of a series the ones that make one even stack: the main one, of one phase, with notes on the rest.

What a series holds beside its stack (a localizer, a capture of the screen, other phases) its user cannot take out, so
it is left out here, and said. What is wrong with the stack itself is refused with the place where it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lib.errors import VolumeError
from lib.images.dicom_phases import Phases, height_along, phases_of, places_of
from lib.images.dicom_slices import COSINE_TOLERANCE, Misfit, Slice

Floats = NDArray[np.float64]

# How far, in slice spacings, a slice may lie from its place in an even stack: scanners round their positions.
EVEN_TOLERANCE = 0.1
# How far, in millimetres per millimetre of stack, slices may drift sideways before they make a sheared (tilted) stack.
TILT_TOLERANCE = 0.005
# A step between slices this many times the usual one is called a gap, not unevenness.
GAP_RATIO = 1.5
# As few slices as this, so many slice spacings away from all others, are strays and no part of the stack.
MOST_STRAYS, STRAY_STEPS = 2, 5.0
# So many equal steps in a row make a part of a stack that has slices at distances of its own.
SHORTEST_RUN = 3
# Names listed in a note.
MOST_NAMES = 3


@dataclass(frozen=True)
class Stack:
    """Slices sorted along their normal, the way from one to the next (3,) in LPS mm, and what was left out."""

    slices: Sequence[Slice]
    step: Floats
    notes: tuple[str, ...] = ()

    @property
    def normal(self) -> Floats:
        """Row x column direction, (3,), LPS."""
        return self.slices[0].normal

    @property
    def tilt(self) -> float:
        """Millimetres that slices drift sideways for each millimetre that they rise."""
        rise = float(self.step @ self.normal)
        return float(np.linalg.norm(self.step - rise * self.normal)) / rise


def main_stack(found: Sequence[Slice | Misfit], name: str, phase: int | None = None) -> Stack:
    """The stack that most slices of a series make, of its main phase or of the one with a number from 1 up;
    VolumeError, which calls the series `name`, if there is none."""
    slices = [each for each in found if isinstance(each, Slice)]
    misfits = [each for each in found if isinstance(each, Misfit)]
    if not slices:
        if misfits:
            raise VolumeError(f"{misfits[0].name} in {name} {misfits[0].reason}")
        raise VolumeError(f"{name} holds no DICOM slices; give the folder of one CT or MR series")
    n_series = len({each.series for each in slices})
    if n_series > 1:
        raise VolumeError(f"{name} mixes {n_series} DICOM series; put each series in a folder of its own")
    notes = []
    if misfits:
        names = _names([each.name for each in misfits])
        notes.append(f"{len(misfits)} images of {name} are no part of its stack and left out ({names})")
    slices, remarks = _of_one_kind(slices, name)
    notes += remarks
    slices, remarks = _of_one_phase(slices, name, phase)
    notes += remarks
    slices.sort(key=height_along(slices[0]))
    slices, remarks = _without_strays(slices, name)
    notes += remarks
    return Stack(slices, _even_step(slices, name), tuple(notes))


def phases_among(found: Sequence[Slice | Misfit]) -> Phases | None:
    """The phases of a series' main stack; None where it holds one, or no stack at all."""
    slices = [each for each in found if isinstance(each, Slice)]
    try:
        return phases_of(_of_one_kind(slices, "")[0]) if slices else None
    except VolumeError:
        return None


def _of_one_kind(slices: list[Slice], name: str) -> tuple[list[Slice], list[str]]:
    """The largest group of slices of one size, orientation and pixel spacing."""
    plain = [each for each in slices if not each.is_localizer]
    groups: list[list[Slice]] = []
    for each in sorted(plain or slices, key=lambda one: one.order):
        for group in groups:
            if _is_alike(each, group[0]):
                group.append(each)
                break
        else:
            groups.append([each])
    groups.sort(key=len, reverse=True)
    largest = groups[0]
    if len(groups) > 1 and (len(largest) == 1 or len(largest) == len(groups[1])):
        raise VolumeError(
            f"{name} holds {len(groups)} kinds of slices, of which none is the main stack: up to {len(largest)} of one "
            f"size, orientation and pixel spacing (as {largest[0].label} and {groups[1][0].label}); it may be a "
            "localizer: choose another series, or split it"
        )
    others = [each for each in slices if not any(each is kept for kept in largest)]
    if not others:
        return largest, []
    names = _names([each.label for each in others])
    return largest, [
        f"{len(others)} of {len(slices)} slices of {name} differ from its main stack in size, orientation, pixel "
        f"spacing or kind and are left out ({names})"
    ]


def _is_alike(one: Slice, other: Slice) -> bool:
    return (
        one.size == other.size
        and bool(np.abs(one.frame - other.frame).max() <= COSINE_TOLERANCE)
        and bool(np.abs(one.pixel_spacing - other.pixel_spacing).max() <= COSINE_TOLERANCE * other.pixel_spacing.max())
    )


def _of_one_phase(slices: list[Slice], name: str, phase: int | None) -> tuple[list[Slice], list[str]]:
    """The slices of one phase where several lie at one place: the one with the number, or the main one."""
    places = places_of(slices)
    if len(places) == len(slices):
        if phase is not None:
            raise VolumeError(f"{name} holds one phase, and so no phase {phase}: open the series itself")
        return slices, []
    phases = phases_of(slices)
    if phases is None:
        # Nothing tells them apart: at each place the first counts.
        firsts = [min(each, key=lambda one: one.order) for each in places]
        return firsts, [
            f"{len(slices) - len(firsts)} slices of {name} lie where another one does and are left out: of each place "
            "the one with the lowest InstanceNumber counts"
        ]
    number = phases.main if phase is None else phase
    if number > len(phases.groups):
        raise VolumeError(f"{name} holds {len(phases.groups)} phases, and so no phase {number}: open another one")
    return list(phases.groups[number - 1]), [
        f"{name} holds {len(phases.groups)} phases at one place (told apart by {phases.tag}), of which phase {number} "
        "is used"
    ]


def _without_strays(slices: list[Slice], name: str) -> tuple[list[Slice], list[str]]:
    """Sorted slices without the one or two at an end that lie far away from all others."""
    if len(slices) < 2 * MOST_STRAYS + SHORTEST_RUN:
        return slices, []
    heights = np.array([height_along(slices[0])(each) for each in slices])
    gaps = np.diff(heights)
    far = STRAY_STEPS * float(np.median(gaps))
    low = next((n for n in range(MOST_STRAYS, 0, -1) if gaps[n - 1] > far), 0)
    high = next((n for n in range(MOST_STRAYS, 0, -1) if gaps[-n] > far), 0)
    strays = [*slices[:low], *slices[len(slices) - high :]]
    if not strays:
        return slices, []
    kept = slices[low : len(slices) - high]
    names = _names([each.label for each in strays])
    return kept, [f"{len(strays)} slices of {name} lie far from its stack of {len(kept)} and are left out ({names})"]


def _even_step(slices: Sequence[Slice], name: str) -> Floats:
    """The way from a slice to the next (3,), LPS mm, of slices sorted along the normal."""
    normal = slices[0].normal
    if len(slices) == 1:
        return normal * slices[0].thickness
    positions = np.array([each.position for each in slices])
    heights = positions @ normal
    even = np.linspace(heights[0], heights[-1], len(heights))
    usual = float(np.median(np.diff(heights)))
    if np.abs(heights - even).max() > EVEN_TOLERANCE * usual:
        raise VolumeError(_unevenness(slices, heights, name))
    way = positions[-1] - positions[0]
    line = positions[0] + np.linspace(0, 1, len(positions))[:, None] * way
    off = np.abs(positions - line).max(axis=1)
    if off.max() > max(EVEN_TOLERANCE * usual, float(slices[0].pixel_spacing.max())):
        worst = int(off.argmax())
        raise VolumeError(
            f"{name} has slices that do not lie above each other: {slices[worst].label} lies {off[worst]:.4g} mm "
            "beside the line of the others; resample the series to one stack first"
        )
    height = float(way @ normal)
    if np.linalg.norm(way - height * normal) <= TILT_TOLERANCE * abs(height):
        # As ITK, and with it the viewers, has them: along the normal, as far apart as their positions are.
        way = normal * float(np.copysign(np.linalg.norm(way), height))
    step: Floats = way / (len(slices) - 1)
    return step


def _unevenness(slices: Sequence[Slice], heights: Floats, name: str) -> str:
    """What is wrong with a stack whose slices do not lie evenly, in one sentence."""
    gaps = np.diff(heights)
    if (parts := _two_distances(gaps)) is not None:
        below, above, first, second = parts
        return (
            f"{name} has two slice distances: {first:.4g} mm up to {slices[below].label} (height {heights[below]:.4g} "
            f"mm) and {second:.4g} mm from {slices[above].label} (height {heights[above]:.4g} mm) on; no slice is "
            "missing. Resample it to one distance, or split it there into two series"
        )
    usual, widest = float(np.median(gaps)), int(gaps.argmax())
    if gaps[widest] > GAP_RATIO * usual:
        return (
            f"{name} misses slices: {gaps[widest]:.4g} mm lie between {slices[widest].label} and "
            f"{slices[widest + 1].label}, where slices are {usual:.4g} mm apart; fetch the whole series"
        )
    return (
        f"{name} has unevenly spaced slices, {gaps.min():.4g} to {gaps.max():.4g} mm apart; resample the series to "
        "even spacing first"
    )


def _two_distances(gaps: Floats) -> tuple[int, int, float, float] | None:
    """The last slice of a lower part and the first of an upper one, each evenly spaced, and their distances in mm."""
    runs: list[tuple[int, int]] = []
    start = 0
    for end in range(1, len(gaps) + 1):
        if end == len(gaps) or abs(gaps[end] - gaps[start]) > EVEN_TOLERANCE * gaps[start]:
            if end - start >= SHORTEST_RUN:
                runs.append((start, end))
            start = end
    if len(runs) != 2 or sum(end - start for start, end in runs) < len(gaps) - 1:
        return None
    (low, low_end), (high, high_end) = runs
    first, second = float(gaps[low:low_end].mean()), float(gaps[high:high_end].mean())
    is_different = abs(first - second) > EVEN_TOLERANCE * min(first, second)
    return (low_end, high, first, second) if is_different else None


def _names(names: Sequence[str]) -> str:
    listed = ", ".join(names[:MOST_NAMES])
    return f"{listed} and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else listed
