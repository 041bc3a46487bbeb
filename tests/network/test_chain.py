"""One click down a chain of patches, and corrections: what holds for any network that reads the mask so far."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from lib.geometry import PatchGrid
from lib.images.volumes import make_volume
from lib.interactive.answers import Answer
from lib.interactive.patches import spacings
from lib.interactive.predictor import Predictor
from lib.interactive.priors import OUTSIDE, Layer, composed, rim_weights
from lib.interactive.prompts import drawn_on, prompts_from_request
from lib.network.sam3d import Embedding
from lib.settings import ClickSettings, Settings
from network.small_networks import SMALL, card_of

LABELS = ("lesion", "organ")


class Bright(nn.Module):
    """Stands in for a network: the object is what is brighter than the mean, as sharp as its patch shows it. `asked`
    keeps the mask so far and the clicks of each question."""

    def __init__(self) -> None:
        super().__init__()
        self.settings = SMALL
        self.asked: list[tuple[np.ndarray, list, list]] = []

    def encode(self, patch):
        return Embedding(feature=patch, fusion=patch[:0], image=patch[:0])

    def decode(self, embedding, point_coords, point_labels, prior=None):
        self.asked.append((prior[0, 0].numpy(), point_coords[0].tolist(), point_labels[0].tolist()))
        return torch.cat([torch.zeros_like(embedding.feature), 4 * embedding.feature], dim=1)


class Stubborn(Bright):
    """Answers a first click with a ball of 6 samples about it, and any later one with everything."""

    def decode(self, embedding, point_coords, point_labels, prior=None):
        super().decode(embedding, point_coords, point_labels, prior)
        d, h, w = torch.meshgrid(*[torch.arange(32.0)] * 3, indexing="ij")
        distance = (torch.stack([d, h, w], dim=-1) - point_coords[0, 0]).norm(dim=-1)
        margin = 6 - distance if point_coords.shape[1] == 1 else torch.full_like(distance, 5.0)
        return torch.stack([torch.zeros_like(margin), margin])[None]


def predictor_of(network, **values):
    settings = Settings(labels=LABELS, clicks=ClickSettings(**values))
    return Predictor(network, card_of(has_background_clicks=True), settings, torch.device("cpu"))


def ask(predictor, volume, **clicks):
    return predictor.segment(volume, prompts_from_request(clicks, LABELS, volume.shape))


def ellipsoid(shape, spacing, radii_mm, centre=(0, 0, 0)):
    """Bright in the dark; the volume and where it is."""
    axes = np.meshgrid(*[(np.arange(n) - n // 2) * mm for n, mm in zip(shape, spacing, strict=True)], indexing="ij")
    mask = sum(((axis - at) / r) ** 2 for axis, at, r in zip(axes, centre, radii_mm, strict=True)) < 1
    array = np.where(mask, 200, -100).astype(np.int16)
    array[0, 0, 0] = -1000
    return make_volume(array, np.diag([*spacing, 1.0])), mask


def dice(one, other):
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


@pytest.mark.parametrize(
    ("shape", "spacing", "expected"),
    [
        ((64, 64, 64), (1.0, 1.0, 1.0), [2.0, 1.0]),
        ((64, 64, 64), (0.02, 0.02, 0.02), [0.04, 0.02]),  # micro-CT is no different
        ((512, 512, 100), (0.8, 0.8, 5.0), [16.0, 8.0, 4.0, 2.0, 1.0]),  # no wider than 512 mm, which 500 mm are not
        ((2000, 64, 64), (1.0, 1.0, 1.0), [16.0, 8.0, 4.0, 2.0, 1.0]),
        ((8, 8, 8), (1.0, 1.0, 3.0), [1.0]),
    ],
)
def test_a_chain_goes_from_the_whole_volume_to_its_finest_voxels(shape, spacing, expected):
    volume = make_volume(np.zeros(shape, np.int8), np.diag([*spacing, 1.0]))
    found = spacings(volume, card_of())
    if shape[0] == 512:
        expected = [500 / 32 / 2**level for level in range(5)]
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("spacing", [0.02, 1.0, 4.0])
@pytest.mark.parametrize("radius", [3, 8, 20, 45])
def test_one_click_finds_objects_of_any_size_at_any_scale(spacing, radius):
    volume, mask = ellipsoid((96, 96, 96), (spacing,) * 3, np.full(3, radius * spacing))
    answer = ask(predictor_of(Bright()), volume, lesion=[[48, 48, 48]])
    assert dice(answer.label_map == 1, mask) > 0.9


def test_each_patch_starts_from_what_the_coarser_one_said():
    network = Bright()
    volume, mask = ellipsoid((64, 64, 64), (1, 1, 1), (10, 8, 12))
    ask(predictor_of(network), volume, lesion=[[32, 32, 32]])
    (first, coords, labels), (second, *_) = network.asked
    assert not first.any()  # nothing is known
    assert (coords, labels) == ([[16, 16, 16]], [1])
    # The second patch's prior is the first one's answer: the object, where it is.
    grid = PatchGrid.around(volume.affine, (32, 32, 32), 32, 1.0)
    truth = grid.sample(mask, 0.0) > 0.5
    assert dice(second > 0, truth) > 0.85
    assert -1 <= second.min() < -0.9 < 0.9 < second.max() <= 1


def test_what_a_finer_patch_does_not_cover_stands_and_no_straight_border_shows():
    """An object of 80 voxels in a finest patch of 32: the coarse patch's answer goes on beyond it."""
    volume, mask = ellipsoid((100, 100, 100), (1, 1, 1), (40, 40, 40), centre=(0, 0, 20))
    found = ask(predictor_of(Bright()), volume, lesion=[[50, 50, 88]]).label_map == 1
    assert dice(found, mask) > 0.93
    face = 50 + 15.5  # of the finest patch, along i
    border = found & ~np.roll(found, -1, axis=0)
    at_face = np.count_nonzero(border[int(face) - 1 : int(face) + 2])
    truth = mask & ~np.roll(mask, -1, axis=0)
    assert at_face < 1.5 * np.count_nonzero(truth[int(face) - 1 : int(face) + 2])


