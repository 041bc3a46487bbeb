"""Training patches: one random scene, one target in it, as the network sees them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lib.random_streams import RandomStream, generator
from lib.synthesis.anatomy import (
    SCENES,
    Canvas,
    confine,
    host_value,
    lesion_distance,
    paint_blob,
    paint_bone,
    paint_curve,
    paint_lesion,
    paint_skin,
)
from lib.synthesis.appearance import Look, Palette, Scanner
from lib.synthesis.body import HALF_WIDTHS_MM, abdomen
from lib.synthesis.grid import Floats, Grid
from lib.synthesis.shapes import Vector, curve, random_radii

Mask = NDArray[np.bool_]

# Patches from a whole body, which is what there is around an object seen at a coarser zoom; scenes and lesions are made
# in voxels, and look alike at any spacing.
BODY_SHARE = 0.2
BODY_SPACING_MM = (1.2, 5.0)
SCENE_SHARES = {"viscera": 0.34, "parenchyma": 0.2, "lung": 0.12, "limb": 0.2, "brain": 0.14}
STYLE_SHARES = {"smooth": 0.33, "lobulated": 0.4, "fused": 0.17, "spiculated": 0.1}
DIAMETER_MM = (4.0, 60.0)
# Lesions that no patch holds: at a click in their middle only part of their border is in sight, or little of it.
GIANT_DIAMETER_MM = (50.0, 110.0)
GIANT_SHARE = 0.12
CONTRAST = (0.15, 3.0)
SMALLEST_VOXELS = 30
# Mean step across a target's border, after the scanner's blur, from which on it counts as visible.
LEAST_SEEN = 0.1
LESION_SHARE = 0.7
MR_SHARE = 0.4


def training_rng(seed: int, worker: int = 0) -> np.random.Generator:
    """The generator for training patches, never equal to one that makes phantoms."""
    return generator(RandomStream.TRAINING_PATCH, seed, worker)


def training_patch(rng: np.random.Generator, size: int = 64) -> tuple[Floats, Mask]:
    """A patch (P, P, P) float32 of 1 mm voxels, normalised and clipped, and its target (P, P, P) bool.

    The target has at least 30 voxels and is mostly a lesion, else an organ, vessel or bone.
    """
    while True:
        image, target = _attempt(rng, size)
        # A few that no eye can tell stay in: users click on those too.
        if target.sum() >= SMALLEST_VOXELS and (_stands_out(image, target) or rng.random() < 0.05):
            return image, target


def _attempt(rng: np.random.Generator, size: int) -> tuple[Floats, Mask]:
    family = "mr" if rng.random() < MR_SHARE else "ct"
    palette = Palette.draw(rng, family, wildness=0.25)
    grid = Grid.centred((size, size, size))
    if rng.random() < BODY_SHARE:
        canvas = _body(grid, palette, rng)
    else:
        canvas = Canvas(grid, palette, rng, warp_mm=float(rng.uniform(0.3, 2.5)))
        SCENES[_pick(rng, SCENE_SHARES)](canvas)
    if rng.random() < 0.2:
        paint_skin(canvas, rng.standard_normal(3), float(rng.uniform(0.05, 0.7)) * size / 2)
    organ, limit = None, 0.4
    if rng.random() > LESION_SHARE:
        if rng.random() < 0.6:
            _paint_central_organ(canvas)
        organ = _organ_target(canvas)
    if organ is None:
        target, limit = _lesion_target(canvas)
    else:
        target = organ
        _scatter(canvas, None, target, 0.0)
    scanner = Scanner.draw(rng, family)
    if scanner.noise > limit:
        scanner = Scanner(**{**vars(scanner), "noise": limit})
    image = _expose(canvas, scanner)
    if rng.random() < 0.12:
        _end_volume(rng, image, target)
    return image, target


def _body(grid: Grid, palette: Palette, rng: np.random.Generator) -> Canvas:
    """Somewhere in an abdomen whose voxels are wider than 1 mm: so it is made smaller, in voxels of 1 mm."""
    scale = 1 / float(rng.uniform(*BODY_SPACING_MM))
    place = scale * np.array([*HALF_WIDTHS_MM, 90.0]) * rng.uniform(-0.85, 0.85, 3)
    canvas = Canvas(grid.moved(place), palette, rng, warp_mm=float(rng.uniform(0.3, 1.5)))
    abdomen(canvas, scale)
    return canvas


def _end_volume(rng: np.random.Generator, image: Floats, target: Mask) -> None:
    """Let the volume end inside the patch: what lies beyond is filled with the lowest value."""
    axis = int(rng.choice(3, p=[0.6, 0.2, 0.2]))
    depth = int(rng.integers(1, image.shape[axis] // 2))
    beyond = slice(None, depth) if rng.random() < 0.5 else slice(-depth, None)
    box = tuple(beyond if part == axis else slice(None) for part in range(3))
    image[box] = image.min()
    target[box] = False


def _expose(canvas: Canvas, scanner: Scanner) -> Floats:
    """The finished picture: acquired, windowed, normalised."""
    rng, palette = canvas.rng, canvas.palette
    image = scanner.acquire(canvas.picture, canvas.grid, palette.values["air"], rng)
    low, high = palette.low, palette.high
    if palette.family == "mr":
        # A volume's percentiles are not its patch's: move part of the way to the patch's own mean and deviation.
        tissue = image[::2, ::2, ::2][image[::2, ::2, ::2] > palette.values["air"] + 0.3]
        if tissue.size > 1000:
            scale = float(np.clip(tissue.std(), 0.3, 2.0)) ** -float(rng.uniform(0.2, 0.9))
            shift = float(tissue.mean()) * float(rng.uniform(0.2, 1.0))
            image, low, high = (image - shift) * scale, (low - shift) * scale, (high - shift) * scale
            low, high = max(low, -3.0), min(high, 4.5)
    elif rng.random() < 0.15:
        low, high = low + float(rng.uniform(0, 0.7)), high - float(rng.uniform(0, 0.9))
    return np.asarray(np.clip(image, low, high), np.float32)


# --------------------------------------------------------------------- targets


def _lesion_target(canvas: Canvas) -> tuple[Mask, float]:
    """Paint the target lesion and its like; returns it and how much noise it bears."""
    rng = canvas.rng
    radius = 0.5 * _log_uniform(rng, *(GIANT_DIAMETER_MM if rng.random() < GIANT_SHARE else DIAMETER_MM))
    style = _pick(rng, STYLE_SHARES)
    target = np.zeros(canvas.grid.shape, np.bool_)
    while True:
        box, distance = lesion_distance(canvas, _lesion_centre(canvas, radius), radius, style)
        if distance.size and rng.random() < 0.3:
            distance = confine(canvas, box, distance)
        if (distance < 0).sum() >= SMALLEST_VOXELS:
            break
        radius *= 1.08
    contrast = _log_uniform(rng, *CONTRAST) * (1 if rng.random() < 0.5 else -1)
    look = Look.draw(rng, host_value(canvas, box, distance), contrast, canvas.palette, radius)
    paint_lesion(canvas, box, distance, look, radius)
    target[box] = distance < 0
    if rng.random() < 0.45:
        _scatter(canvas, look, target, radius)
    # Texture and size both help the eye; a small pale lesion drowns in noise that a large one bears.
    return target, max(0.03, 0.6 * max(abs(contrast), look.texture) * np.sqrt(radius / 2.0))


def _lesion_centre(canvas: Canvas, radius_mm: float) -> Vector:
    """Where the lesion goes: mostly so that the patch's centre, the click, lies in it."""
    choice = canvas.rng.random()
    if choice > 0.8:
        return canvas.random_point(0.05)
    return _centre_inside(canvas, radius_mm * (0.35 if choice < 0.55 else 0.75))


