"""Scenes: a canvas to paint structures on, several kinds of background, and lesions.

Positions are mm on the canvas's own grid. Every structure is painted in its bounding box only.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lib.synthesis.appearance import Look, Palette
from lib.synthesis.grid import Box, Floats, Grid, is_empty, smooth_field
from lib.synthesis.shapes import (
    Coordinates,
    Vector,
    capsule,
    curve,
    ellipsoid,
    largest_part,
    random_radii,
    random_rotation,
    smooth_union,
    spicules,
)


class Canvas:
    """A picture under construction: values, which structure each voxel belongs to, and warped positions."""

    def __init__(self, grid: Grid, palette: Palette, rng: np.random.Generator, warp_mm: float) -> None:
        self.grid, self.palette, self.rng = grid, palette, rng
        self.picture = np.full(grid.shape, palette.values["air"], np.float32)
        self.labels = np.zeros(grid.shape, np.uint8)
        self.names: list[str] = []
        period = float(rng.uniform(18, 45))
        self.warp_mm = 3.0 * warp_mm
        self.coordinates: Coordinates = self._warped(warp_mm, period)

    def _warped(self, warp_mm: float, period_mm: float) -> Coordinates:
        x, y, z = np.meshgrid(*self.grid.axes, indexing="ij", sparse=True)
        first, second, third = (
            np.asarray(axis + np.float32(warp_mm) * smooth_field(self.rng, self.grid, period_mm), np.float32)
            for axis in (x, y, z)
        )
        return first, second, third

    def add(self, name: str) -> int:
        """A new structure's number; 0 is nothing."""
        self.names.append(name)
        return len(self.names)

    def box(self, centre: Vector, reach_mm: float) -> Box:
        reach = reach_mm + self.warp_mm
        return self.grid.box(centre - reach, centre + reach)

    def at(self, box: Box) -> Coordinates:
        """Warped positions inside a box."""
        x, y, z = self.coordinates
        return x[box], y[box], z[box]

    def straight(self, box: Box) -> Coordinates:
        """Unwarped positions inside a box, as thin arrays."""
        x, y, z = np.meshgrid(*self.grid.crop(box).axes, indexing="ij", sparse=True)
        return x, y, z

    def fill(
        self, box: Box, distance: Floats, value: float | Floats, softness_mm: float = 1.0, number: int | None = None
    ) -> None:
        """Paint where `distance` (over the box) is negative, with an edge `softness_mm` wide."""
        share = np.clip(np.float32(0.5) - distance * np.float32(1.0 / softness_mm), 0.0, 1.0)
        region = self.picture[box]
        region += share * (value - region)
        if number is not None:
            self.labels[box][distance < 0] = number

    @property
    def whole(self) -> Box:
        first, second, third = self.grid.shape
        return slice(0, first), slice(0, second), slice(0, third)

    def random_point(self, margin: float = 0.0) -> Vector:
        low, high = self.grid.low_mm.astype(np.float64), self.grid.high_mm.astype(np.float64)
        spare = margin * (high - low)
        return np.asarray(self.rng.uniform(low + spare, high - spare), np.float64)

    def field(self, period_mm: float) -> Floats:
        return smooth_field(self.rng, self.grid, period_mm)


def textured(canvas: Canvas, box: Box, value: float, amount: float, period_mm: float) -> float | Floats:
    """A value with a grain of its own."""
    if amount < 0.02:
        return value
    field = smooth_field(canvas.rng, canvas.grid.crop(box), period_mm)
    return np.asarray(np.float32(value) + np.float32(amount) * field, np.float32)


# ------------------------------------------------------------------ structures


def paint_blob(
    canvas: Canvas, name: str, centre: Vector, radii: Vector, value: float, rotation: Vector | None = None
) -> int:
    """An organ: a lobulated, lightly textured ellipsoid."""
    rng = canvas.rng
    number = canvas.add(name)
    box = canvas.box(centre, 1.5 * float(radii.max()))
    if is_empty(box):
        return number
    distance = ellipsoid(canvas.at(box), centre, radii, random_rotation(rng) if rotation is None else rotation)
    mean = float(np.prod(radii) ** (1 / 3))
    lobes = smooth_field(rng, canvas.grid.crop(box), mean * rng.uniform(0.6, 1.2))
    distance += np.float32(mean * rng.uniform(0.03, 0.15)) * lobes
    amount = float(rng.uniform(0.0, 0.15))
    canvas.fill(box, distance, textured(canvas, box, value, amount, rng.uniform(2, 12)), 1.0, number)
    if name == "organ" and mean > 8 and rng.random() < 0.3:
        # What lies within belongs to it: a kidney's pelvis, a bowel's contents.
        inner = value + float(rng.normal(0, 0.8))
        canvas.fill(
            box, distance * rng.uniform(1, 2) + np.float32(mean * rng.uniform(0.3, 0.8)) + lobes * 2, inner, 2.0
        )
    return number


