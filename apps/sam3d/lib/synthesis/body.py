"""A whole abdomen: body wall, spine, ribs, organs in their usual places, great vessels, bowel with gas.

Canvas axes are mm to the patient's Right-to-left order of RAS: axis 0 grows to the Right, 1 to Anterior, 2 to Superior.
"""

from __future__ import annotations

import numpy as np

from lib.synthesis.anatomy import Canvas, paint_blob, paint_bone, paint_curve, textured
from lib.synthesis.grid import Floats, smooth_field
from lib.synthesis.shapes import Vector, random_radii

# Half widths of an adult's abdomen in mm, to the right and to the front; smaller fields of view hold smaller bodies.
HALF_WIDTHS_MM = (165.0, 115.0)
# name: centre as shares of the half widths (the third in mm, from the middle of the volume), half axes in mm
ORGANS = {
    "liver": ((0.42, 0.1, 25.0), (68.0, 62.0, 62.0)),
    "spleen": ((-0.6, -0.25, 25.0), (26.0, 34.0, 42.0)),
    "kidney_right": ((0.38, -0.42, -35.0), (25.0, 25.0, 48.0)),
    "kidney_left": ((-0.38, -0.42, -25.0), (25.0, 25.0, 48.0)),
    "pancreas": ((-0.08, 0.12, -8.0), (48.0, 12.0, 14.0)),
    "stomach": ((-0.4, 0.35, 35.0), (40.0, 30.0, 38.0)),
}


def abdomen(canvas: Canvas, scale: float | None = None) -> None:
    """Paint the body, then its bones, organs, bowel and vessels.

    Its middle lies at 0 mm. `scale` is the body's size, 1 for an adult's; by default it fits the field of view.
    """
    rng, values = canvas.rng, canvas.palette.values
    extent = canvas.grid.high_mm - canvas.grid.low_mm
    if scale is None:
        scale = float(min(1.0, *(0.46 * extent[axis] / HALF_WIDTHS_MM[axis] for axis in (0, 1))))
    widths = scale * np.array(HALF_WIDTHS_MM) * rng.uniform(0.88, 1.0, 2)
    rim = _body_distance(canvas, widths)
    fat = scale * float(rng.uniform(6, 22))
    for depth, tissue in ((0.0, "muscle"), (1.5, "fat"), (fat, "muscle"), (fat + scale * rng.uniform(7, 14), "fat")):
        canvas.fill(canvas.whole, rim + np.float32(depth), values[tissue])
    _back_muscles(canvas, widths, scale)
    _bowel(canvas, widths, scale)
    for name, (share, radii) in ORGANS.items():
        centre = np.array([share[0] * widths[0], share[1] * widths[1], share[2] * scale])
        jittered = centre + scale * rng.normal(0, 5, 3)
        size = scale * np.array(radii) * np.exp(rng.normal(0, 0.1, 3))
        turn = np.eye(3)
        paint_blob(canvas, name, jittered, size, canvas.palette.of("organ", rng), turn)
    _bones(canvas, widths, scale)
    _vessels(canvas, widths, scale)
    # Whatever bulged through the wall is cut off by it.
    canvas.labels[rim > 0] = 0
    canvas.fill(canvas.whole, -rim, values["air"])


def _body_distance(canvas: Canvas, widths: Vector) -> Floats:
    """Distance to a rounded box without ends, wide as the body."""
    x, y, _ = canvas.coordinates
    length = ((x / np.float32(widths[0])) ** 2) ** np.float32(1.25) + ((y / np.float32(widths[1])) ** 2) ** np.float32(
        1.25
    )
    return np.asarray((length ** np.float32(0.4) - 1) * np.float32(widths.mean()), np.float32)


def _back_muscles(canvas: Canvas, widths: Vector, scale: float) -> None:
    """Psoas beside the spine and the erectors behind it, on both sides."""
    rng, value = canvas.rng, canvas.palette.values["muscle"]
    low, high = float(canvas.grid.low_mm[2]), float(canvas.grid.high_mm[2])
    back, number = -0.52 * float(widths[1]), canvas.add("muscle")
    for side in (-1.0, 1.0):
        for right, front, radius in ((34.0, 0.0, 15.0), (28.0, -34.0, 19.0), (52.0, -30.0, 13.0)):
            lean = scale * side * rng.uniform(0, 10)
            top = np.array([scale * side * right - lean, back + scale * front, high])
            foot = np.array([scale * side * right + lean, back + scale * front, low])
            paint_curve(canvas, np.stack([top, foot]), scale * radius, value + float(rng.normal(0, 0.05)), number)