def test_an_object_clicked_near_one_end_is_found_to_the_other():
    volume, mask = ellipsoid((150, 80, 80), (2, 2, 2), (135, 60, 60))
    found = ask(predictor_of(Bright()), volume, lesion=[[14, 40, 40]]).label_map == 1
    assert found[138, 40, 40]  # 248 mm away, where a patch as wide as the volume ends after 150
    assert dice(found, mask) > 0.93


def test_inside_of_a_giant_nothing_finer_is_asked():
    network = Bright()
    volume, _ = ellipsoid((200, 200, 200), (1, 1, 1), (95, 95, 95))
    answer = ask(predictor_of(network), volume, lesion=[[100, 100, 100]])
    assert answer.report.n_patches == len(network.asked) < len(spacings(volume, card_of()))


def test_a_small_object_is_looked_at_from_nearer_than_its_voxels():
    network = Bright()
    volume, _ = ellipsoid((64, 64, 64), (1, 1, 1), (3, 3, 3))
    assert ask(predictor_of(network), volume, lesion=[[32, 32, 32]]).report.n_patches == 4  # 2, 1, 0.5 and 0.25 mm
    large, _ = ellipsoid((64, 64, 64), (1, 1, 1), (14, 14, 14))
    assert ask(predictor_of(network), large, lesion=[[32, 32, 32]]).report.n_patches == 2


def test_a_correction_counts_near_its_click_as_far_as_the_error_is_deep():
    volume = make_volume(np.full((64, 64, 64), -200, np.int16), np.eye(4))
    network = Stubborn()
    predictor = predictor_of(network)
    one = ask(predictor, volume, lesion=[[32, 32, 32]]).label_map
    edge = int(np.flatnonzero(one[:, 32, 32])[-1])
    two = ask(predictor, volume, lesion=[[32, 32, 32], [edge + 3, 32, 32]]).label_map
    assert two[edge + 1 : edge + 5, 32, 32].all()
    distance = np.linalg.norm(np.argwhere(two != one) - [edge + 3, 32, 32], axis=1)
    assert 4 < distance.max() <= 1.6 * 3 * 3 + 1
    # Its patch saw the mask so far and both clicks.
    prior, coords, _ = network.asked[-1]
    assert len(coords) == 2
    assert (prior > 0).any()
    assert (prior < 0).any()


def test_a_click_far_from_all_that_was_found_begins_a_part_of_its_own():
    """As on another of many lesions with one label: what is about it alone is looked at, and the others stay."""
    volume = make_volume(np.full((128, 64, 64), -200, np.int16), np.eye(4))
    one, other = ([[at, 32, 32]] for at in (20, 100))
    found = ask(predictor_of(Stubborn()), volume, lesion=one + other).label_map
    alone = [ask(predictor_of(Stubborn()), volume, lesion=click).label_map for click in (one, other)]
    assert np.array_equal(found, np.maximum(*alone))
    assert found[20, 32, 32] == found[100, 32, 32] == 1
    assert not found[60].any()


