"""One click on what anybody can see: balls, ellipsoids and boxes from 3 to 300 mm, and at the scale of micro-CT.

    python benchmarks/easy_objects.py                       # 48 objects, about two minutes
    python benchmarks/easy_objects.py --checkpoint FILE

Objects are drawn here, by formulas of their own, not by the generator that training uses: voxels of 0.02 to 7 mm, cubes
and thick slices, six orientations, clicked in the middle and off it, lighter and darker than what lies around them, in
uniform noise or in a body in air. Prints one line of JSON: mean and smallest Dice, and each object's.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from support.report import report

from lib.images.volumes import Volume, make_volume
from lib.interactive.predictor import load_predictor
from lib.interactive.prompts import prompts_from_request
from lib.settings import Settings

ORIENTATIONS = ("RAS", "LPS", "SAR", "AIL", "PSR", "ILA")
DIAMETERS_MM = (3.0, 6.0, 12.0, 24.0, 40.0, 80.0, 150.0, 300.0)
KINDS = ("ball", "ellipsoid", "box")
MICRO = ((0.02, 0.4), (0.05, 1.6), (0.1, 5.0))


@dataclass(frozen=True)
class Easy:
    """One object: what it is called, the volume, the truth and where it is clicked."""

    name: str
    volume: Volume
    truth: NDArray[np.bool_]
    click: tuple[int, int, int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="weights in place of the demo model's")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch (1)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    predictor = load_predictor(Settings(labels=("object",), checkpoint=args.checkpoint))
    found = {}
    for easy in easy_objects():
        request = prompts_from_request({"object": [list(easy.click)]}, ("object",), easy.volume.shape)
        mask = predictor.segment(easy.volume, request).label_map == 1
        overlap = 2 * int((mask & easy.truth).sum()) / (int(mask.sum()) + int(easy.truth.sum()))
        found[easy.name] = round(overlap, 3)
    dices = list(found.values())
    summary = {"objects": len(dices), "mean": round(float(np.mean(dices)), 4), "smallest": min(dices)}
    summary["below_0.9"] = sum(value < 0.9 for value in dices)
    report("easy objects, one click", **summary, dice=found)


def easy_objects() -> Iterator[Easy]:
    """48 of them, always the same."""
    number = 0
    for diameter in DIAMETERS_MM:
        for kind in KINDS:
            for is_off in (False, True) if kind != "box" else (number % 2 == 0,):
                yield _made(number, kind, diameter, _spacing(diameter, number), is_off)
                number += 1
    for spacing, diameter in MICRO:
        for kind in ("ball", "ellipsoid"):
            yield _made(number, kind, diameter, (spacing, spacing, spacing), number % 2 == 1)
            number += 1
    for thickness, diameter in ((5.0, 20.0), (7.0, 24.0)):
        yield _made(number, "ball", diameter, (0.8, 0.8, thickness), False)
        number += 1


def _spacing(diameter: float, number: int) -> tuple[float, float, float]:
    """Voxels as scanners have them, finer ones for what is small."""
    in_plane = (0.5, 0.8, 1.0)[number % 3] if diameter < 20 else (0.8, 1.0, 2.0)[number % 3]
    slices = (1.0, 1.5, 3.0)[number // 3 % 3]
    return in_plane, in_plane, min(slices * in_plane, diameter / 4)


def _made(number: int, kind: str, diameter: float, spacing: tuple[float, float, float], is_off: bool) -> Easy:
    rng = np.random.default_rng([2026, number])
    extent = min(max(2.2 * diameter, 96 * spacing[0]), 420.0 * max(1.0, diameter / 300))
    shape = tuple(int(np.clip(extent / step, 24, 256)) for step in spacing)
    if diameter > 100:
        spacing = tuple(max(step, extent / 200) for step in spacing)  # type: ignore[assignment]
        shape = tuple(int(extent / step) for step in spacing)
    grid = np.meshgrid(
        *[(np.arange(n) - (n - 1) / 2) * step for n, step in zip(shape, spacing, strict=True)], indexing="ij"
    )
    room = np.array([n * step for n, step in zip(shape, spacing, strict=True)]) / 2 - diameter / 2
    centre = rng.uniform(-0.5, 0.5, 3) * np.maximum(room, 0)
    at = np.stack([axis - c for axis, c in zip(grid, centre, strict=True)], axis=-1)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    halves = diameter / 2 * (np.array([1.0, 0.75, 0.6]) if kind == "ellipsoid" else np.ones(3))
    own = at @ turn / halves
    truth = (np.abs(own).max(axis=-1) < 0.8) if kind == "box" else (np.square(own).sum(axis=-1) < 1)
    contrast = 90.0 * (1 if number % 2 else -1)
    array = np.full(shape, 60.0)
    if number % 3 == 1:
        inside = sum((axis / (0.49 * n * step)) ** 2 for axis, n, step in zip(grid, shape, spacing, strict=True)) < 1
        array[~(inside | truth)] = -1000.0
    array[truth] += contrast
    array += rng.normal(0, 6, shape)
    away = np.zeros(3)
    if is_off:
        away = 0.5 * halves * (turn @ np.array([0.6, 0.5, 0.4]))
    wanted = at - away
    click = np.unravel_index(np.where(truth, np.square(wanted).sum(axis=-1), np.inf).argmin(), shape)
    name = f"{number:02} {kind} {diameter:g} mm, voxels {'x'.join(f'{step:.3g}' for step in spacing)}"
    return _oriented(name + (", off the middle" if is_off else ""), array, truth, spacing, click, number)


def _oriented(
    name: str,
    array: NDArray[np.float64],
    truth: NDArray[np.bool_],
    spacing: tuple[float, ...],
    click: tuple[np.intp, ...],
    number: int,
) -> Easy:
    """The array laid along one of six orientations."""
    code = ORIENTATIONS[number % len(ORIENTATIONS)]
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, letter in enumerate(code):
        ras = next(n for n, pair in enumerate(("RL", "AP", "SI")) if letter in pair)
        affine[ras, axis] = spacing[axis] * (1 if letter in "RAS" else -1)
    volume = make_volume(np.rint(array).astype(np.int16), affine, name)
    i, j, k = (int(place) for place in click)
    return Easy(name, volume, truth, (i, j, k))


if __name__ == "__main__":
    main()