def _bowel(canvas: Canvas, widths: Vector, scale: float) -> None:
    rng, palette = canvas.rng, canvas.palette
    deep = 0.5 * float(canvas.grid.high_mm[2] - canvas.grid.low_mm[2])
    for _ in range(int(rng.integers(14, 28))):
        share = rng.uniform((-0.65, -0.05), (0.65, 0.7))
        centre = np.array([*(share * widths), rng.uniform(-deep, min(deep, 0.0))])
        radii = random_radii(rng, scale * float(rng.uniform(12, 22)), 0.35)
        paint_blob(canvas, "bowel", centre, radii, palette.values["muscle"] + float(rng.normal(0, 0.15)), np.eye(3))
        if rng.random() < 0.4:
            up = centre + np.array([0.0, 0.35 * radii[1], 0.0])
            paint_blob(canvas, "gas", up, 0.55 * radii, palette.values["air"], np.eye(3))


def _bones(canvas: Canvas, widths: Vector, scale: float) -> None:
    """A column of vertebrae parted by discs, with a canal behind it, and pairs of ribs."""
    rng, palette = canvas.rng, canvas.palette
    low, high = float(canvas.grid.low_mm[2]), float(canvas.grid.high_mm[2])
    back = -0.52 * float(widths[1])
    radius, pitch = 21.0 * scale, 34.0 * scale
    number = canvas.add("spine")
    first = low - float(rng.uniform(0, pitch))
    for level in np.arange(first, high + pitch, pitch):
        for inset, tissue in ((0.0, "cortical"), (2.0 * scale, "marrow")):
            ends = np.array([[0, back, level], [0, back, level + 0.3 * pitch]])
            paint_curve(canvas, ends, radius - inset, palette.values[tissue], number)
        tail = np.array([[0, back - 1.5 * radius, level], [0, back - 2.3 * radius, level - 0.3 * pitch]])
        paint_curve(canvas, tail, 0.25 * radius, palette.values["cortical"], number)
        for side in (-1, 1):
            arch = np.array([[0, back - 1.7 * radius, level], [side * 1.5 * radius, back - radius, level]])
            paint_curve(canvas, arch, 0.22 * radius, palette.values["cortical"], number)
            if level > 0:
                angle = np.linspace(-1.4, 0.6, 16)
                points = np.stack(
                    [
                        side * 0.83 * widths[0] * np.cos(angle),
                        0.83 * widths[1] * np.sin(angle),
                        level - 18 * scale * (angle + 1.4),
                    ],
                    1,
                )
                paint_bone(canvas, points, 5.0 * scale)
    canal = np.array([[0, back - 1.25 * radius, low], [0, back - 1.25 * radius, high]])
    paint_curve(canvas, canal, 0.36 * radius, palette.values["fluid"], 0)


def _vessels(canvas: Canvas, widths: Vector, scale: float) -> None:
    """Aorta and vena cava before the spine, renal branches, and a fine tree in the liver."""
    rng, value = canvas.rng, canvas.palette.values["vessel"]
    low, high = float(canvas.grid.low_mm[2]), float(canvas.grid.high_mm[2])
    front = -0.52 * float(widths[1]) + 32.0 * scale
    heights = np.linspace(low, high, 12)
    for name, side in (("aorta", -1.0), ("vena_cava", 1.0)):
        sway = scale * rng.normal(0, 1.5, (12, 2))
        points = np.stack([side * 14 * scale + sway[:, 0], front + sway[:, 1], heights], 1)
        number = canvas.add(name)
        shade = value + (float(rng.normal(0, 0.2)) if side > 0 else 0.0)
        paint_curve(canvas, points, scale * float(rng.uniform(9, 12)), shade, number)
        renal = np.array(
            [[side * 18 * scale, front, -20 * scale], [side * 0.3 * widths[0], -0.4 * widths[1], -28 * scale]]
        )
        paint_curve(canvas, renal, 3.0 * scale, shade, number)
    liver = canvas.labels == canvas.names.index("liver") + 1
    if liver.any():
        first, second = smooth_field(rng, canvas.grid, 30 * scale), smooth_field(rng, canvas.grid, 30 * scale)
        thread = np.sqrt(first * first + second * second) < np.float32(1.5 * 2.2 / 30)
        tree = textured(canvas, canvas.whole, value, 0.05, 10.0 * scale)
        canvas.picture[...] = np.where(thread & liver, tree, canvas.picture)