def test_a_click_on_what_is_right_already_asks_nothing():
    network = Stubborn()
    predictor = predictor_of(network)
    volume = make_volume(np.full((64, 64, 64), -200, np.int16), np.eye(4))
    one = ask(predictor, volume, lesion=[[32, 32, 32]])
    count = len(network.asked)
    more = ask(predictor, volume, lesion=[[32, 32, 32], [33, 32, 32]], background=[[5, 5, 5]])
    assert len(network.asked) == count
    assert np.array_equal(more.label_map, one.label_map)


def test_one_more_click_is_one_more_patch():
    predictor = predictor_of(Stubborn())
    volume = make_volume(np.full((64, 64, 64), -200, np.int16), np.eye(4))
    clicks = [[32, 32, 32], [35, 32, 32], [32, 24, 32]]
    asked = [ask(predictor, volume, lesion=clicks[:count]).report.n_decoded for count in (1, 2, 3, 2)]
    assert asked[1:] == [1, 1, 0]
    fresh = ask(predictor_of(Stubborn()), volume, lesion=clicks)
    assert np.array_equal(fresh.label_map, ask(predictor, volume, lesion=clicks).label_map)


def test_a_thousand_clicks_are_answered():
    predictor = predictor_of(Stubborn(), max_clicks=1000)
    volume = make_volume(np.full((64, 64, 64), -200, np.int16), np.eye(4))
    voxels = np.random.default_rng(0).integers(0, 64, (900, 3)).tolist()
    found = ask(predictor, volume, lesion=[[32, 32, 32]], background=[v for v in voxels if v != [32, 32, 32]])
    assert found.label_map[32, 32, 32] == 1


def grid_of(spacing_mm, centre=(20.0, 20.0, 20.0)):
    return PatchGrid.around(np.eye(4), centre, 16, spacing_mm)


def test_finer_layers_replace_coarser_ones_and_give_way_at_their_rim():
    coarse = Layer(grid_of(2.0), np.full((16,) * 3, -3.0, np.float32), np.ones((16,) * 3, np.float32))
    fine = Layer(grid_of(1.0), np.full((16,) * 3, 5.0, np.float32), rim_weights(16))
    seen = composed([coarse, fine], grid_of(2.0))
    assert seen[8, 8, 8] == pytest.approx(5, abs=0.5)
    assert seen[0, 0, 0] == -3
    assert -3 < seen[5, 8, 8] < 5  # between them
    assert composed([fine], grid_of(1.0, (60.0, 20.0, 20.0))).max() == OUTSIDE


def test_an_answer_knows_how_deep_an_error_is():
    margin = np.full((20, 20, 20), OUTSIDE, np.float32)
    margin[5:15, 5:15, 5:15] = 4
    answer = Answer((slice(10, 30), slice(0, 20), slice(0, 20)), margin)
    spacing = np.array([1.0, 2.0, 3.0])
    depth = [answer.depth_mm(np.array(v), o, spacing) for v, o in [((12, 10, 10), True), ((20, 10, 10), False)]]
    assert depth == [3.0, 5.0]  # three voxels of 1 mm to the object; five to what is none of it
    assert answer.depth_mm(np.array((90, 10, 10)), True, spacing) == 66
    assert answer.depth_mm(np.array((90, 10, 10)), False, spacing) == 0
    empty = replace(answer, margin=np.full((20, 20, 20), OUTSIDE, np.float32))
    assert np.isinf(empty.depth_mm(np.array((12, 10, 10)), True, spacing))
    full = Answer((slice(0, 3),) * 3, np.full((3, 3, 3), 4, np.float32))
    assert full.depth_mm(np.array((1, 1, 1)), False, np.ones(3)) == 2  # beyond the box is background


