"""Whole synthetic volumes with an affine and known labels: demo studies, tests, held-out evaluation.

Their random streams are seeded apart from those of training (`patches.training_rng`), so that no phantom is ever
a training patch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lib.errors import GeometryError
from lib.random_streams import RandomStream, generator
from lib.synthesis.anatomy import (
    LESION_STYLES,
    SCENES,
    Canvas,
    confine,
    lesion_distance,
    paint_lesion,
)
from lib.synthesis.appearance import CT, Look, Palette, Scanner
from lib.synthesis.body import abdomen
from lib.synthesis.extremity import extremity, paint_mass
from lib.synthesis.grid import Floats, Grid
from lib.synthesis.patches import Mask

FAMILIES = ("ct", "mr")
# Scenes that show a body, or a limb, across its whole width.
BODIES: Mapping[str, Callable[[Canvas], None]] = {"abdomen": abdomen, "extremity": extremity}
# Field of view, to the right and to the front, from which a whole body is shown.
BODY_FROM_MM = 200.0
MR_UNIT = 250.0
ABDOMINAL_HOSTS = frozenset({"liver", "spleen", "kidney_left", "kidney_right", "pancreas"})
OTHER_HOSTS = frozenset({"organ", "muscle", "nucleus"})
# Slices from this thickness on are averaged over finer ones, unless that makes too many voxels.
THICK_FROM_MM = 2.2
MOST_FINE_VOXELS = 6_000_000


@dataclass(frozen=True)
class Phantom:
    """A volume and the truth about it.

    array: (I, J, K) int16, HU for `ct`, arbitrary and non-negative for `mr`; affine: (4, 4) voxel index to RAS mm;
    label_map: (I, J, K) uint8, where n stands for names[n - 1]; the first name is always `lesion`.
    """

    array: NDArray[np.int16]
    affine: NDArray[np.float64]
    label_map: NDArray[np.uint8]
    names: tuple[str, ...]

    def lesions(self) -> list[Mask]:
        """Each lesion by itself, the largest first."""
        parts, count = ndimage.label(self.label_map == 1)
        masks = [np.asarray(parts == number, np.bool_) for number in range(1, count + 1)]
        return sorted(masks, key=lambda mask: -int(mask.sum()))

    def structure(self, name: str) -> Mask:
        return np.asarray(self.label_map == self.names.index(name) + 1, np.bool_)


def make_phantom(
    seed: int,
    shape: tuple[int, int, int] = (192, 192, 96),
    spacing_mm: tuple[float, float, float] = (1.8, 1.8, 2.5),
    orientation: str = "RAS",
    family: str = "ct",
    rotation: NDArray[np.float64] | None = None,
    scene: str | None = None,
) -> Phantom:
    """A phantom on the native grid asked for; the same arguments give the same bytes.

    shape, spacing_mm: along the native axes i, j, k. orientation: those axes' codes, such as `LPS` or `SAR`.
    rotation: (3, 3), turns patient and grid together about 0 mm, for an oblique affine. scene: a key of
    `BODIES` or of `anatomy.SCENES`; by default an abdomen where the field of view holds one. With one seed, volumes of
    one size in mm and voxels show the same patient whatever their orientation.
    Raises GeometryError for an orientation that names no three axes.
    """
    rng = generator(RandomStream.PHANTOM, seed)
    return _make(rng, shape, spacing_mm, orientation, family, rotation, scene)


def _make(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    orientation: str,
    family: str,
    rotation: NDArray[np.float64] | None,
    scene: str | None,
) -> Phantom:
    axes, signs = _ras_axes(orientation)
    # The scene is made with its axes to Right, Anterior, Superior, then laid along the native ones.
    native = [axes.index(ras) for ras in range(3)]
    grid = Grid.centred(tuple(shape[a] for a in native), tuple(spacing_mm[a] for a in native))
    array, label_map, names = _paint(rng, grid, family, scene)
    affine = np.eye(4)
    affine[:3, :3] = 0.0
    for axis, (ras, sign) in enumerate(zip(axes, signs, strict=True)):
        affine[ras, axis] = sign * spacing_mm[axis]
        affine[ras, 3] = grid.axes[ras][0 if sign > 0 else -1]
    if rotation is not None:
        affine[:3] = rotation @ affine[:3]
    flips = tuple(slice(None, None, sign) for sign in signs)
    first, second = (np.ascontiguousarray(part.transpose(axes)[flips]) for part in (array, label_map))
    return Phantom(first, affine, second, names)


def _ras_axes(orientation: str) -> tuple[list[int], list[int]]:
    """For each native axis, the RAS axis that it runs along and whether to (1) or fro (-1)."""
    found = [
        (ras, 1 if code == pair[0] else -1)
        for code in orientation
        for ras, pair in enumerate(("RL", "AP", "SI"))
        if code in pair
    ]
    axes, signs = [ras for ras, _ in found], [sign for _, sign in found]
    if len(orientation) != 3 or sorted(axes) != [0, 1, 2]:
        raise GeometryError(f"orientation {orientation!r} does not name three axes; give one such as 'RAS' or 'LPS'")
    return axes, signs


def _paint(
    rng: np.random.Generator, grid: Grid, family: str, scene: str | None
) -> tuple[NDArray[np.int16], NDArray[np.uint8], tuple[str, ...]]:
    """Picture, labels and names on a grid whose axes run to Right, Anterior, Superior."""
    palette = Palette.draw(rng, family)
    factors = _slice_factors(grid)
    canvas = Canvas(grid.refined(factors), palette, rng, warp_mm=float(rng.uniform(0.5, 2.0)))
    extent = grid.high_mm - grid.low_mm
    name = scene or ("abdomen" if min(extent[:2]) >= BODY_FROM_MM else "viscera")
    (BODIES.get(name) or SCENES[name])(canvas)
    lesion = paint_mass(canvas) if name == "extremity" else _paint_lesions(canvas)
    blur = tuple(float(0.7 / max(1.0, step)) for step in grid.spacing_mm)
    scanner = Scanner(
        blur=(blur[0], blur[1], blur[2]),
        noise=float(rng.uniform(0.04, 0.15)),
        grain=float(rng.uniform(0.4, 0.9)),
        bias=float(rng.uniform(0.02, 0.1)) if family == "mr" else 0.0,
    )
    # A thick slice shows the mean of what lies in it, and is labelled by what lies in its middle.
    picture = _averaged(canvas.picture, factors)
    image = scanner.acquire(picture, grid, palette.values["air"], rng)
    if family == "mr":
        array = np.clip((image - palette.values["air"]) * MR_UNIT, 0, 8000)
    else:
        array = np.clip(image * CT.std + CT.mean, -1024, 3071)
    label_map, names = _gather(canvas, lesion)
    label_map = label_map[tuple(slice(n // 2, None, n) for n in factors)]
    return np.rint(array).astype(np.int16), label_map, names


def _slice_factors(grid: Grid) -> tuple[int, ...]:
    """Into how many parts a voxel is cut along each axis while the scene is made."""
    factors = tuple(3 if step > THICK_FROM_MM else 1 for step in grid.spacing_mm)
    return factors if np.prod(grid.shape) * np.prod(factors) <= MOST_FINE_VOXELS else (1, 1, 1)


def _averaged(picture: Floats, factors: tuple[int, ...]) -> Floats:
    for axis, n in enumerate(factors):
        shape = (*picture.shape[:axis], -1, n, *picture.shape[axis + 1 :])
        picture = picture.reshape(shape).mean(axis=axis + 1, dtype=np.float32)
    return picture


def _gather(canvas: Canvas, lesion: Mask) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """One number per name, lesions first: structures of one name share it."""
    names = ("lesion", *dict.fromkeys(canvas.names))
    table = np.array([0, *(names.index(name) + 1 for name in canvas.names)], np.uint8)
    label_map = table[canvas.labels]
    label_map[lesion] = 1
    return label_map, names


def _paint_lesions(canvas: Canvas) -> Mask:
    """Two to four lesions that keep clear of one another, in whatever structures there are."""
    rng, lesion = canvas.rng, np.zeros(canvas.grid.shape, np.bool_)
    extent, step = canvas.grid.high_mm - canvas.grid.low_mm, max(canvas.grid.spacing_mm)
    most = float(max(2.5 * step, min(28.0, 0.16 * extent.min())))
    wanted = int(rng.integers(2, 5))
    candidates = _host_voxels(canvas)
    for attempt in range(60):
        if wanted == 0:
            break
        # The later attempts make do with less room.
        radius = float(np.exp(rng.uniform(np.log(min(4.0, 0.6 * most)), np.log(most)))) * (1.0 if attempt < 30 else 0.6)
        index = np.unravel_index(int(rng.choice(candidates)), canvas.grid.shape)
        centre = np.array([axis[index] for axis in canvas.coordinates], np.float64)
        box, distance = lesion_distance(canvas, centre, radius, str(rng.choice(LESION_STYLES)))
        if distance.size and rng.random() < 0.5:
            distance = confine(canvas, box, distance)
        if (distance < 0).sum() < 40 or (lesion[box] & (distance < 2.5 * step)).any():
            continue
        host = canvas.palette.visible(float(canvas.picture[index]))
        look = Look.draw(rng, host, _contrast(rng, host, canvas.palette.family), canvas.palette, radius)
        paint_lesion(canvas, box, distance, look, radius)
        lesion[box] |= distance < 0
        wanted -= 1
    return lesion


def _host_voxels(canvas: Canvas) -> NDArray[np.int64]:
    """Where lesions may begin: in an abdomen's solid organs, else in organs and the like, else anywhere (as in a
    lung)."""
    for hosts in (ABDOMINAL_HOSTS, OTHER_HOSTS):
        numbers = [number for number, name in enumerate(canvas.names, start=1) if name in hosts]
        voxels = np.flatnonzero(np.isin(canvas.labels, numbers))
        if voxels.size:
            return voxels
    return np.arange(canvas.labels.size)


def _contrast(rng: np.random.Generator, host: float, family: str) -> float:
    """A lesion's difference from its host; on CT no lesion is darker than fluid where its host is brighter."""
    size = float(np.exp(rng.uniform(np.log(0.35), np.log(1.6))))
    if rng.random() < 0.4 or (family == "ct" and host < -0.15):
        return size
    return -min(size, host + 0.5) if family == "ct" else -size


