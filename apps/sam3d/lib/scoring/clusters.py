"""Kinds of images: clusters of what the encoder saw, the same for the same images whatever their order of arrival.

k-means (Lloyd 1982) from settled first centres: the image nearest to all others, then, again and again, the one that
brings all others nearest to the centres so far. The farthest one, as in a k-centre cover, is mostly a stray: from such
centres most images end in one cluster.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

ROUNDS = 10
# Typicality looks at so many neighbours, among at most so many of a cluster's images; so many are tried as centres.
NEIGHBOURS, LANDMARKS = 20, 256
# Squared distance, in deviations, below which rounding alone keeps points apart.
COINCIDENT = 1e-4


@dataclass(frozen=True, eq=False)
class Clusters:
    """Centres (K, F) in standardised features; `mean` and `deviation` (F,) standardise."""

    centres: Floats
    mean: Floats
    deviation: Floats

    @classmethod
    def of(cls, features: Floats, count: int) -> Clusters:
        """At most `count` clusters of features (N, F), of which there is at least one row; rows in a settled order."""
        mean, deviation = features.mean(axis=0), features.std(axis=0)
        deviation = np.where(deviation > 1e-6, deviation, 1.0).astype(np.float32)
        points = np.asarray((features - mean) / deviation, np.float32)
        centres = points[first_centres(points, count)]
        for _ in range(ROUNDS):
            nearest = np.argmin(_squared(points, centres), axis=1)
            sums = np.stack([np.bincount(nearest, column, len(centres)) for column in points.T], axis=1)
            sizes = np.bincount(nearest, minlength=len(centres))
            moved = np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None], centres).astype(np.float32)
            if np.array_equal(moved, centres):
                break
            centres = moved
        return cls(centres, mean, deviation)

    def standardised(self, features: Floats) -> Floats:
        """Features (N, F) in the space of the centres."""
        return np.asarray((features - self.mean) / self.deviation, np.float32)

    def nearest(self, points: Floats) -> Rows:
        """The cluster of each of the standardised points (N, F), (N,)."""
        return np.asarray(np.argmin(_squared(points, self.centres), axis=1), np.int64)


def first_centres(points: Floats, count: int) -> list[int]:
    """Rows of at most `count` points (N, F), each the one that lowers the sum of squared distances to the nearest of
    them most; fewer where the rest coincide with these. Of many points, evenly spread ones are tried."""
    tried = _spread(len(points), LANDMARKS)
    distances = np.maximum(_squared(points[tried], points), 0)
    nearest = np.full(len(points), np.inf, np.float32)
    rows: list[int] = []
    while len(rows) < min(count, len(points)) and nearest.max() > COINCIDENT:
        best = int(np.minimum(distances, nearest).sum(axis=1).argmin())
        rows.append(int(tried[best]))
        nearest = np.minimum(nearest, distances[best])
    return rows


def typicality(points: Floats, members: Floats) -> NDArray[np.float64]:
    """The inverse of the mean distance of points (N, F) to their nearest neighbours among a cluster's members (M, F),
    (N,): Hacohen, Dekel & Weinshall 2022, TypiClust."""
    distances = np.sqrt(np.maximum(_squared(points, members[_spread(len(members), LANDMARKS)]), 0))
    count = min(NEIGHBOURS, distances.shape[1])
    nearest = np.partition(distances, count - 1, axis=1)[:, :count]
    return np.asarray(1 / (nearest.mean(axis=1) + 1e-6), np.float64)


def _squared(points: Floats, centres: Floats) -> Floats:
    """Squared distances (N, K)."""
    cross = points @ centres.T
    return np.asarray(
        np.square(points).sum(axis=1)[:, None] - 2 * cross + np.square(centres).sum(axis=1)[None], np.float32
    )


def _spread(count: int, limit: int) -> Rows:
    """At most `limit` of `count` rows, evenly spread."""
    return np.asarray(np.linspace(0, count - 1, min(limit, count)).round(), np.int64)