def _centre_inside(canvas: Canvas, reach_mm: float) -> Vector:
    """A point within reach of the patch's centre, in the canvas's warped positions."""
    middle = tuple(n // 2 for n in canvas.grid.shape)
    here = np.array([axis[middle] for axis in canvas.coordinates], np.float64)
    offset = canvas.rng.standard_normal(3)
    offset *= reach_mm * canvas.rng.random() ** (1 / 3) / np.linalg.norm(offset)
    return np.asarray(here + offset, np.float64)


def _scatter(canvas: Canvas, look: Look | None, target: Mask, radius_mm: float) -> None:
    """Other lesions, of the target's look where one is given, that keep clear of the target."""
    rng = canvas.rng
    kept_clear = ndimage.binary_dilation(target, iterations=2) if look is not None else None
    for _ in range(int(rng.integers(1, 5))):
        radius = radius_mm * float(rng.uniform(0.5, 1.4)) if look is not None else 0.5 * _log_uniform(rng, 4, 20)
        radius = float(np.clip(radius, 2.0, 14.0))
        box, distance = lesion_distance(canvas, canvas.random_point(), radius, _pick(rng, STYLE_SHARES))
        surround = 0.5 + (max(look.halo_mm, look.capsule_mm) if look is not None else 0.0)
        if not distance.size or (kept_clear is not None and (kept_clear[box] & (distance < surround)).any()):
            continue
        if kept_clear is None:
            contrast = _log_uniform(rng, *CONTRAST) * (1 if rng.random() < 0.5 else -1)
            fresh = Look.draw(rng, host_value(canvas, box, distance), contrast, canvas.palette, radius)
            paint_lesion(canvas, box, distance, fresh, radius)
        elif look is not None:
            paint_lesion(canvas, box, distance, look, radius)


def _organ_target(canvas: Canvas) -> Mask | None:
    """One piece of one structure, if any stands out from what lies around it."""
    rng, shape = canvas.rng, canvas.grid.shape
    counts = np.bincount(canvas.labels.ravel(), minlength=len(canvas.names) + 1)
    fits = [n for n in range(1, len(counts)) if SMALLEST_VOXELS <= counts[n] <= 0.7 * canvas.labels.size]
    if not fits:
        return None
    centre = int(canvas.labels[tuple(n // 2 for n in shape)])
    number = centre if centre in fits and rng.random() < 0.9 else int(rng.choice(fits))
    parts = ndimage.label(canvas.labels == number)[0]
    part = int(parts[tuple(n // 2 for n in shape)])
    if not part:
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        part = int(sizes.argmax())
    target = np.asarray(parts == part, np.bool_)
    # A sliver at the patch's border is nothing that anybody would click.
    is_solid = ndimage.binary_erosion(target, border_value=1).sum() >= 8
    return target if is_solid and target.sum() >= SMALLEST_VOXELS else None


def _paint_central_organ(canvas: Canvas) -> None:
    """A structure that the patch's centre most likely lies in."""
    rng, palette = canvas.rng, canvas.palette
    choice = rng.random()
    if choice < 0.55:
        radius = _log_uniform(rng, 5.0, 32.0)
        centre = _centre_inside(canvas, 0.5 * radius)
        value = palette.of("organ", rng)
        paint_blob(canvas, "organ", centre, random_radii(rng, radius, 0.3), value)
        return
    radius = _log_uniform(rng, 2.0, 11.0)
    direction, start = rng.standard_normal(3), rng.normal(0.0, 0.3 * radius, 3)
    halves = [curve(rng, start, way * direction, 4.0, 0.05, canvas.grid.shape[0] // 4) for way in (1.0, -1.0)]
    points = np.concatenate([halves[0][:0:-1], halves[1]])
    if choice < 0.85:
        value = palette.values["vessel"] if rng.random() < 0.7 else palette.of("organ", rng)
        paint_curve(canvas, points, radius, value, canvas.add("vessel"))
    else:
        paint_bone(canvas, points, radius + 3.0)


def _stands_out(image: Floats, target: Mask) -> bool:
    """Whether value or texture changes across the target's border; False where no border is in the patch."""
    box = ndimage.find_objects(np.asarray(target, np.uint8))[0]
    box = tuple(slice(max(part.start - 3, 0), part.stop + 3) for part in box)
    image, target = image[box], target[box]
    outside = image[ndimage.binary_dilation(target, iterations=2) & ~target]
    inside = image[target & ~ndimage.binary_erosion(target, iterations=2, border_value=1)]
    if outside.size < SMALLEST_VOXELS or not inside.size:
        return False
    deviations = float(inside.std()) + 0.02, float(outside.std()) + 0.02
    is_textured = max(deviations) > 2.0 * min(deviations)
    return is_textured or bool(abs(float(inside.mean()) - float(outside.mean())) > LEAST_SEEN)


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _pick(rng: np.random.Generator, shares: dict[str, float]) -> str:
    return str(rng.choice(list(shares), p=list(shares.values())))