def practice_phantom(rng: np.random.Generator) -> tuple[Phantom, str]:
    """A phantom of any scene, family, spacing and orientation to train on, and its family; the caller's generator must
    be of a stream that makes no held-out case."""
    family = "mr" if rng.random() < 0.45 else "ct"
    # A quarter abdomens, a quarter limbs, half all else.
    scene = str(rng.choice([*BODIES, *sorted(SCENES)], p=[0.25, 0.25, *[0.5 / len(SCENES)] * len(SCENES)]))
    in_plane = float(rng.uniform(1.5, 2.2) if scene == "abdomen" else rng.uniform(0.7, 1.5))
    side = 160 if scene == "abdomen" else int(rng.integers(80, 145))
    slice_mm = float(rng.uniform(1.0, 6.0))
    slices = int(np.clip(rng.uniform(80, 160) / slice_mm, 16, 100))
    orientation = str(rng.choice(["RAS", "LPS", "LAS", "RPI"]))
    shape, spacing_mm = (side, side, slices), (in_plane, in_plane, slice_mm)
    return _make(rng, shape, spacing_mm, orientation, family, None, scene), family


# --------------------------------------------------------------- held-out cases


def held_out_cases(
    count: int, seed: int = 0, family: str = "ct"
) -> Iterator[tuple[NDArray[np.int16], NDArray[np.float64], Mask]]:
    """`count` cases (array, affine, label) for evaluation, of many scenes, spacings and orientations.

    Each has one target: mostly one of its lesions, else a whole organ. Case n of a seed is the same however many
    are asked for.
    """
    for index in range(count):
        rng = generator(RandomStream.HELD_OUT_PHANTOM, seed, index)
        yield _held_out_case(rng, family)


