"""Which image to annotate next, and why, from scores that are known: nothing here opens an image or asks a network.

`diversity` is TypiClust (Hacohen, Dekel & Weinshall 2022): the most typical image of the largest kind of which nothing
is labelled. `uncertainty` is the image that is expected to take most clicks. `hybrid` begins as the first and moves
towards the second as labels come in: kinds get labels by the root of the clicks that they still cost, and of a kind
the image is taken that is typical and costs much (docs/decisions/0020).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.scoring.clusters import Clusters, typicality

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

METHODS = ("diversity", "uncertainty", "hybrid")
# Labels at which uncertainty weighs as much as diversity.
EVEN_AT = 8
# Kinds told apart: more than there are labels, so that one is without, and not more than the second number.
FEWEST_KINDS, MOST_KINDS = 4, 64
# A kind of fewer images is a stray one, and comes last where kinds without a label do (as published).
SMALLEST_KIND = 5


@dataclass(frozen=True)
class Known:
    """What is known of an image: pooled features (F,) and clicks to Dice 0.8."""

    features: tuple[float, ...]
    expected_clicks: float


@dataclass(frozen=True, eq=False)
class _Kinds:
    """Clusters, and where all images are: standardised points (N, F) and the cluster of each (N,), by rows; and the
    rows by the images' names, the order in which everything is added up."""

    clusters: Clusters
    by_name: Rows
    points: Floats
    kind_of: Rows


@dataclass(frozen=True)
class Choice:
    """An image, and a phrase that says why."""

    image: str
    reason: str