def paint_curve(
    canvas: Canvas, points: Vector, radius_mm: float, value: float, number: int | None, taper: float = 0.0
) -> None:
    """A vessel, nerve or shaft along a curve (N, 3), its radius falling by the share `taper` to its end."""
    radii = radius_mm * (1.0 - taper * np.linspace(0.0, 1.0, len(points)))
    for start, end, first, last in zip(points[:-1], points[1:], radii[:-1], radii[1:], strict=True):
        reach = max(first, last) + 1.0
        box = canvas.grid.box(np.minimum(start, end) - reach, np.maximum(start, end) + reach)
        if not is_empty(box):
            canvas.fill(box, capsule(canvas.straight(box), start, end, first, last), value, 1.0, number)


def paint_vessel(canvas: Canvas, radius_mm: float, value: float) -> None:
    """A vessel with a branch or two, as one structure."""
    rng = canvas.rng
    number = canvas.add("vessel")
    step = max(3.0, 1.2 * radius_mm)
    direction = rng.standard_normal(3)
    direction /= np.linalg.norm(direction)
    reach = float((canvas.grid.high_mm - canvas.grid.low_mm).max())
    start = canvas.random_point(0.15) - direction * 0.6 * reach
    trunk = curve(rng, start, direction, step, 0.06, int(1.2 * reach / step))
    paint_curve(canvas, trunk, radius_mm, value, number, taper=float(rng.uniform(0, 0.3)))
    for _ in range(int(rng.integers(0, 3))):
        root = trunk[int(rng.integers(0, len(trunk)))]
        branch = curve(rng, root, rng.standard_normal(3) + direction, step, 0.1, int(0.5 * reach / step))
        paint_curve(canvas, branch, radius_mm * rng.uniform(0.4, 0.8), value, number, taper=0.5)


def paint_network(canvas: Canvas, value: float, radius_mm: float, period_mm: float) -> None:
    """Fine vessels all over, where two fields cross zero at once; part of whatever they run through."""
    first, second = canvas.field(period_mm), canvas.field(period_mm)
    # A field's slope is about 1.5 per period, which turns its value into a distance.
    distance = np.sqrt(first * first + second * second) * np.float32(period_mm / 1.5) - np.float32(radius_mm)
    canvas.fill(canvas.whole, distance, value, 1.2)


def paint_sheets(canvas: Canvas, value: float, half_mm: float, period_mm: float) -> None:
    """Thin folded sheets, such as fascia and fat between organs."""
    distance = np.abs(canvas.field(period_mm)) * np.float32(period_mm / 1.5) - np.float32(half_mm)
    canvas.fill(canvas.whole, distance, value, 1.0, 0)


def paint_region(canvas: Canvas, name: str, value: float, period_mm: float, threshold: float) -> int:
    """A large structure without a centre: all where a smooth field is above a threshold."""
    rng = canvas.rng
    number = canvas.add(name)
    distance = (np.float32(threshold) - canvas.field(period_mm)) * np.float32(period_mm / 1.5)
    filling = textured(canvas, canvas.whole, value, float(rng.uniform(0.0, 0.12)), float(rng.uniform(2, 10)))
    canvas.fill(canvas.whole, distance, filling, 1.0, number)
    return number


def paint_bone(canvas: Canvas, points: Vector, radius_mm: float) -> None:
    """A bone with a bright (in CT) or dark (in MR) shell around its marrow."""
    number = canvas.add("bone")
    shell = float(canvas.rng.uniform(0.12, 0.3)) * radius_mm
    paint_curve(canvas, points, radius_mm, canvas.palette.values["cortical"], number)
    paint_curve(canvas, points, max(radius_mm - shell, 0.5), canvas.palette.values["marrow"], number)


