"""The header of a NRRD file of bytes, on a grid that every reader puts at one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])


def nrrd_header(
    shape: Sequence[int], affine: NDArray[np.float64], encoding: str, keys: Mapping[str, str] | None = None
) -> bytes:
    """The header of an array (I, J, K), i fastest, with its affine to RAS mm, or of layers (L, I, J, K), l fastest; the
    voxels follow it. `keys` are further pairs of a reader's own, without a line break."""
    to_lps = RAS_TO_LPS @ affine[:3]
    is_layered = len(shape) > 3
    lines = [
        "NRRD0004",
        "type: unsigned char",
        f"dimension: {len(shape)}",
        "space: left-posterior-superior",
        f"sizes: {' '.join(str(size) for size in shape)}",
        f"space directions: {'none ' * is_layered}{' '.join(_vector(to_lps[:, axis]) for axis in range(3))}",
        f"kinds: {'list ' * is_layered}domain domain domain",
        f"encoding: {encoding}",
        f"space origin: {_vector(to_lps[:, 3])}",
        *(f"{key}:={value}" for key, value in (keys or {}).items()),
    ]
    return ("\n".join(lines) + "\n\n").encode()


def _vector(values: NDArray[np.float64]) -> str:
    return "(" + ",".join(repr(float(value) + 0.0) for value in values) + ")"
