"""Kinds of images: clusters of what the encoder saw, the same for the same images whatever their order of arrival.

k-means (Lloyd 1982) from far-apart first centres: the image nearest to the mean of all, then, again and again, the one
farthest from the centres so far, which is the greedy k-centre cover of Sener & Savarese (2018).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

ROUNDS = 10
# Typicality looks at so many neighbours, among at most so many of a cluster's images, evenly spread.
NEIGHBOURS, LANDMARKS = 20, 256


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
        centres = points[far_apart(points, count)]
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


def far_apart(points: Floats, count: int) -> list[int]:
    """Rows of at most `count` points (N, F): the one nearest to the mean, then each time the one farthest from all
    before it; fewer where the rest coincide with these."""
    rows = [int(np.argmin(np.square(points - points.mean(axis=0)).sum(axis=1)))]
    distance = np.square(points - points[rows[0]]).sum(axis=1)
    while len(rows) < min(count, len(points)) and distance.max() > 0:
        rows.append(int(distance.argmax()))
        distance = np.minimum(distance, np.square(points - points[rows[-1]]).sum(axis=1))
    return rows


def typicality(points: Floats, members: Floats) -> NDArray[np.float64]:
    """The inverse of the mean distance of points (N, F) to their nearest neighbours among a cluster's members (M, F),
    (N,): Hacohen, Dekel & Weinshall 2022, TypiClust."""
    kept = np.linspace(0, len(members) - 1, min(LANDMARKS, len(members))).round().astype(int)
    distances = np.sqrt(np.maximum(_squared(points, members[kept]), 0))
    count = min(NEIGHBOURS, distances.shape[1])
    nearest = np.partition(distances, count - 1, axis=1)[:, :count]
    return np.asarray(1 / (nearest.mean(axis=1) + 1e-6), np.float64)


def _squared(points: Floats, centres: Floats) -> Floats:
    """Squared distances (N, K)."""
    cross = points @ centres.T
    return np.asarray(
        np.square(points).sum(axis=1)[:, None] - 2 * cross + np.square(centres).sum(axis=1)[None], np.float32
    )