def test_resampling_keeps_what_a_patch_says_where_it_says_it():
    """On a volume of oblique, anisotropic, flipped voxels: a field that is linear in space."""
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-0.8, 1.3, 3.0])
    fine = PatchGrid.around(affine, (11.0, 20.5, 7.0), 24, 1.1)
    coarse = PatchGrid.around(affine, (13.0, 18.0, 8.0), 16, 1.7)

    def field(grid):
        index = np.stack(np.meshgrid(*[np.arange(grid.size)] * 3, indexing="ij"), axis=-1)
        native = index @ grid.to_volume[:3, :3].T + grid.to_volume[:3, 3]
        return (native @ affine[:3, :3].T @ [0.3, -0.2, 0.5]).astype(np.float32)

    seen = fine.resample(field(fine), coarse, np.nan)
    inside = np.isfinite(seen)
    assert 0.2 < inside.mean() < 1
    native = np.stack(np.meshgrid(*[np.arange(16)] * 3, indexing="ij"), axis=-1)
    native = native @ coarse.to_volume[:3, :3].T + coarse.to_volume[:3, 3]
    at = fine.indices(native.reshape(-1, 3)).reshape(16, 16, 16, 3)
    # The widened kernel is cut at the patch's border, and its weights are uneven between samples.
    deep = ((at > 2) & (at < 21)).all(axis=-1)
    assert np.abs(seen - field(coarse))[deep].max() < 0.06  # a step is 0.3 to 0.9


def drawn(volume, clicks, masks=None, strokes=None):
    request = prompts_from_request(clicks, LABELS, volume.shape)
    return drawn_on(request, masks or {}, strokes or {})


def flat(shape=(64, 64, 64)):
    return make_volume(np.full(shape, -200, np.int16), np.eye(4))


def test_a_mask_so_far_is_carried_on_from_and_not_thrown_away():
    volume, network = flat(), Stubborn()
    predictor = predictor_of(network)
    mask = np.zeros(volume.shape, bool)
    mask[10:20, 10:40, 10:20] = True
    alone = predictor.segment(volume, drawn(volume, {}, {"lesion": mask}))
    assert np.array_equal(alone.label_map == 1, mask)
    assert network.asked == []  # nobody asked for anything else
    click = [22, 15, 15]
    more = predictor.segment(volume, drawn(volume, {"lesion": [click]}, {"lesion": mask}))
    assert more.label_map[tuple(click)] == 1
    assert np.array_equal((more.label_map == 1)[:, 32:], mask[:, 32:])  # what is far away stays as it was drawn
    (prior, _, labels), *_ = network.asked
    assert (prior > 0.9).any()
    assert labels == [1]
    # Another mask is another question.
    other = predictor.segment(volume, drawn(volume, {"lesion": [click]}, {"lesion": np.roll(mask, 3, axis=1)}))
    assert not np.array_equal(other.label_map, more.label_map)


def test_a_stroke_is_a_prompt_and_stays_as_it_was_painted():
    volume, network = flat(), Stubborn()
    predictor = predictor_of(network)
    first = predictor.segment(volume, drawn(volume, {"lesion": [[32, 32, 32]]})).label_map == 1
    edge = int(np.flatnonzero(first[:, 32, 32])[-1])
    stroke = np.zeros(volume.shape, np.int8)
    stroke[edge + 3 : edge + 6, 30:35, 32] = 1
    painted = predictor.segment(volume, drawn(volume, {"lesion": [[32, 32, 32]]}, strokes={"lesion": stroke}))
    found = painted.label_map == 1
    assert found[stroke == 1].all()
    assert np.count_nonzero(found & ~first) > 3 * np.count_nonzero(stroke)  # the network answered, too
    *_, labels = network.asked[-1]
    assert labels == [1, 1]  # the middle of the stroke, and the click
    erased = np.zeros(volume.shape, np.int8)
    erased[32, 32, 33] = -1
    taken = predictor.segment(volume, drawn(volume, {"lesion": [[32, 32, 32]]}, strokes={"lesion": erased})).label_map
    assert not taken[erased == -1].any()
    assert network.asked[-1][2] == [0, 1]


def test_a_stroke_alone_begins_a_mask_and_an_erasure_alone_none():
    volume = flat()
    predictor = predictor_of(Stubborn())
    stroke = np.zeros(volume.shape, np.int8)
    stroke[30:33, 30:33, 30] = 1
    begun = predictor.segment(volume, drawn(volume, {}, strokes={"organ": stroke})).label_map
    assert set(np.unique(begun)) == {0, 2}
    assert np.count_nonzero(begun) > 9
    assert not predictor.segment(volume, drawn(volume, {}, strokes={"organ": -stroke})).label_map.any()


def test_a_click_wins_over_what_was_drawn():
    volume = flat()
    mask = np.zeros(volume.shape, bool)
    mask[10:40, 10:40, 10:40] = True
    found = predictor_of(Stubborn()).segment(volume, drawn(volume, {"background": [[12, 12, 12]]}, {"lesion": mask}))
    assert found.label_map[12, 12, 12] == 0
    assert found.label_map[38, 38, 38] == 1
