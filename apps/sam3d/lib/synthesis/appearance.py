"""How structures look: tissue values, lesion looks, and what a scanner does to the picture.

All values are in the network's normalised units. For CT that is (HU - mean) / std of the `ct` preset, so
that HU follow by undoing it; for MR it is the unit in which a volume's tissues have about unit deviation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lib.settings import PRESETS
from lib.synthesis.grid import (
    Floats,
    Grid,
    apply_axes,
    gaussian_matrix,
    slices_matrices,
    smooth_field,
)

CT = PRESETS["ct"]
CT_LOW = (CT.low - CT.mean) / CT.std
CT_HIGH = (CT.high - CT.mean) / CT.std

# Mean and spread of a tissue's CT numbers in normalised units; what is absent is drawn afresh per structure.
CT_TISSUES = {
    "air": (-10.5, 0.05),
    "lung": (-8.8, 0.5),
    "fat": (-1.5, 0.15),
    "fluid": (-0.4, 0.12),
    "muscle": (0.05, 0.15),
    "brain_grey": (-0.1, 0.05),
    "brain_white": (-0.2, 0.05),
    "marrow": (1.0, 0.8),
    "cortical": (7.0, 2.5),
}


@dataclass(frozen=True)
class Palette:
    """The values one picture gives to its tissues."""

    family: str
    values: dict[str, float]
    low: float
    high: float

    @classmethod
    def draw(cls, rng: np.random.Generator, family: str, wildness: float = 0.0) -> Palette:
        """Tissue values of one picture; with probability `wildness` they follow no anatomy at all."""
        if family == "mr":
            return cls._draw_mr(rng)
        values = {name: float(rng.normal(*span)) for name, span in CT_TISSUES.items()}
        is_enhanced = rng.random() < 0.6
        values["vessel"] = float(rng.uniform(0.5, 2.3) if is_enhanced else rng.normal(-0.1, 0.1))
        values["shift"] = 0.5 if is_enhanced else 0.0
        if rng.random() < wildness:
            values |= {name: float(rng.uniform(-1.9, 2.3)) for name in values if name not in ("air", "lung")}
        return cls("ct", values, CT_LOW, CT_HIGH)

    @classmethod
    def _draw_mr(cls, rng: np.random.Generator) -> Palette:
        air = float(rng.uniform(-2.4, -1.1))
        values = {name: air + float(rng.gamma(2.5, 0.7)) for name in CT_TISSUES}
        values |= {"air": air, "lung": air + float(rng.uniform(0, 0.3)), "shift": 0.0}
        values["cortical"] = air + float(rng.uniform(0, 0.5))
        values["fat"] = float(rng.uniform(0.3, 2.4)) if rng.random() < 0.6 else air + float(rng.uniform(0.1, 0.8))
        values["fluid"] = float(rng.uniform(1.0, 3.0)) if rng.random() < 0.5 else air + float(rng.uniform(0.2, 0.7))
        if rng.random() < 0.7:
            values["marrow"] = 0.8 * values["fat"] + 0.2 * values["marrow"]
        values["vessel"] = float(rng.uniform(air, 2.8))
        return cls("mr", values, air - 0.15, float(rng.uniform(2.2, 4.0)))

    def of(self, tissue: str, rng: np.random.Generator) -> float:
        """A named tissue's value, or for `organ` a fresh one."""
        if tissue in self.values:
            return self.values[tissue]
        if self.family == "mr":
            return max(self.low + 0.3, float(rng.normal(0.0, 0.8)))
        return float(rng.uniform(-0.15, 0.6)) + self.values["shift"] * float(rng.uniform(0.3, 1.2))

    def visible(self, value: float) -> float:
        return min(max(value, self.low), self.high)


@dataclass(frozen=True)
class Look:
    """What a lesion is filled with. Depths are shares of its radius; values are normalised units.

    Halo (a soft surround, such as oedema) and capsule (a thin plane between it and its host) lie outside of it;
    mottle is the value added in patches all through it.
    """

    value: float
    softness_mm: float
    texture: float
    texture_mm: float
    core_depth: float = 0.0
    core_value: float = 0.0
    rim_depth: float = 0.0
    rim_value: float = 0.0
    halo_mm: float = 0.0
    halo_value: float = 0.0
    capsule_mm: float = 0.0
    capsule_value: float = 0.0
    mottle: float = 0.0

    @classmethod
    def draw(cls, rng: np.random.Generator, host: float, contrast: float, palette: Palette, radius_mm: float) -> Look:
        """A look that differs from `host` by `contrast` (turned round where that would be clipped away)."""
        host = palette.visible(host)
        if not palette.low + 0.1 < host + contrast < palette.high - 0.1:
            contrast = -contrast
        value = palette.visible(host + contrast)
        parts: dict[str, float] = {}
        kind = rng.random()
        if kind < 0.2 and radius_mm > 5:
            parts |= {"core_depth": rng.uniform(0.25, 0.6), "core_value": _other(rng, value, contrast, palette)}
        if kind > 0.85 or (kind < 0.08 and radius_mm > 5):
            parts |= {
                "rim_depth": rng.uniform(0.1, 0.3),
                "rim_value": value + rng.choice([-1, 1]) * rng.uniform(0.3, 1.2),
            }
        if rng.random() < 0.25:
            edge = palette.values["fat"] if rng.random() < 0.6 else value + rng.choice([-1, 1]) * rng.uniform(0.3, 1.5)
            parts |= {"capsule_mm": rng.uniform(0.5, 2.0), "capsule_value": palette.visible(edge)}
        elif rng.random() < 0.1:
            parts |= {"halo_mm": rng.uniform(2.0, 6.0), "halo_value": host + 0.4 * contrast * rng.uniform(0.3, 1.0)}
        if rng.random() < 0.2 and radius_mm > 5:
            parts["mottle"] = rng.choice([-1, 1]) * rng.uniform(0.2, 1.2)
        is_textured = rng.random() < (0.9 if abs(contrast) < 0.25 else 0.5)
        return cls(
            value=value,
            softness_mm=float(rng.uniform(0.6, 1.5) if rng.random() < 0.75 else rng.uniform(1.5, 4.0)),
            texture=float(rng.uniform(0.05, 0.45)) if is_textured else 0.03,
            texture_mm=float(np.exp(rng.uniform(np.log(1.8), np.log(max(3.0, radius_mm))))),
            **{name: float(amount) for name, amount in parts.items()},
        )


