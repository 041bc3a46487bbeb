"""Masks that overlap, for formats that have one label for a voxel: layers, none of which overlaps in itself."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray


def layers_of(masks: Mapping[str, NDArray[np.bool_]]) -> list[list[str]]:
    """The names in as few groups as are free of overlaps, first come first served."""
    layers: list[tuple[list[str], NDArray[np.bool_]]] = []
    for name, mask in masks.items():
        for names, taken in layers:
            if not (taken & mask).any():
                names.append(name)
                taken |= mask
                break
        else:
            layers.append(([name], mask.copy()))
    return [names for names, _ in layers]
