"""Where the images of a series lie, by the little of their headers that an index keeps: whether some share a place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lib.images.dicom_slices import COSINE_TOLERANCE


@dataclass(frozen=True)
class Place:
    """The number of frames of an instance; position and orientation as DICOM has them, none where they are not said."""

    frames: int
    position: tuple[float, ...] = ()
    orientation: tuple[float, ...] = ()


def may_hold_phases(places: Sequence[Place]) -> bool:
    """Whether two of these lie at one place as slices of two phases do, or have frames that may."""
    heights = defaultdict(list)
    for each in places:
        if each.frames > 1:
            return True
        if len(each.position) == 3 and len(each.orientation) == 6:
            frame = np.array(each.orientation).reshape(2, 3)
            turn = tuple(np.rint(frame / (10 * COSINE_TOLERANCE)).ravel().tolist())
            heights[turn].append(float(np.cross(frame[0], frame[1]) @ np.array(each.position)))
    return any(np.diff(np.sort(each)).min(initial=np.inf) < COSINE_TOLERANCE for each in heights.values())