def paint_skin(canvas: Canvas, direction: Vector, depth_mm: float) -> None:
    """Everything beyond a slightly curved surface becomes air, with a layer of fat and skin before it."""
    rng, x, y, z = canvas.rng, *canvas.coordinates
    axis = (direction / np.linalg.norm(direction)).astype(np.float32)
    beyond = np.float32(depth_mm) - (x * axis[0] + y * axis[1] + z * axis[2])
    beyond += np.float32(rng.uniform(0.5, 4.0)) * canvas.field(50.0)
    fat = float(rng.uniform(2.0, 15.0))
    canvas.fill(canvas.whole, beyond - np.float32(fat), canvas.palette.values["fat"], 1.0, 0)
    canvas.fill(canvas.whole, beyond - np.float32(1.5), canvas.palette.values["muscle"], 1.0, 0)
    canvas.fill(canvas.whole, beyond, canvas.palette.values["air"], 1.0, 0)


# ---------------------------------------------------------------------- scenes


def viscera(canvas: Canvas) -> None:
    """Organs of all sizes packed in fat, with vessels, now and then gas and bone."""
    rng, palette = canvas.rng, canvas.palette
    canvas.picture[...] = palette.of(str(rng.choice(["fat", "organ", "muscle"], p=[0.6, 0.25, 0.15])), rng)
    for _ in range(int(rng.integers(1, 4))):
        paint_region(
            canvas, "organ", palette.of("organ", rng), float(rng.uniform(25, 70)), float(rng.uniform(-0.3, 0.9))
        )
    for _ in range(int(rng.integers(1, 5))):
        radii = random_radii(rng, float(np.exp(rng.uniform(np.log(6), np.log(35)))), 0.3)
        paint_blob(canvas, "organ", canvas.random_point(-0.1), radii, palette.of("organ", rng))
    if rng.random() < 0.5:
        paint_sheets(canvas, palette.values["fat"], float(rng.uniform(0.4, 2.0)), float(rng.uniform(25, 60)))
    _vessels(canvas, 3)
    if rng.random() < 0.2:
        _gas(canvas)
    if rng.random() < 0.25:
        _shaft(canvas, float(rng.uniform(4, 14)))


def parenchyma(canvas: Canvas) -> None:
    """The inside of one large organ, with its fine vessels and perhaps its border."""
    rng, palette = canvas.rng, canvas.palette
    canvas.picture[...] = palette.values["fat"] if rng.random() < 0.5 else palette.of("organ", rng)
    value = palette.of("organ", rng)
    paint_region(canvas, "organ", value, float(rng.uniform(60, 120)), float(rng.uniform(-1.6, -0.3)))
    if rng.random() < 0.8:
        offset = float(rng.uniform(0.15, 0.9)) * (1 if rng.random() < 0.7 else -1)
        paint_network(canvas, value + offset, float(rng.uniform(0.6, 2.2)), float(rng.uniform(14, 35)))
    _vessels(canvas, 2)
    if rng.random() < 0.25:
        paint_blob(
            canvas,
            "organ",
            canvas.random_point(),
            random_radii(rng, float(rng.uniform(6, 20)), 0.3),
            palette.of("organ", rng),
        )


def lung(canvas: Canvas) -> None:
    """Air with a tree of vessels, and often chest wall, ribs or mediastinum."""
    rng, palette = canvas.rng, canvas.palette
    value = palette.values["lung"]
    texture = textured(canvas, canvas.whole, value, 0.4 if palette.family == "ct" else 0.08, float(rng.uniform(3, 15)))
    canvas.picture[...] = texture
    soft = palette.visible(palette.values["muscle"])
    for _ in range(int(rng.integers(1, 3))):
        paint_network(canvas, soft, float(rng.uniform(0.5, 1.6)), float(rng.uniform(14, 40)))
    _vessels(canvas, 2)
    if rng.random() < 0.7:
        paint_region(canvas, "wall", soft, float(rng.uniform(50, 100)), float(rng.uniform(0.2, 1.2)))
        wall = len(canvas.names)
        if rng.random() < 0.5:
            inside = canvas.labels == wall
            fat = np.where(canvas.field(20.0) > 0.3, np.float32(palette.values["fat"]), canvas.picture)
            canvas.picture[inside] = fat[inside]
        if rng.random() < 0.5:
            _shaft(canvas, float(rng.uniform(3, 7)))


