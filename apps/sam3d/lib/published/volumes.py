"""Volumes as the published code reads them: array axes in a fixed order, resampled to one millimetre by scale factors.

Sample i of an axis lies at (i + 0.5) / s - 0.5 voxels, with s the spacing over a millimetre; an axis of n voxels has
floor(n * s) samples. That is PyTorch's interpolation by scale factor, half-pixel.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lib.datasets.labelled_cases import read_pair
from lib.errors import VolumeError
from lib.geometry import canonical_axes
from lib.images.preprocess import intensity_of
from lib.images.volumes import Volume, file_stamp, make_volume
from lib.learning.case_cache import FORMAT, CaseCache, PreparedCase, Region
from lib.learning.cases import Case
from lib.settings import Intensity

Axes = tuple[int, int, int]
TARGET = "target"


@dataclass(frozen=True)
class Reading:
    """How an array (I, J, K) becomes (d, h, w): its axes in that order, and which of d, h and w are then reversed."""

    axes: Axes
    reversed_axes: tuple[int, ...] = ()

    @classmethod
    def of(cls, volume: Volume, axes: Axes | None) -> Reading:
        """The named array axes as they are; with None those towards Superior, Anterior and Right."""
        if axes is not None:
            return cls(axes)
        nearest, signs = canonical_axes(volume.affine)
        return cls(nearest, tuple(axis for axis, sign in enumerate(signs) if sign < 0))

    def turned(self, array: NDArray[Any]) -> NDArray[Any]:
        """(I, J, K) to (D, H, W), a view."""
        return np.flip(array.transpose(self.axes), self.reversed_axes)

    def back(self, array: NDArray[Any]) -> NDArray[Any]:
        """(D, H, W) to (I, J, K), a view."""
        return np.flip(array, self.reversed_axes).transpose(np.argsort(self.axes))

    def spacing(self, volume: Volume) -> NDArray[np.float64]:
        """Millimetres from sample to sample along d, h and w, (3,)."""
        return volume.spacing[list(self.axes)]


def resampled(array: NDArray[Any], spacing: Sequence[float] | NDArray[np.float64], spacing_mm: float) -> Tensor:
    """(D, H, W) with voxels of `spacing` mm as float32 samples `spacing_mm` apart, trilinear.

    Raises VolumeError where an axis is thinner than that.
    """
    scales = [float(np.float32(length)) / spacing_mm for length in spacing]
    shape = [int(np.floor(n * scale)) for n, scale in zip(array.shape, scales, strict=True)]
    if min(shape) < 1:
        raise VolumeError(f"a volume of {array.shape} voxels is thinner than {spacing_mm:g} mm: it has no sample")
    values = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))[None, None]
    found: Tensor = F.interpolate(values, scale_factor=scales, mode="trilinear", align_corners=False)
    return found[0, 0]


def overlap(start: NDArray[np.int64], size: int, shape: Sequence[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The part of a patch of `size`^3 from `start` (3,) that lies in a volume, as indices of the patch and of that."""
    low = np.maximum(start, 0)
    high = np.minimum(start + size, np.asarray(shape))
    inside = tuple(slice(int(a), int(b)) for a, b in zip(low - start, high - start, strict=True))
    return inside, tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))


def cut(array: NDArray[np.float32], start: NDArray[np.int64], size: int) -> NDArray[np.float32]:
    """A patch (P, P, P) of an array (D, H, W), 0 beyond it; some of the patch must lie inside."""
    inside, place = overlap(start, size, array.shape)
    patch = np.zeros((size,) * 3, np.float32)
    patch[inside] = array[place]
    return patch


class ResampledCases:
    """Training cases on the published grid, image clipped and target cut at one half, kept on disk.

    A prepared case's volume is (D, H, W), one sample to a voxel; its one region is the target.
    """

    def __init__(
        self, cases: Mapping[str, Case], target: int, axes: Axes | None, intensity: Intensity, spacing_mm: float
    ) -> None:
        self._cases, self._target, self._axes = cases, target, axes
        self._intensity, self._spacing_mm = intensity, spacing_mm

    def open(self, name: str, cache: CaseCache) -> PreparedCase:
        return cache.get(self._key(self._cases[name]), lambda: self._prepared(self._cases[name]))

    def _prepared(self, case: Case) -> PreparedCase:
        volume, label_map = read_pair(case.image, case.label)
        reading = Reading.of(volume, self._axes)
        intensity = intensity_of(volume, self._intensity)
        spacing = reading.spacing(volume)
        image = resampled(reading.turned(volume.array), spacing, self._spacing_mm).clamp(intensity.low, intensity.high)
        target = resampled(reading.turned(label_map == self._target), spacing, self._spacing_mm) > 0.5
        if not target.any():
            raise VolumeError(f"{case.label.name}: the target is thinner than {self._spacing_mm:g} mm; leave it out")
        placed = make_volume(image.numpy(), np.diag([*[self._spacing_mm] * 3, 1.0]), case.id)
        return PreparedCase(placed, intensity, {TARGET: Region.around(target.numpy())})

    def _key(self, case: Case) -> str:
        parts = [FORMAT, "published", file_stamp(case.image), file_stamp(case.label), self._target, self._axes]
        content = json.dumps([*parts, self._spacing_mm, asdict(self._intensity)], default=str)
        return sha256(content.encode(errors="surrogatepass")).hexdigest()[:32]
