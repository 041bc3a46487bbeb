"""What the user asks for: clicks per label and a box, read from the request of any MONAI Label client.

Three ways to send clicks are understood, and add up when they are mixed:

- `deepedit`: one key per label name and `background`, each a list of [i, j, k];
- `deepgrow`: `foreground` for the label named by `label` (the first label by default), and `background`;
- `vista3d`: `points` with `point_labels` (1 or 0) for the label numbered, from 1, by `label_prompt`.

`roi` is a box [i0, i1, j0, j1, k0, k1]. Each key is the full truth about its label: nothing is remembered between
requests. What cannot be a click is an error; what can be one, but not for this image, is left out and noted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from reprlib import Repr
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.boxes import Box, Index, bounding_box, hull
from lib.errors import PromptError
from lib.interactive.drawn import Drawn
from lib.settings import BACKGROUND

# Keys that are read by their own rules; "null" is what a viewer sends as the name of no segment at all.
_NOT_LABELS = frozenset({BACKGROUND, "foreground", "points", "null"})

_short = Repr()
_short.maxstring = _short.maxother = 60
_show = _short.repr


@dataclass(frozen=True, eq=False)
class Prompt:
    """The points of one label: `point_coords` (N, 3) voxel indices, `point_labels` (N,) 1 foreground, 0 background.

    Foreground points come first, in the order of the clicks, so the first row is the label's first click.
    """

    point_coords: NDArray[np.int64]
    point_labels: NDArray[np.int64]
    # What the user already has of the label (lib.interactive.drawn).
    drawn: Drawn | None = None

    @property
    def foreground(self) -> NDArray[np.int64]:
        """The points (F, 3) that must be in the label."""
        return np.compress(self.point_labels == 1, self.point_coords, axis=0)


@dataclass(frozen=True, eq=False)
class ClickRequest:
    """All clicks of one request, sorted out: no voxel is asked to be two things, and all lie in the volume.

    `prompts` holds the labels that have a foreground point, in the order of the app's labels; the clicks of the other
    labels are background points there. `background` (M, 3) must be in no label. `n_clicks` counts the distinct clicks
    used, so a box alone gives a prompt and zero clicks. `notes` are sentences about what was left out or decided.
    """

    prompts: dict[str, Prompt]
    background: NDArray[np.int64]
    roi: Box | None = None
    notes: tuple[str, ...] = ()
    n_clicks: int = 0


def prompts_from_request(
    request: Mapping[str, Any], labels: Sequence[str], shape: Sequence[int], max_clicks: int = 1000
) -> ClickRequest:
    """Read the clicks and the box of `request` for a volume of `shape` (I, J, K) and the app's `labels`, in order.

    Raises PromptError for values that cannot be clicks, an unknown label or more than `max_clicks` clicks.
    """
    if not isinstance(request, Mapping):
        raise PromptError(f"params is {_show(request)}; send a mapping of label names to lists of [i, j, k]")
    names = [name for name in labels if name != BACKGROUND]
    _check_count(request, names, max_clicks)
    reader = _Reader(names, (int(shape[0]), int(shape[1]), int(shape[2])))
    foreground, background = reader.clicks(request)
    reader.note_unknown(request)
    foreground, background = reader.resolve(foreground, background)
    n_clicks = len(background) + sum(len(points) for points in foreground.values())
    roi = reader.box(request)
    if roi is not None:
        reader.add_box_click(request, roi, foreground, background)
    return ClickRequest(_prompts(foreground, background), _as_array(background), roi, tuple(reader.notes), n_clicks)


def drawn_on(
    request: ClickRequest, masks: Mapping[str, NDArray[np.bool_]], strokes: Mapping[str, NDArray[np.int8]]
) -> ClickRequest:
    """The request with what was drawn of each label, arrays (I, J, K) of the volume; labels that were drawn and not
    clicked on are among its prompts."""
    prompts = dict(request.prompts)
    for name in {**masks, **strokes}:
        shape = (masks[name] if name in masks else strokes[name]).shape
        mask = masks.get(name, np.zeros(shape, np.bool_))
        stroke = strokes.get(name, np.zeros(shape, np.int8))
        boxes = [box for box in (bounding_box(mask), bounding_box(stroke != 0)) if box is not None]
        if not boxes:
            continue
        box = hull(boxes)
        drawn = Drawn(box, mask[box].copy(), stroke[box].copy())
        prompts[name] = replace(prompts.get(name, _without_clicks(request.background)), drawn=drawn)
    return replace(request, prompts=prompts)


def _without_clicks(background: NDArray[np.int64]) -> Prompt:
    return Prompt(background, np.zeros(len(background), np.int64))


def _check_count(request: Mapping[str, Any], names: Sequence[str], max_clicks: int) -> None:
    """Refuse too many clicks before any of them is looked at."""
    keys = [*names, BACKGROUND, "foreground", "points"]
    count = sum(len(request[key]) for key in keys if isinstance(request.get(key), list | tuple))
    if count > max_clicks:
        raise PromptError(f"the request has {count} clicks and at most {max_clicks} are read; send fewer")


def _prompts(foreground: Mapping[str, list[Index]], background: list[Index]) -> dict[str, Prompt]:
    """The points of every label with a click of its own; all others' clicks are its background points."""
    prompts = {}
    for name, own in foreground.items():
        if own:
            others = [point for other, points in foreground.items() if other != name for point in points]
            point_labels = np.repeat(np.array([1, 0]), [len(own), len(background) + len(others)])
            prompts[name] = Prompt(_as_array([*own, *background, *others]), point_labels)
    return prompts