def limb(canvas: Canvas) -> None:
    """Muscles parted by fat, one or two bones, vessels, skin."""
    rng, palette = canvas.rng, canvas.palette
    canvas.picture[...] = palette.values["muscle"]
    muscle = palette.values["muscle"]
    for _ in range(int(rng.integers(1, 4))):
        paint_region(
            canvas,
            "muscle",
            muscle + float(rng.normal(0, 0.12)),
            float(rng.uniform(25, 60)),
            float(rng.uniform(-0.2, 0.8)),
        )
    for _ in range(int(rng.integers(1, 4))):
        paint_sheets(canvas, palette.values["fat"], float(rng.uniform(0.3, 1.8)), float(rng.uniform(25, 60)))
    if rng.random() < 0.4:
        paint_region(canvas, "fat", palette.values["fat"], float(rng.uniform(25, 60)), float(rng.uniform(0.6, 1.3)))
    _vessels(canvas, 4)
    for _ in range(int(rng.integers(0, 3))):
        _shaft(canvas, float(rng.uniform(6, 18)))


def brain(canvas: Canvas) -> None:
    """Folded grey and white matter, fluid spaces, now and then skull."""
    rng, palette = canvas.rng, canvas.palette
    grey, white, fluid = (palette.values[name] for name in ("brain_grey", "brain_white", "fluid"))
    canvas.picture[...] = white
    folds = np.abs(canvas.field(float(rng.uniform(12, 22)))) + np.float32(0.3) * canvas.field(40.0)
    canvas.fill(canvas.whole, (folds - np.float32(rng.uniform(0.2, 0.5))) * 8, grey, 1.5)
    canvas.fill(canvas.whole, (folds - np.float32(rng.uniform(-0.1, 0.1))) * 8, fluid, 1.5)
    for _ in range(int(rng.integers(0, 3))):
        radii = random_radii(rng, float(rng.uniform(5, 16)), 0.5)
        paint_blob(canvas, "fluid", canvas.random_point(), radii, fluid)
    for _ in range(int(rng.integers(0, 3))):
        radii = random_radii(rng, float(rng.uniform(6, 14)), 0.3)
        paint_blob(canvas, "nucleus", canvas.random_point(), radii, grey)
    if rng.random() < 0.3:
        x, y, z = canvas.coordinates
        axis, depth = rng.standard_normal(3), float(rng.uniform(12, 32))
        axis /= np.linalg.norm(axis)
        beyond = np.float32(depth) - (x * np.float32(axis[0]) + y * np.float32(axis[1]) + z * np.float32(axis[2]))
        thickness = np.float32(rng.uniform(4, 8))
        canvas.fill(canvas.whole, beyond - 2, fluid, 1.0, 0)
        canvas.fill(canvas.whole, beyond, palette.values["cortical"], 1.0, canvas.add("bone"))
        canvas.fill(canvas.whole, beyond + thickness / 3, palette.values["marrow"], 1.0)
        canvas.fill(canvas.whole, beyond + thickness / 2, palette.values["cortical"], 1.0)
        canvas.fill(canvas.whole, beyond + thickness, palette.values["fat"], 1.0, 0)
        canvas.fill(canvas.whole, beyond + thickness + 6, palette.values["air"], 1.0, 0)


def _vessels(canvas: Canvas, most: int) -> None:
    rng = canvas.rng
    for _ in range(int(rng.integers(0, most + 1))):
        radius = float(np.exp(rng.uniform(np.log(1.2), np.log(9))))
        paint_vessel(canvas, radius, canvas.palette.values["vessel"] + float(rng.normal(0, 0.1)))


def _gas(canvas: Canvas) -> None:
    rng = canvas.rng
    for _ in range(int(rng.integers(1, 4))):
        centre, radii = canvas.random_point(), random_radii(rng, float(rng.uniform(3, 12)), 0.4)
        rotation = random_rotation(rng)
        paint_blob(canvas, "bowel", centre, radii + 2.0, canvas.palette.values["muscle"], rotation)
        paint_blob(canvas, "gas", centre, radii, canvas.palette.values["air"], rotation)


def _shaft(canvas: Canvas, radius_mm: float) -> None:
    rng = canvas.rng
    direction = rng.standard_normal(3)
    direction /= np.linalg.norm(direction)
    reach = float((canvas.grid.high_mm - canvas.grid.low_mm).max())
    start = canvas.random_point() - 0.7 * reach * direction
    paint_bone(canvas, curve(rng, start, direction, 8.0, 0.03, int(1.4 * reach / 8.0)), radius_mm)


