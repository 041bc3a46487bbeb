"""Volumes with one plain object each: what anybody can see, at any scale.

Balls, ellipsoids, boxes and tubes, from a few voxels to most of the volume, lighter or darker than what lies around
them, among noise, texture and other objects, in voxels from micrometres to millimetres, cubes and thick slices alike.
Scenes with anatomy are made elsewhere (lib.synthesis.phantoms).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lib.synthesis.grid import Floats, Grid, apply_axes, gaussian_matrix, smooth_field
from lib.synthesis.shapes import Coordinates, Vector, capsule, curve, ellipsoid, random_radii, random_rotation

KIND_SHARES = {"ball": 0.3, "ellipsoid": 0.35, "box": 0.2, "tube": 0.15}
# Sides of a volume in voxels, and how many there are at most.
SIDES, MOST_VOXELS = (24, 176), 2_500_000
# Millimetres from voxel to voxel, and how much thicker slices may be.
SPACING_MM, THICKEST = (0.01, 4.0), 9.0
SMALLEST_VOXELS = 20
BODY_SHARE, HOUNSFIELD_SHARE = 0.5, 0.35
AIR_HU = -1000.0


@dataclass(frozen=True)
class PlainVolume:
    """array (I, J, K) float32, affine (4, 4) to RAS mm, and the object's mask (I, J, K)."""

    array: NDArray[np.float32]
    affine: NDArray[np.float64]
    mask: NDArray[np.bool_]
    is_hounsfield: bool


def plain_volume(rng: np.random.Generator) -> PlainVolume:
    """A volume with an object of at least 20 voxels; the same generator gives the same one."""
    while True:
        grid = _grid(rng)
        distance = _object_distance(rng, grid)
        mask = distance < 0
        if SMALLEST_VOXELS <= mask.sum() <= 0.6 * mask.size:
            break
    picture = _surroundings(rng, grid)
    is_hounsfield = rng.random() < HOUNSFIELD_SHARE
    contrast = float(np.exp(rng.uniform(np.log(0.25), np.log(3.0)))) * float(rng.choice([-1, 1]))
    softness = float(rng.uniform(0.3, 1.2)) * min(grid.spacing_mm)
    beside = picture[(distance > 0) & (distance < 3 * max(grid.spacing_mm))]
    host = np.median(beside) if beside.size else picture[mask].mean()
    value = np.full(grid.shape, host + contrast, np.float32)
    if rng.random() < 0.4:
        value += np.float32(0.15 * abs(contrast)) * smooth_field(rng, grid, _texture_mm(rng, grid))
    share = np.clip(0.5 - distance / softness, 0, 1)
    picture += share * (value - picture)
    picture = _acquired(rng, grid, picture, noise=abs(contrast) * float(np.exp(rng.uniform(np.log(0.02), np.log(0.5)))))
    array = picture * np.float32(70.0) + np.float32(40.0) if is_hounsfield else picture * _unit(rng) + _unit(rng)
    if is_hounsfield:
        array = np.maximum(array, AIR_HU)
    return PlainVolume(np.asfortranarray(array, np.float32), _affine(rng, grid), np.asfortranarray(mask), is_hounsfield)


def _unit(rng: np.random.Generator) -> np.float32:
    return np.float32(np.exp(rng.uniform(np.log(5.0), np.log(2000.0))))


def _grid(rng: np.random.Generator) -> Grid:
    while True:
        sides = np.exp(rng.uniform(np.log(SIDES[0]), np.log(SIDES[1]), 3))
        in_plane = float(np.exp(rng.uniform(np.log(SPACING_MM[0]), np.log(SPACING_MM[1]))))
        thickness = float(np.exp(rng.uniform(0, np.log(THICKEST)))) if rng.random() < 0.6 else 1.0
        spacing = [in_plane, in_plane, in_plane * thickness]
        sides[:2] = sides[:2].max() * rng.uniform(0.7, 1.0, 2)
        shape = tuple(int(max(8, n)) for n in (sides[0], sides[1], sides[2] / np.sqrt(thickness)))
        if np.prod(shape) <= MOST_VOXELS:
            break
    order = rng.permutation(3) if rng.random() < 0.3 else np.arange(3)
    return Grid.centred(tuple(shape[n] for n in order), tuple(spacing[n] for n in order))


def _affine(rng: np.random.Generator, grid: Grid) -> NDArray[np.float64]:
    affine = np.eye(4)
    for axis, step in enumerate(grid.spacing_mm):
        affine[axis, axis] = step * float(rng.choice([-1, 1]))
    affine[:3, 3] = -affine[:3, :3] @ (np.array(grid.shape) / 2)
    return affine