def _as_array(points: Sequence[Index]) -> NDArray[np.int64]:
    return np.array(points, dtype=np.int64).reshape(-1, 3)


@dataclass
class _Reader:
    """Reads one request against the label names and the volume's shape; says in `notes` what it left out."""

    names: list[str]
    shape: Index
    notes: list[str] = field(default_factory=list)

    def clicks(self, request: Mapping[str, Any]) -> tuple[dict[str, list[Index]], list[Index]]:
        """Foreground clicks per label name, and background clicks, of all three ways to send them."""
        foreground = {name: self.points(request.get(name), name) for name in self.names}
        background = self.points(request.get(BACKGROUND), BACKGROUND)
        grown = self.points(request.get("foreground"), "foreground")
        if grown and grown == background:
            # A viewer whose background row is selected sends that row's clicks under both keys.
            self.notes.append("foreground and background are the same clicks; they were taken as background")
            grown = []
        if grown:
            self._add(self.current_label(request), grown, foreground, background)
        if request.get("points") is not None:
            own, rest = self.labelled_points(request)
            self._add(self.prompted_label(request), own, foreground, background)
            background.extend(rest)
        return foreground, background

    @staticmethod
    def _add(name: str, points: list[Index], foreground: dict[str, list[Index]], background: list[Index]) -> None:
        """Give the points to a label, which may be the background."""
        (background if name == BACKGROUND else foreground[name]).extend(points)

    def current_label(self, request: Mapping[str, Any]) -> str:
        """The label the user is working on; the first one where the request does not say."""
        name = request.get("label") or self.names[0]
        if name == BACKGROUND or name in self.names:
            return str(name)
        raise PromptError(f"label {_show(name)} is not one of {self.names}; name one of these")

    def prompted_label(self, request: Mapping[str, Any]) -> str:
        """The label numbered, from 1, by `label_prompt`; the first one where the request does not say."""
        numbers = request.get("label_prompt")
        if isinstance(numbers, int):
            numbers = [numbers]
        if not numbers:
            return self.names[0]
        if not isinstance(numbers, list | tuple) or not all(_is_number_of(self.names, number) for number in numbers):
            raise PromptError(f"label_prompt is {_show(numbers)}; number the labels {self.names} from 1")
        if len(numbers) > 1:
            self.notes.append(f"label_prompt names {len(numbers)} labels; the points were taken for the first")
        return self.names[int(numbers[0]) - 1]

    def labelled_points(self, request: Mapping[str, Any]) -> tuple[list[Index], list[Index]]:
        """The `points` marked 1 and those marked 0 by `point_labels` (all 1 where it is absent); -1 marks padding."""
        points, marks = request["points"], request.get("point_labels")
        if not isinstance(points, list | tuple):
            return self.points(points, "points"), []
        marks = [1] * len(points) if marks is None else marks
        if not isinstance(marks, list | tuple) or len(marks) != len(points):
            raise PromptError(f"point_labels is {_show(marks)}; give one number for each of the {len(points)} points")
        if any(isinstance(mark, bool) or mark not in (1, 0, -1) for mark in marks):
            raise PromptError(f"point_labels is {_show(marks)}; use 1 for foreground and 0 for background")
        own, rest = ([point for point, m in zip(points, marks, strict=True) if m == mark] for mark in (1, 0))
        return self.points(own, "points"), self.points(rest, "points")

    def points(self, value: object, key: str) -> list[Index]:
        """The distinct voxels of a list of clicks, in order. Raises PromptError where `value` is no such list."""
        if value is None:
            return []
        if not isinstance(value, list | tuple):
            raise PromptError(f"clicks of {_show(key)} are {_show(value)}; send a list of [i, j, k]")
        kept: dict[Index, None] = {}
        odd, outside = [], []
        for click in value:
            voxel = _voxel(click, key)
            if voxel is None:
                odd.append(click)
            elif not all(0 <= index < size for index, size in zip(voxel, self.shape, strict=True)):
                outside.append(click)
            else:
                kept[voxel] = None
        self._note_left_out(odd, key, "not three finite numbers")
        self._note_left_out(outside, key, f"outside the image of shape {self.shape}")
        return list(kept)

    def _note_left_out(self, clicks: list[object], key: str, reason: str) -> None:
        if clicks:
            first = _show(clicks[0])
            self.notes.append(f"{len(clicks)} of the clicks of {_show(key)} left out, the first {first}: {reason}")

    def note_unknown(self, request: Mapping[str, Any]) -> None:
        """Say which keys look like clicks of labels that the app does not have."""
        known = {*self.names, *_NOT_LABELS}
        unknown = [key for key, value in request.items() if key not in known and _looks_like_clicks(value)]
        if unknown:
            self.notes.append(f"clicks of unknown labels {_show(unknown)} left out; the labels are {self.names}")

    def resolve(
        self, foreground: Mapping[str, list[Index]], background: list[Index]
    ) -> tuple[dict[str, list[Index]], list[Index]]:
        """Settle voxels that were clicked as two things: background wins, and two labels make it background."""
        negative = dict.fromkeys(background)
        owners: dict[Index, str] = {}
        shared: dict[Index, None] = {}
        for name, points in foreground.items():
            for point in points:
                if owners.setdefault(point, name) != name:
                    shared[point] = None
        both = [point for point in owners if point in negative]
        if both:
            self.notes.append(f"{len(both)} voxels clicked as foreground and background, first {both[0]}: background")
        contested = [point for point in shared if point not in negative]
        if contested:
            self.notes.append(f"{len(contested)} voxels clicked for two labels, first {contested[0]}: in neither")
        negative.update(shared)
        kept = {
            name: [point for point in dict.fromkeys(points) if point not in negative]
            for name, points in foreground.items()
        }
        return kept, list(negative)

    def box(self, request: Mapping[str, Any]) -> Box | None:
        """The box of `roi`, both ends included, sorted and clipped to the volume; None without one inside it."""
        value = request.get("roi")
        if value is None or (isinstance(value, list | tuple) and len(value) == 0):
            return None
        ends = [_number(end) for end in value] if isinstance(value, list | tuple) else []
        if len(ends) != 6 or not all(end is not None and math.isfinite(end) for end in ends):
            raise PromptError(f"roi is {_show(value)}; send six voxel indices [i0, i1, j0, j1, k0, k1]")
        corners = np.rint(np.array(ends, dtype=np.float64)).reshape(3, 2)
        low = np.maximum(corners.min(axis=1), 0)
        high = np.minimum(corners.max(axis=1), np.array(self.shape) - 1)
        if np.any(low > high):
            self.notes.append(f"the box {_show(value)} lies outside the image of shape {self.shape} and was left out")
            return None
        first, last = low.astype(int), high.astype(int) + 1
        return (
            slice(int(first[0]), int(last[0])),
            slice(int(first[1]), int(last[1])),
            slice(int(first[2]), int(last[2])),
        )

    def add_box_click(
        self, request: Mapping[str, Any], roi: Box, foreground: dict[str, list[Index]], background: list[Index]
    ) -> None:
        """Let the centre of a box stand for the first click of a label that has none.

        Without one of our labels under `label` this is done only where nothing was clicked at all: the box of a user
        who clicks another label is a limit, not a question.
        """
        if any(foreground.values()) and request.get("label") not in self.names:
            return
        name = self.current_label(request)
        if name == BACKGROUND or foreground[name]:
            return
        centre = tuple((edge.start + edge.stop - 1) // 2 for edge in roi)
        point: Index = (centre[0], centre[1], centre[2])
        if point in background or any(point in points for points in foreground.values()):
            self.notes.append(f"the centre {point} of the box is clicked as something else; no {name!r} was sought")
            return
        foreground[name].append(point)
        self.notes.append(f"no click of {name!r}: the centre {point} of the box was taken for one")


def _voxel(click: object, key: str) -> Index | None:
    """A click as the nearest voxel; None if it is not three finite numbers. Raises PromptError for other things."""
    if not isinstance(click, list | tuple):
        raise PromptError(f"a click of {_show(key)} is {_show(click)}; send [i, j, k]")
    numbers = [_number(value) for value in click]
    for value, number in zip(click, numbers, strict=True):
        if number is None:
            raise PromptError(f"a click of {_show(key)} is {_show(click)}, where {_show(value)} is no voxel index")
    if len(numbers) != 3 or not all(number is not None and math.isfinite(number) for number in numbers):
        return None
    i, j, k = (round(number) for number in numbers if number is not None)
    return i, j, k


def _number(value: object) -> float | None:
    """A number, or a string of one, as a float; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf
    except ValueError:
        return None


def _is_number_of(names: Sequence[str], number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 1 <= number <= len(names)


def _looks_like_clicks(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0 and all(isinstance(item, list | tuple) for item in value)