SCENES: dict[str, Callable[[Canvas], None]] = {
    "viscera": viscera,
    "parenchyma": parenchyma,
    "lung": lung,
    "limb": limb,
    "brain": brain,
}


# --------------------------------------------------------------------- lesions

LESION_STYLES = ("smooth", "lobulated", "fused", "spiculated")


def lesion_distance(canvas: Canvas, centre: Vector, radius_mm: float, style: str) -> tuple[Box, Floats]:
    """A lesion's bounding box and signed distance in it; in one piece unless the canvas's border cuts it."""
    rng = canvas.rng
    radii = random_radii(rng, radius_mm, 0.22)
    box = canvas.box(centre, 1.45 * float(radii.max()))
    if is_empty(box):
        return box, np.zeros((0, 0, 0), np.float32)
    at, local = canvas.at(box), canvas.grid.crop(box)
    distance = ellipsoid(at, centre, radii, random_rotation(rng))
    if style == "fused":
        for _ in range(int(rng.integers(1, 3))):
            offset = rng.standard_normal(3)
            offset *= radius_mm * rng.uniform(0.6, 0.9) / np.linalg.norm(offset)
            part = ellipsoid(
                at, centre + offset, random_radii(rng, radius_mm * rng.uniform(0.45, 0.75), 0.2), random_rotation(rng)
            )
            distance = smooth_union(distance, part, 0.3 * radius_mm)
    if style == "spiculated":
        distance -= spicules(at, centre, radius_mm * float(rng.uniform(0.3, 0.7)), rng)
    if style != "smooth":
        period = radius_mm * float(rng.uniform(0.5, 1.1))
        distance += np.float32(radius_mm * rng.uniform(0.06, 0.22)) * smooth_field(rng, local, max(period, 1.5))
    inside = distance < 0
    stray = inside & ~largest_part(inside)
    distance[stray] = np.abs(distance[stray]) + np.float32(0.5)
    return box, distance


def paint_lesion(canvas: Canvas, box: Box, distance: Floats, look: Look, radius_mm: float) -> None:
    """Fill a lesion: what surrounds it, rim, body with its texture, core."""
    body = textured(canvas, box, look.value, look.texture, look.texture_mm)
    if look.mottle:
        share = np.clip(2.0 * smooth_field(canvas.rng, canvas.grid.crop(box), 0.6 * radius_mm) - 0.5, 0.0, 1.0)
        body = np.asarray(body + np.float32(look.mottle) * share, np.float32)
    if look.capsule_mm:
        canvas.fill(box, distance - np.float32(look.capsule_mm), look.capsule_value, 1.0)
    if look.halo_mm:
        canvas.fill(box, distance - np.float32(look.halo_mm), look.halo_value, max(2.0, look.halo_mm))
    if look.rim_depth:
        canvas.fill(box, distance, look.rim_value, look.softness_mm)
        canvas.fill(box, distance + np.float32(max(1.0, look.rim_depth * radius_mm)), body, 1.5)
    else:
        canvas.fill(box, distance, body, look.softness_mm)
    if look.core_depth:
        ragged = smooth_field(canvas.rng, canvas.grid.crop(box), max(2.0, 0.5 * radius_mm))
        depth = distance + np.float32(look.core_depth * radius_mm) + np.float32(0.12 * radius_mm) * ragged
        canvas.fill(box, depth, look.core_value, 2.0)


def host_value(canvas: Canvas, box: Box, distance: Floats) -> float:
    """The visible value just outside of a shape: mostly the mean, else that of one neighbour among several."""
    near = (distance > 0.5) & (distance < 4.0)
    if not near.any():
        return canvas.palette.visible(float(canvas.picture[box].mean()))
    values = np.clip(canvas.picture[box][near], canvas.palette.low, canvas.palette.high)
    return float(canvas.rng.choice(values)) if canvas.rng.random() < 0.3 else float(values.mean())


def confine(canvas: Canvas, box: Box, distance: Floats) -> Floats:
    """The shape cut to the structure that most of it lies in, where that leaves a good part of it."""
    inside = distance < 0
    labels: NDArray[np.uint8] = canvas.labels[box]
    if not inside.any():
        return distance
    host = int(np.bincount(labels[inside]).argmax())
    kept = inside & (labels == host)
    if kept.sum() < 0.4 * inside.sum():
        return distance
    kept = largest_part(kept)
    return np.asarray(np.where(inside & ~kept, np.abs(distance) + np.float32(0.5), distance), np.float32)