def _coordinates(grid: Grid) -> Coordinates:
    x, y, z = np.meshgrid(*grid.axes, indexing="ij", sparse=True)
    return x, y, z


def _object_distance(rng: np.random.Generator, grid: Grid) -> Floats:
    """Signed distance in mm to an object somewhere in the volume, negative inside."""
    extent = grid.high_mm - grid.low_mm
    smallest = 1.7 * float(np.cbrt(np.prod(grid.spacing_mm)))
    largest = max(1.5 * smallest, 0.5 * float(extent.max()))
    radius = float(np.exp(rng.uniform(np.log(smallest), np.log(largest))))
    reach = np.maximum(0.5 * extent - 0.8 * radius, 0.1 * extent)
    centre = np.asarray((grid.low_mm + grid.high_mm) / 2 + rng.uniform(-1, 1, 3) * reach, np.float64)
    return _shape(rng, _coordinates(grid), centre, radius, str(rng.choice([*KIND_SHARES], p=[*KIND_SHARES.values()])))


def _shape(rng: np.random.Generator, at: Coordinates, centre: Vector, radius: float, kind: str) -> Floats:
    if kind == "box":
        return _box(at, centre, random_radii(rng, 0.8 * radius, 0.35), random_rotation(rng))
    if kind == "tube":
        points = curve(rng, centre, rng.standard_normal(3), 0.5 * radius, 0.12, int(rng.integers(2, 7)))
        points += centre - points.mean(axis=0)
        width = radius * float(rng.uniform(0.25, 0.5))
        parts = [capsule(at, start, end, width, width) for start, end in pairwise(points)]
        return np.asarray(np.minimum.reduce(parts), np.float32)
    spread = 0.0 if kind == "ball" else 0.35
    return ellipsoid(at, centre, random_radii(rng, radius, spread), random_rotation(rng))


def _box(at: Coordinates, centre: Vector, halves: Vector, rotation: Vector) -> Floats:
    x, y, z = (axis - np.float32(c) for axis, c in zip(at, centre, strict=True))
    sides = []
    for column, half in zip(rotation.T.astype(np.float32), halves, strict=True):
        sides.append(np.abs(x * column[0] + y * column[1] + z * column[2]) - np.float32(half))
    return np.asarray(np.maximum.reduce(sides), np.float32)


def _texture_mm(rng: np.random.Generator, grid: Grid) -> float:
    extent = float((grid.high_mm - grid.low_mm).max())
    return extent * float(np.exp(rng.uniform(np.log(0.04), np.log(0.5))))


def _surroundings(rng: np.random.Generator, grid: Grid) -> Floats:
    """Plain, textured, or a body in air, mostly with some other objects."""
    texture = float(rng.choice([0.0, rng.uniform(0, 0.1), rng.uniform(0.1, 0.5)]))
    picture = np.zeros(grid.shape, np.float32)
    if texture:
        picture += np.float32(texture) * smooth_field(rng, grid, _texture_mm(rng, grid))
    extent, at = grid.high_mm - grid.low_mm, _coordinates(grid)
    for _ in range(int(rng.integers(0, 9))):
        radius = float(extent.max()) * float(np.exp(rng.uniform(np.log(0.02), np.log(0.3))))
        centre = np.asarray(rng.uniform(grid.low_mm, grid.high_mm), np.float64)
        other = _shape(rng, at, centre, radius, str(rng.choice([*KIND_SHARES])))
        picture += np.where(other < 0, np.float32(rng.uniform(-2, 2)), np.float32(0))
    if rng.random() < BODY_SHARE:
        radii = 0.5 * extent.astype(np.float64) * rng.uniform(0.75, 1.3, 3)
        is_air = ellipsoid(at, np.asarray((grid.low_mm + grid.high_mm) / 2, np.float64), radii, np.eye(3)) > 0
        picture[is_air] = np.float32(rng.uniform(-16, -2))
    return picture


def _acquired(rng: np.random.Generator, grid: Grid, picture: Floats, noise: float) -> Floats:
    """Blurred by a part of a voxel, with noise of its own grain."""
    blur, grain = float(rng.uniform(0.2, 0.8)), float(rng.uniform(0.1, 0.9))
    first, second, third = (gaussian_matrix(n, blur) for n in grid.shape)
    grains = [gaussian_matrix(n, grain) for n in grid.shape]
    gain = float(np.prod([np.sqrt((matrix**2).sum(1).mean()) for matrix in grains]))
    field = apply_axes(rng.standard_normal(grid.shape, np.float32), (grains[0], grains[1], grains[2]))
    return apply_axes(picture, (first, second, third)) + np.float32(noise / gain) * field