def _held_out_case(rng: np.random.Generator, family: str) -> tuple[NDArray[np.int16], NDArray[np.float64], Mask]:
    is_body = rng.random() < 0.4
    in_plane = float(rng.uniform(1.6, 2.0) if is_body else rng.uniform(0.7, 1.4))
    side = 160 if is_body else int(rng.integers(80, 129))
    slice_mm = float(rng.uniform(1.0, 5.0))
    slices = int(np.clip(rng.uniform(80, 160) / slice_mm, 20, 100))
    orientation = str(rng.choice(["RAS", "LPS", "LAS", "RPI"]))
    scene = "abdomen" if is_body else str(rng.choice(sorted(SCENES)))
    while True:
        phantom = _make(rng, (side, side, slices), (in_plane, in_plane, slice_mm), orientation, family, None, scene)
        label = _one_target(rng, phantom)
        if label is not None:
            return phantom.array, phantom.affine, label


def _one_target(rng: np.random.Generator, phantom: Phantom) -> Mask | None:
    organs = [name for name in phantom.names if name in ("liver", "spleen", "kidney_left", "kidney_right")]
    if organs and rng.random() < 0.35:
        label = phantom.structure(str(rng.choice(organs)))
        return label if label.sum() > 200 else None
    lesions = [mask for mask in phantom.lesions() if mask.sum() >= 30]
    return lesions[int(rng.integers(len(lesions)))] if lesions else None


# ------------------------------------------------------------------ demo studies


@dataclass(frozen=True)
class DemoStudy:
    """A written study, and the voxel (i, j, k) whose click finds its largest lesion."""

    path: Path
    click: tuple[int, int, int]


def write_studies(folder: Path, count: int = 3, seed: int = 7) -> list[DemoStudy]:
    """Write `demo_ct_1.nii.gz`, ... into `folder`: images only, for labels beside them would be taken for images."""
    folder.mkdir(parents=True, exist_ok=True)
    studies = []
    for number in range(1, count + 1):
        phantom = make_phantom(seed + number, orientation=("RAS", "LPS", "LAS")[number % 3])
        path = folder / f"demo_ct_{number}.nii.gz"
        _write_nifti(phantom, path)
        studies.append(DemoStudy(path, suggested_click(phantom)))
    return studies


def suggested_click(phantom: Phantom) -> tuple[int, int, int]:
    """The voxel of the largest lesion that lies deepest in it."""
    spacing = np.linalg.norm(phantom.affine[:3, :3], axis=0)
    depth = ndimage.distance_transform_edt(np.pad(phantom.lesions()[0], 1), sampling=spacing)
    i, j, k = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(i) - 1, int(j) - 1, int(k) - 1


def _write_nifti(phantom: Phantom, path: Path) -> None:
    create: Any = nib.Nifti1Image  # nibabel's classes are not typed
    image = create(phantom.array, phantom.affine)
    image.set_qform(phantom.affine, code=1)
    image.set_sform(phantom.affine, code=1)
    image.header.set_xyzt_units("mm")
    # The temporary name starts with a dot, which a datastore does not list, and keeps the ending nibabel goes by.
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        nib.save(image, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