class Pool:
    """The scores of all images as arrays; for several threads. Kinds are told apart anew by `settle`, and where a
    choice needs more of them; images that came since are of the nearest kind."""

    def __init__(self, known: Mapping[str, Known]) -> None:
        self._lock = threading.Lock()
        self._rows: dict[str, int] = {}
        self._names: list[str] = []
        self._features = np.zeros((0, 0), np.float32)
        self._clicks = np.zeros(0, np.float32)
        self._clusters: dict[int, Clusters] = {}
        self._placed: dict[int, _Kinds] = {}
        self.put(known)

    def __len__(self) -> int:
        return len(self._rows)

    def put(self, known: Mapping[str, Known]) -> None:
        """Add scores, or replace those that are known by the same name. Features of another length than all before,
        as of another network, begin a new pool."""
        with self._lock:
            self._placed = {}
            for image, each in known.items():
                if len(each.features) != self._features.shape[1]:
                    self._rows, self._names, self._clusters = {}, [], {}
                    self._features = np.zeros((64, len(each.features)), np.float32)
                    self._clicks = np.zeros(64, np.float32)
                row = self._rows.setdefault(image, len(self._rows))
                self._names += [image] if row == len(self._names) else []
                if row == len(self._features):
                    self._features = np.concatenate([self._features, np.zeros_like(self._features)])
                    self._clicks = np.concatenate([self._clicks, np.zeros_like(self._clicks)])
                self._features[row], self._clicks[row] = each.features, each.expected_clicks

    def settle(self, n_labelled: int) -> None:
        """Tell kinds apart anew, as many as the next choices need; they go on meanwhile by the old ones."""
        with self._lock:
            features = self._by_name()
        if len(features):
            counts = {_kinds_for(n_labelled), _kinds_for(2 * n_labelled + 2)}
            clusters = {count: Clusters.of(features, count) for count in counts}
            with self._lock:
                if features.shape[1] == self._features.shape[1]:  # else another network's came in between
                    self._clusters, self._placed = clusters, {}

    def choose(self, free: Sequence[str], labelled: Set[str], taken: Set[str], method: str) -> Choice | None:
        """One of the images that are `free`, of which those without a score are left out; None if no other is left.
        `taken` are with other annotators, and count as labelled where kinds are covered."""
        with self._lock:
            rows = self._of(sorted(free))
            if not len(rows):
                return None
            if method == "uncertainty":
                row = int(rows[np.argmax(self._clicks[rows])])
                return Choice(self._names[row], f"{_clicks(self._clicks[row])}, the most of {_images(len(rows))}")
            weight = len(labelled) / (len(labelled) + EVEN_AT) if method == "hybrid" else 0.0
            covered = self._of(sorted((labelled | taken) - set(free)))
            return self._typical(rows, covered, len(labelled), weight, method)

    def _typical(self, rows: Rows, covered: Rows, n_labelled: int, weight: float, method: str) -> Choice:
        kinds = self._kinds(n_labelled)
        points, kind_of, count = kinds.points, kinds.kind_of, len(kinds.clusters.centres)
        present = np.unique(kind_of[rows])
        n_covered = np.bincount(kind_of[covered], minlength=count)
        if method == "diversity":
            sizes, totals = (np.bincount(kind_of[some], minlength=count) for some in (rows, slice(None)))
            kind = min(present, key=lambda each: (totals[each] < SMALLEST_KIND, n_covered[each], -sizes[each], each))
        else:
            cost = np.bincount(kind_of[rows], np.maximum(self._clicks[rows], 1e-3) ** weight, count)
            kind = max(present, key=lambda each: (cost[each] / (1 + n_covered[each]) ** 2, -each))
        members = rows[kind_of[rows] == kind]
        # The labelled of the kind count among the neighbours: what is typical of it does not change as it is labelled.
        everyone = points[kinds.by_name[kind_of[kinds.by_name] == kind]]
        merit = (1 - weight) * _rank(typicality(points[members], everyone)) + weight * _rank(self._clicks[members])
        row = int(members[merit.argmax()])
        known = f"{_clicks(self._clicks[row])}; " if method == "hybrid" else ""
        return Choice(self._names[row], known + _standing(len(members), int(n_covered[kind]), n_labelled))

    def _kinds(self, n_labelled: int) -> _Kinds:
        count = _kinds_for(n_labelled)
        if count not in self._clusters:
            self._clusters[count] = Clusters.of(self._by_name(), count)
        if count not in self._placed:
            clusters = self._clusters[count]
            by_name = self._of(sorted(self._rows))
            named = clusters.standardised(self._features[by_name])
            points, kind_of = np.empty_like(named), np.empty(len(by_name), np.int64)
            points[by_name], kind_of[by_name] = named, clusters.nearest(named)
            self._placed[count] = _Kinds(clusters, by_name, points, kind_of)
        return self._placed[count]

    def _by_name(self) -> Floats:
        """All features, by name, so that the order in which images were scored changes nothing."""
        return self._features[self._of(sorted(self._rows))]

    def _of(self, images: Sequence[str]) -> Rows:
        return np.array([self._rows[image] for image in images if image in self._rows], np.int64)


def _kinds_for(n_labelled: int) -> int:
    """The least of 4, 8, ... 64 that is more than there are labels."""
    count = FEWEST_KINDS
    while count <= n_labelled and count < MOST_KINDS:
        count *= 2
    return count


def _rank(values: NDArray[Any]) -> NDArray[np.float64]:
    """0 for the least to 1 for the greatest, equal ones alike, (N,)."""
    _, place = np.unique(values, return_inverse=True)
    return np.asarray(place / max(1, int(place.max())), np.float64)


def _clicks(expected: np.float32) -> str:
    count = max(1, round(float(expected)))
    return f"expected {count} click{'s' if count > 1 else ''}"


def _images(count: int) -> str:
    return f"{count} image{'s' if count > 1 else ''}"


def _standing(size: int, n_covered: int, n_labelled: int) -> str:
    """How a kind stands: how many images it has, and how many of them are done."""
    if not n_labelled and not n_covered:
        return f"typical of the {_images(size)} of the largest kind"
    if not n_covered:
        return f"stands for {_images(size)} unlike the {n_labelled} labelled"
    return f"typical of {_images(size)} of a kind with {n_covered} labelled or in work"
