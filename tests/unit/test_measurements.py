"""Sizes of labels: against counting, and against the longest distance by brute force."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from scipy.spatial.transform import Rotation

from lib.infers.measurements import measure

WHOLE = (slice(None),) * 3


def corners_mm(voxels: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """All corners of voxels (N, 3) within their slice, in RAS mm."""
    across = int(np.argmax(np.abs(affine[2, :3]) / np.linalg.norm(affine[:3, :3], axis=0)))
    halves = [np.insert(half, across, 0.0) for half in product((-0.5, 0.5), repeat=2)]
    return np.concatenate([(voxels + half) @ affine[:3, :3].T for half in halves])


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)], ids=["axial", "sagittal", "coronal"])
@pytest.mark.parametrize("angle", [0.0, 12.0])
def test_sizes_are_those_of_brute_force(axes: tuple[int, int, int], angle: float) -> None:
    rng = np.random.default_rng(3)
    label_map = (rng.random((7, 9, 5)) > 0.8).astype(np.uint8) * rng.integers(1, 3, (7, 9, 5), np.uint8)
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("x", angle, degrees=True).as_matrix()[:, axes] * (0.7, 1.9, 3.1)
    across = axes.index(2)
    measured = measure(label_map, WHOLE, affine, {"a": 1, "b": 2})
    for name, value in (("a", 1), ("b", 2)):
        voxels = np.argwhere(label_map == value)
        longest = max(
            pdist(corners_mm(voxels[voxels[:, across] == at], affine)).max() for at in np.unique(voxels[:, across])
        )
        assert measured[name]["voxels"] == len(voxels)
        assert measured[name]["volume_ml"] == pytest.approx(len(voxels) * 0.7 * 1.9 * 3.1 / 1000, abs=1e-4)
        assert measured[name]["axial_diameter_mm"] == pytest.approx(longest, abs=0.051)


def test_one_voxel_is_as_long_as_its_diagonal_and_a_row_as_its_own() -> None:
    label_map = np.zeros((4, 4, 4), np.uint8)
    label_map[1, 1, 1] = 1
    label_map[0, :, 3] = 2
    box = (slice(0, 2), slice(0, 4), slice(1, 4))
    measured = measure(label_map, box, np.diag([3.0, 4.0, 9.0, 1.0]), {"a": 1, "b": 2})
    assert [entry["axial_diameter_mm"] for entry in measured.values()] == [5.0, 16.3]
    assert [entry["voxels"] for entry in measured.values()] == [1, 4]
    assert measure(label_map, (slice(0, 0),) * 3, np.eye(4), {}) == {}


def test_a_ball_is_as_wide_as_it_is() -> None:
    axes = np.ogrid[-20:21, -20:21, -10:11]
    ball = (axes[0] ** 2 + axes[1] ** 2 + (2.0 * axes[2]) ** 2 <= 15**2).astype(np.uint8)
    (measured,) = measure(ball, WHOLE, np.diag([1.0, 1.0, 2.0, 1.0]), {"a": 1}).values()
    assert measured["volume_ml"] == pytest.approx(4 / 3 * np.pi * 1.5**3, rel=0.02)
    assert measured["axial_diameter_mm"] == pytest.approx(30, abs=1.5)
