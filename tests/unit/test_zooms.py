"""The zoom whose answer the others agree with: by balls seen from near and far."""

import numpy as np
import pytest

from lib.interactive.zooms import agreement_of, most_agreed

SIZE = 32


def ball(radius_mm, spacing_mm, off_mm=(0.0, 0.0, 0.0)):
    """Margins (P, P, P) of a ball about the middle sample, moved by `off_mm`; the slope is 1 per mm."""
    where = (np.indices((SIZE,) * 3) - SIZE // 2) * spacing_mm - np.reshape(off_mm, (3, 1, 1, 1))
    return (radius_mm - np.linalg.norm(where, axis=0)).astype(np.float32)


def test_one_object_at_two_zooms_agrees_and_other_objects_do_not():
    assert agreement_of(ball(10, 1.0), ball(10, 2.0), 2.0) > 0.95
    assert agreement_of(ball(10, 1.0, (3, -2, 1)), ball(10, 4.0, (3, -2, 1)), 4.0) > 0.9
    # Of balls of 5 and 10 mm the smaller one fills an eighth: 2 * 1 / (1 + 8).
    assert agreement_of(ball(5, 1.0), ball(10, 2.0), 2.0) == pytest.approx(2 / 9, abs=0.03)
    assert agreement_of(ball(4, 1.0, (8, 0, 0)), ball(4, 2.0, (-8, 0, 0)), 2.0) == 0
    assert agreement_of(ball(-1, 1.0), ball(-1, 2.0), 2.0) == 0


def test_what_lies_beyond_the_fine_patch_is_not_agreed_on():
    # 32 mm a side against a ball of 30 mm, which holds the whole cube but for its corners.
    assert agreement_of(ball(30, 1.0), ball(30, 2.0), 2.0) < 0.5


@pytest.mark.parametrize(
    ("radii_mm", "agreed"),
    [
        ((6, 6, 30), [0, 1]),  # from far away it leaks: near and middle agree
        ((3, 25, 25), [1, 2]),  # from near it stays in the middle of something large
        ((4, 9, 16), [1]),  # each sees something else: the one between agrees most
        ((6, -1, -1), [0]),  # seen from near only
        ((-1, -1, 30), [2]),  # seen from far away only
        ((-1, -1, -1), [0, 1, 2]),  # not seen at all
    ],
)
def test_the_zooms_that_others_agree_with_are_chosen(monkeypatch, radii_mm, agreed):
    monkeypatch.setattr("lib.interactive.zooms.NEARLY", 0.1)  # balls of voxels differ a little from zoom to zoom
    spacings_mm = (1.0, 2.0, 4.0)
    margins = [ball(radius, spacing) for radius, spacing in zip(radii_mm, spacings_mm, strict=True)]
    assert most_agreed(margins, spacings_mm) == agreed


def test_two_zooms_agree_with_each_other_equally():
    assert most_agreed([ball(4, 1.0), ball(20, 2.0)], (1.0, 2.0)) == [0, 1]
    assert most_agreed([ball(4, 1.0)], (1.0,)) == [0]
