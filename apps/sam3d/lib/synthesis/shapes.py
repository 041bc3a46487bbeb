"""Implicit shapes: each function returns a signed distance in mm (negative inside) at given positions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lib.synthesis.grid import Floats

# Positions as three arrays that broadcast to the box's shape: full arrays where warped, else thin ones.
Coordinates = tuple[Floats, Floats, Floats]
Vector = NDArray[np.float64]


def random_rotation(rng: np.random.Generator) -> Vector:
    """Three orthogonal unit columns; may be a reflection, which no ellipsoid can tell."""
    return np.asarray(np.linalg.qr(rng.standard_normal((3, 3)))[0], np.float64)


def random_radii(rng: np.random.Generator, radius_mm: float, spread: float) -> Vector:
    """Three half axes whose geometric mean is `radius_mm`."""
    stretch = rng.normal(0.0, spread, 3)
    return np.asarray(radius_mm * np.exp(np.clip(stretch - stretch.mean(), -0.7, 0.7)), np.float64)


def ellipsoid(at: Coordinates, centre: Vector, radii: Vector, rotation: Vector) -> Floats:
    """Distance to an ellipsoid, exact on its surface and near enough elsewhere."""
    x, y, z = (axis - np.float32(c) for axis, c in zip(at, centre, strict=True))
    scaled, steep = np.float32(0), np.float32(0)
    for column, radius in zip(rotation.T.astype(np.float32), radii.astype(np.float32), strict=True):
        along = x * column[0] + y * column[1] + z * column[2]
        along /= radius
        along *= along
        scaled = scaled + along
        along /= radius * radius
        steep = steep + along
    # The small terms only matter at the centre itself, where both sums vanish and the ratio is the smallest radius.
    small = np.float32(1e-6)
    ratio = np.sqrt((scaled + small) / (steep + small / np.float32(radii.min() ** 2)))
    return np.asarray((np.sqrt(scaled) - 1) * ratio, np.float32)


def capsule(at: Coordinates, start: Vector, end: Vector, radius_start: float, radius_end: float) -> Floats:
    """Distance to a rounded segment whose radius changes evenly from one end to the other."""
    axis = (end - start).astype(np.float32)
    x, y, z = (a - np.float32(s) for a, s in zip(at, start, strict=True))
    along = (x * axis[0] + y * axis[1] + z * axis[2]) / np.float32(max(float(axis @ axis), 1e-6))
    along = np.clip(along, 0.0, 1.0)
    squared = (x - along * axis[0]) ** 2 + (y - along * axis[1]) ** 2 + (z - along * axis[2]) ** 2
    return np.asarray(np.sqrt(squared) - (radius_start + along * (radius_end - radius_start)), np.float32)


def smooth_union(first: Floats, second: Floats, blend_mm: float) -> Floats:
    """Union of two shapes with a fillet about `blend_mm` wide."""
    share = np.clip(0.5 + 0.5 * (second - first) / blend_mm, 0.0, 1.0)
    return np.asarray(second + (first - second) * share - blend_mm * share * (1.0 - share), np.float32)


def spicules(at: Coordinates, centre: Vector, length_mm: float, rng: np.random.Generator) -> Floats:
    """What to take off a distance so that narrow rays grow out of the shape."""
    x, y, z = np.broadcast_arrays(*(a - np.float32(c) for a, c in zip(at, centre, strict=True)))
    rays = rng.standard_normal((int(rng.integers(8, 18)), 3)).astype(np.float32)
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    reach = np.sqrt(x * x + y * y + z * z) + np.float32(1e-3)
    out = np.zeros(x.shape, np.float32)
    for ray in rays:
        cosine = (x * ray[0] + y * ray[1] + z * ray[2]) / reach
        np.maximum(out, np.clip((cosine - 0.88) / 0.12, 0.0, 1.0) ** 2 * rng.uniform(0.4, 1.0), out=out)
    return np.asarray(out * np.float32(length_mm), np.float32)


def curve(
    rng: np.random.Generator, start: Vector, direction: Vector, step_mm: float, bend: float, steps: int
) -> Vector:
    """Points (steps + 1, 3) of a wandering line; `bend` is how far its direction turns per step."""
    points, heading, turn = [start], direction / np.linalg.norm(direction), rng.normal(0.0, bend, 3)
    for _ in range(steps):
        turn = 0.7 * turn + rng.normal(0.0, bend, 3)
        heading = heading + turn
        heading = heading / np.linalg.norm(heading)
        points.append(points[-1] + step_mm * heading)
    return np.asarray(points, np.float64)


def largest_part(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest face-connected component."""
    parts, count = ndimage.label(mask)
    if count < 2:
        return mask
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return np.asarray(parts == int(sizes.argmax()), np.bool_)
