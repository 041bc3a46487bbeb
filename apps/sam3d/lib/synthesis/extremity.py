"""A limb across its whole width: skin, fat, muscles parted by fascia, bones with marrow, vessels; and a mass in it.

Canvas axes are mm to the Right, to Anterior and to Superior; the limb runs along the last one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lib.synthesis.anatomy import (
    LESION_STYLES,
    Canvas,
    confine,
    host_value,
    lesion_distance,
    paint_bone,
    paint_curve,
    paint_lesion,
)
from lib.synthesis.appearance import Look
from lib.synthesis.grid import Floats
from lib.synthesis.shapes import Vector

# Half the width of a limb in mm, a wrist's to a thigh's; smaller fields of view hold smaller limbs.
HALF_WIDTH_MM = (35.0, 105.0)
MASS_RADIUS_MM = (10.0, 55.0)
# A mass differs from the muscle about it by so little that on many pictures only its border and its grain show.
MASS_CONTRAST = (0.08, 1.2)


def extremity(canvas: Canvas) -> None:
    """Paint the limb; its middle lies at 0 mm."""
    rng, values = canvas.rng, canvas.palette.values
    extent = canvas.grid.high_mm - canvas.grid.low_mm
    width = min(float(rng.uniform(*HALF_WIDTH_MM)), 0.5 * float(extent[:2].min()) * float(rng.uniform(0.8, 1.3)))
    widths = width * np.exp(rng.normal(0, 0.12, 2))
    rim = _limb_distance(canvas, widths)
    fat_mm = float(np.exp(rng.uniform(np.log(2.0), np.log(0.3 * width))))
    canvas.fill(canvas.whole, rim, values["muscle"])
    canvas.fill(canvas.whole, rim + np.float32(1.5), values["fat"])
    _muscles(canvas, rim + np.float32(1.5 + fat_mm), widths)
    for _ in range(int(rng.integers(1, 3))):
        paint_bone(canvas, _along(canvas, 0.35 * widths), float(rng.uniform(0.1, 0.24)) * width)
    for _ in range(int(rng.integers(1, 5))):
        number = canvas.add("vessel")
        radius = float(rng.uniform(0.02, 0.06)) * width
        paint_curve(canvas, _along(canvas, 0.5 * widths), radius, values["vessel"], number)
    canvas.labels[rim > 0] = 0
    canvas.fill(canvas.whole, -rim, values["air"])


def paint_mass(canvas: Canvas) -> NDArray[np.bool_]:
    """A large tumour in the muscle, pale against it and kept to it; where it is, False all over if nowhere."""
    rng, mass = canvas.rng, np.zeros(canvas.grid.shape, np.bool_)
    hosts = np.flatnonzero(canvas.labels == canvas.names.index("muscle") + 1)
    if not hosts.size:
        return mass
    most = 0.3 * float((canvas.grid.high_mm - canvas.grid.low_mm).min())
    radius = min(float(np.exp(rng.uniform(*np.log(MASS_RADIUS_MM)))), max(MASS_RADIUS_MM[0], most))
    index = np.unravel_index(int(rng.choice(hosts)), canvas.grid.shape)
    centre = np.array([axis[index] for axis in canvas.coordinates], np.float64)
    box, distance = lesion_distance(canvas, centre, radius, str(rng.choice(LESION_STYLES[:3])))
    distance = confine(canvas, box, distance) if distance.size else distance
    if not (distance < 0).any():
        return mass
    contrast = float(np.exp(rng.uniform(*np.log(MASS_CONTRAST)))) * (1 if rng.random() < 0.5 else -1)
    look = Look.draw(rng, host_value(canvas, box, distance), contrast, canvas.palette, radius)
    paint_lesion(canvas, box, distance, look, radius)
    mass[box] = distance < 0
    return mass


def _limb_distance(canvas: Canvas, widths: Vector) -> Floats:
    """Distance to an uneven cylinder without ends that grows wider or narrower along its way."""
    x, y, z = canvas.coordinates
    length = float(canvas.grid.high_mm[2] - canvas.grid.low_mm[2]) + 1.0
    taper = 1 + np.float32(canvas.rng.uniform(-0.4, 0.4) / length) * z
    ring = np.sqrt((x / np.float32(widths[0])) ** 2 + (y / np.float32(widths[1])) ** 2) / taper
    uneven = np.float32(canvas.rng.uniform(0.01, 0.06)) * canvas.field(float(widths.mean()))
    return np.asarray((ring - 1 + uneven) * np.float32(widths.mean()), np.float32)


def _muscles(canvas: Canvas, rim: Floats, widths: Vector) -> None:
    """Bellies side by side, each with a shade of its own, with fascia where two of them meet; one structure."""
    rng, values = canvas.rng, canvas.palette.values
    x, y, z = canvas.coordinates
    count = int(rng.integers(4, 12))
    shades = (values["muscle"] + rng.normal(0, 0.08, count)).astype(np.float32)
    nearest = np.full(canvas.grid.shape, np.inf, np.float32)
    second = nearest.copy()
    shade = np.zeros(canvas.grid.shape, np.float32)
    for value in shades:
        at, lean = rng.uniform(-0.9, 0.9, 2) * widths, rng.normal(0, 0.15, 2)
        distance = np.hypot(
            x - np.float32(at[0]) - np.float32(lean[0]) * z, y - np.float32(at[1]) - np.float32(lean[1]) * z
        )
        is_nearest = distance < nearest
        second = np.where(is_nearest, nearest, np.minimum(second, distance))
        nearest = np.where(is_nearest, distance, nearest)
        shade = np.where(is_nearest, value, shade)
    grain = np.float32(rng.uniform(0.0, 0.08)) * canvas.field(float(rng.uniform(2, 8)))
    canvas.fill(canvas.whole, rim, shade + grain, 1.0, canvas.add("muscle"))
    # Half the difference of two distances is how far the plane between them lies.
    fascia = np.maximum((second - nearest) / 2 - np.float32(rng.uniform(0.1, 1.2)), rim)
    canvas.fill(canvas.whole, fascia, values["fat"], 1.0)


def _along(canvas: Canvas, widths: Vector) -> Vector:
    """Points (N, 3) of a line along the limb, somewhere within the given half widths."""
    rng = canvas.rng
    heights = np.linspace(canvas.grid.low_mm[2] - 10, canvas.grid.high_mm[2] + 10, 12)
    at, lean, sway = rng.uniform(-1, 1, 2) * widths, rng.normal(0, 0.05, 2), rng.normal(0, 0.8, (12, 2))
    return np.stack([at[axis] + lean[axis] * heights + sway[:, axis] for axis in (0, 1)] + [heights], 1)
