"""Whatever a network answers, the clicks hold, and a correction stays where it belongs."""

import numpy as np
import pytest
from scipy import ndimage

from lib.boxes import CONNECTED_26
from lib.interactive.contract import honour_clicks

NONE = np.empty((0, 3), dtype=np.int64)


def at(*voxels):
    return np.array(voxels, dtype=np.int64).reshape(-1, 3)


def flat(shape):
    """An image without any edge."""
    return np.zeros(shape, dtype=np.int16)


def random_case(rng):
    """A label map of 0 to 3, an image and clicks that know nothing of each other, on a grid of any shape."""
    shape = tuple(int(size) for size in rng.integers(1, 14, 3))
    label_map = rng.integers(0, 4, shape).astype(np.uint8)
    if rng.random() < 0.7:
        coarse = rng.integers(0, 3, tuple(-(-size // 4) for size in shape))
        label_map = np.kron(coarse, np.ones((4, 4, 4)))[tuple(map(slice, shape))].astype(np.uint8)
    array = (rng.normal(size=shape) * 100 * rng.integers(0, 2)).astype(np.int16)
    most = int(rng.choice([2, 4, 10]))
    clicks = {value: rng.integers(0, shape, (int(rng.integers(0, most)), 3)) for value in (1, 2, 3)}
    background = rng.integers(0, shape, (int(rng.integers(0, most)), 3))
    spacing = rng.choice([0.5, 0.8, 1.0, 3.0, 8.0], 3)
    return label_map, clicks, background, array, spacing, float(rng.choice([1.0, 3.0, 6.0]))


def wanted_values(clicks, background):
    """The contract, said once more: background beats a label, and two labels make background."""
    wanted = {}
    for value, points in clicks.items():
        for voxel in map(tuple, points.tolist()):
            wanted.setdefault(voxel, set()).add(value)
    for voxel in map(tuple, background.tolist()):
        wanted.setdefault(voxel, set()).add(0)
    return {voxel: values.pop() if len(values) == 1 else 0 for voxel, values in wanted.items()}


def touches_its_like(label_map, voxel):
    """Whether a voxel has one of its 26 neighbours of the same value."""
    around = tuple(slice(max(index - 1, 0), index + 2) for index in voxel)
    return np.count_nonzero(label_map[around] == label_map[voxel]) > 1


def test_contract_holds_for_any_map_and_clicks():
    rng = np.random.default_rng(20)
    held = lone = 0
    for _ in range(600):
        label_map, clicks, background, array, spacing, radius_mm = random_case(rng)
        before = label_map.copy()
        corrected, count = honour_clicks(label_map, clicks, background, array, spacing, radius_mm)
        wanted = wanted_values(clicks, background)
        assert all(corrected[voxel] == value for voxel, value in wanted.items())
        assert corrected.dtype == np.uint8
        assert np.array_equal(label_map, before)  # the caller's map is left alone
        wrong = [voxel for voxel, value in wanted.items() if before[voxel] != value]
        assert count == len(wrong)
        assert (corrected is label_map) == (not wrong)
        check_changes_belong_to_wrong_clicks(
            before, corrected, {voxel: wanted[voxel] for voxel in wrong}, spacing, radius_mm
        )
        if len(wanted) == len(wrong) == 1 and before.size > 1:
            lone += not touches_its_like(corrected, next(iter(wanted)))
        held += 1
    print(f"click contract: {held} random maps, all clicks held; lone voxels: {lone}")
    assert lone == 0


def check_changes_belong_to_wrong_clicks(before, corrected, wrong, spacing, radius_mm):
    """Every changed voxel has the value of a wrong click that is within the radius, or is its direct neighbour."""
    for value in set(corrected[before != corrected].tolist()):
        changed = np.argwhere((before != corrected) & (corrected == value))
        steps = changed[:, None] - at(*[click for click, own in wrong.items() if own == value])
        is_near = np.linalg.norm(steps * spacing, axis=2) <= radius_mm + 1e-9
        assert (is_near | (np.abs(steps).sum(axis=2) == 1)).any(axis=1).all()


def test_same_clicks_same_map():
    rng = np.random.default_rng(3)
    for _ in range(50):
        case = random_case(rng)
        assert np.array_equal(honour_clicks(*case)[0], honour_clicks(*case)[0])


def test_adding_a_click_keeps_the_earlier_ones():
    rng = np.random.default_rng(4)
    for _ in range(100):
        label_map, clicks, background, array, spacing, radius_mm = random_case(rng)
        earlier = wanted_values(clicks, background)
        more = {
            value: np.concatenate([points, rng.integers(0, array.shape, (1, 3))]) for value, points in clicks.items()
        }
        added = {tuple(points[-1].tolist()) for points in more.values()}
        after, _ = honour_clicks(label_map, more, background, array, spacing, radius_mm)
        assert all(after[voxel] == value for voxel, value in earlier.items() if voxel not in added)


def test_a_map_that_agrees_is_returned_as_it_is():
    label_map = np.zeros((5, 5, 5), dtype=np.uint8)
    label_map[2:] = 1
    same, count = honour_clicks(label_map, {1: at((3, 3, 3))}, at((0, 0, 0)), flat((5, 5, 5)), (1, 1, 1), 6.0)
    assert same is label_map
    assert count == 0
    assert honour_clicks(label_map, {}, NONE, flat((5, 5, 5)), (1, 1, 1), 6.0)[0] is label_map


def test_a_missed_click_grows_a_disc_on_a_single_slice():
    corrected, count = honour_clicks(
        np.zeros((7, 7, 1), dtype=np.uint8), {2: at((3, 3, 0))}, NONE, flat((7, 7, 1)), (1, 1, 5), 2.0
    )
    assert count == 1
    assert corrected[..., 0].tolist() == [
        [0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 2, 0, 0, 0],
        [0, 0, 2, 2, 2, 0, 0],
        [0, 2, 2, 2, 2, 2, 0],
        [0, 0, 2, 2, 2, 0, 0],
        [0, 0, 0, 2, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0],
    ]


def test_the_border_between_two_clicks_is_halfway():
    # Voxel 4 is as near to either: it stays what it was, or becomes background if that was asked.
    line = np.full((9, 1, 1), 3, dtype=np.uint8)
    between, _ = honour_clicks(line, {1: at((2, 0, 0)), 2: at((6, 0, 0))}, NONE, flat((9, 1, 1)), (1, 1, 1), 9.0)
    assert between.ravel().tolist() == [1, 1, 1, 1, 3, 2, 2, 2, 2]
    against, _ = honour_clicks(line, {1: at((2, 0, 0))}, at((6, 0, 0)), flat((9, 1, 1)), (1, 1, 1), 9.0)
    assert against.ravel().tolist() == [1, 1, 1, 1, 0, 0, 0, 0, 0]


def test_a_click_that_agrees_guards_its_side():
    line = np.ones((9, 1, 1), dtype=np.uint8)
    guarded, count = honour_clicks(line, {1: at((2, 0, 0))}, at((4, 0, 0)), flat((9, 1, 1)), (1, 1, 1), 3.0)
    assert count == 1
    assert guarded.ravel().tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 1]


def test_a_correction_stops_at_an_edge_of_the_image():
    array = np.random.default_rng(0).normal(0, 5, (30, 30, 30))
    array[:, 15:] += 100
    corrected, _ = honour_clicks(
        np.zeros(array.shape, dtype=np.uint8), {1: at((15, 12, 15))}, NONE, array, (1.0, 1.0, 1.0), 6.0
    )
    inside, beyond = np.count_nonzero(corrected[:, :15]), np.count_nonzero(corrected[:, 15:])
    assert inside > 60
    assert beyond < inside / 20


def test_a_correction_is_one_connected_piece():
    for seed in range(60):  # of these, 43 would be in two pieces if the parts that lost their path were kept
        rng = np.random.default_rng(seed)
        shape = (15, 15, 1) if seed % 2 else (15, 15, 15)
        voxels = rng.integers(0, shape, (int(rng.integers(3, 30)), 3))
        array = ndimage.gaussian_filter(rng.normal(size=shape), float(rng.choice([0.1, 1])))
        corrected, _ = honour_clicks(
            np.zeros(shape, dtype=np.uint8), {1: voxels[:1]}, voxels[1:], array, (1, 1, 1), 6.0
        )
        if not (voxels[1:] == voxels[0]).all(axis=1).any():
            assert ndimage.label(corrected, structure=CONNECTED_26)[1] == 1
            assert np.count_nonzero(corrected) > 1


def test_background_wins_where_two_corrections_are_forced_to_meet():
    line = np.full((3, 1, 1), 3, dtype=np.uint8)
    corrected, count = honour_clicks(line, {1: at((0, 0, 0))}, at((2, 0, 0)), flat((3, 1, 1)), (10, 10, 10), 6.0)
    assert count == 2
    assert corrected.ravel().tolist() == [1, 0, 0]


def test_voxels_larger_than_the_radius_still_move_their_neighbours():
    corrected, _ = honour_clicks(
        np.ones((3, 3, 3), dtype=np.uint8), {}, at((1, 1, 1)), flat((3, 3, 3)), (10.0, 10.0, 10.0), 6.0
    )
    assert np.argwhere(corrected == 0).tolist() == [
        [0, 1, 1], [1, 0, 1], [1, 1, 0], [1, 1, 1], [1, 1, 2], [1, 2, 1], [2, 1, 1],
    ]  # fmt: skip


def test_a_click_hemmed_in_by_others_moves_alone():
    ring = [(0, 1, 0), (2, 1, 0), (1, 0, 0), (1, 2, 0)]
    corrected, count = honour_clicks(
        np.zeros((3, 3, 1), dtype=np.uint8), {1: at((1, 1, 0))}, at(*ring), flat((3, 3, 1)), (1, 1, 1), 6.0
    )
    assert count == 1
    assert np.argwhere(corrected).tolist() == [[1, 1, 0]]


def test_a_third_label_is_entered_less_far():
    line = np.zeros((21, 1, 1), dtype=np.uint8)
    line[12:] = 2
    corrected, _ = honour_clicks(line, {1: at((10, 0, 0))}, NONE, flat((21, 1, 1)), (1, 1, 1), 6.0)
    assert corrected.ravel().tolist() == [0] * 4 + [1] * 9 + [1] + [2] * 7


@pytest.mark.parametrize("spread", [4, 40])
def test_a_thousand_clicks(spread):
    rng = np.random.default_rng(spread)
    voxels = rng.integers(20, 20 + spread, (1000, 3))
    label_map = rng.integers(0, 3, (60, 60, 60)).astype(np.uint8)
    clicks, background = {1: voxels[:400], 2: voxels[400:700]}, voxels[700:]
    corrected, _ = honour_clicks(label_map, clicks, background, rng.normal(size=label_map.shape), (1, 1, 1), 3.0)
    assert all(corrected[voxel] == value for voxel, value in wanted_values(clicks, background).items())


def test_a_correction_changes_nothing_far_away():
    rng = np.random.default_rng(1)
    label_map = rng.integers(0, 2, (40, 12, 12)).astype(np.uint8)
    array = rng.normal(size=label_map.shape)
    near = {1: at((5, 5, 5), (6, 2, 8)), 2: at((8, 8, 3))}
    far = {**near, 2: at((8, 8, 3), (34, 6, 6))}
    alone, _ = honour_clicks(label_map, near, NONE, array, (1, 1, 1), 6.0)
    both, _ = honour_clicks(label_map, far, NONE, array, (1, 1, 1), 6.0)
    assert np.array_equal(alone[:20], both[:20])
    assert not np.array_equal(alone[20:], both[20:])