def _other(rng: np.random.Generator, value: float, contrast: float, palette: Palette) -> float:
    """A core's value: mostly fluid-like, now and then calcified or bled into."""
    if rng.random() < 0.6:
        return 0.5 * (value + palette.visible(palette.values["fluid"]))
    return palette.visible(value + float(rng.uniform(-1.2, 1.2)) + 0.3 * contrast)


@dataclass(frozen=True)
class Scanner:
    """What acquisition does: blur and slice thickness in voxels per axis, noise, and family-specific faults."""

    blur: tuple[float, float, float]
    noise: float
    grain: float
    thick_axis: int = 0
    thickness: float = 1.0
    streaks: float = 0.0
    bias: float = 0.0

    @classmethod
    def draw(cls, rng: np.random.Generator, family: str) -> Scanner:
        in_plane = rng.uniform(0.35, 0.9) if rng.random() < 0.8 else rng.uniform(0.9, 1.7)
        first, second, third = (float(in_plane * rng.uniform(0.85, 1.2)) for _ in range(3))
        is_thick = rng.random() < 0.4
        return cls(
            blur=(first, second, third),
            noise=float(np.exp(rng.uniform(np.log(0.015), np.log(0.35)))),
            grain=float(rng.uniform(0.3, 1.3)),
            thick_axis=int(rng.choice(3, p=[0.7, 0.15, 0.15])),
            thickness=float(rng.uniform(2.0, 6.0)) if is_thick else 1.0,
            streaks=float(rng.uniform(0.02, 0.15)) if family == "ct" and rng.random() < 0.08 else 0.0,
            bias=float(rng.uniform(0.03, 0.2)) if family == "mr" else 0.0,
        )

    def acquire(self, picture: Floats, grid: Grid, air: float, rng: np.random.Generator) -> Floats:
        """The picture as this scanner would show it on the same grid; not yet clipped."""
        if self.bias:
            field = smooth_field(rng, grid, float(rng.uniform(50, 120)))
            picture = (picture - air) * np.exp(np.float32(self.bias) * field) + np.float32(air)
        shape = picture.shape
        point_spread = [gaussian_matrix(n, sigma) for n, sigma in zip(shape, self.blur, strict=True)]
        grains = [
            gaussian_matrix(n, self.grain * sigma / max(self.blur)) for n, sigma in zip(shape, self.blur, strict=True)
        ]
        if self.thickness > 1.0:
            start = float(rng.uniform(0, self.thickness))
            average, interpolate = slices_matrices(shape[self.thick_axis], self.thickness, start)
            point_spread[self.thick_axis] = interpolate @ average
            # Each slice has its own noise; between slices it is interpolated like the picture is.
            nearest = (average == average.max(1, keepdims=True)).astype(np.float32)
            grains[self.thick_axis] = interpolate @ (nearest / nearest.sum(1, keepdims=True))
        gain = float(np.prod([np.sqrt((matrix**2).sum(1).mean()) for matrix in grains]))
        noise = apply_axes(rng.standard_normal(shape, np.float32), (grains[0], grains[1], grains[2]))
        out = apply_axes(picture, (point_spread[0], point_spread[1], point_spread[2]))
        out += np.float32(self.noise / gain) * noise
        if self.streaks:
            out += np.float32(self.streaks) * _streaks(rng, grid)[None]
        return out


def _streaks(rng: np.random.Generator, grid: Grid) -> Floats:
    """Rays of light and dark in the plane of the last two axes, from a point in or near it."""
    centre = [rng.uniform(axis[0] * 1.2, axis[-1] * 1.2) for axis in grid.axes[1:]]
    rows, columns = grid.axes[1][:, None] - centre[0], grid.axes[2][None, :] - centre[1]
    table = np.convolve(rng.standard_normal(180), [0.25, 0.5, 0.25], mode="same")
    angle = (np.arctan2(rows, columns) + np.pi) / (2 * np.pi) * 179
    rays = np.interp(angle.ravel(), np.arange(180), table).reshape(angle.shape)
    return np.asarray(rays / (0.5 + np.hypot(rows, columns) / 40.0), np.float32)
