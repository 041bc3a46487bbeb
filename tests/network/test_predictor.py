"""One request answered: what holds for any weights, and how patches, labels and clicks become one mask."""

import os
import sys
import tracemalloc
from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
import torch
from torch import nn

from lib.boxes import bounding_box
from lib.errors import SettingsError
from lib.geometry import PatchGrid, map_indices
from lib.images.volumes import make_volume
from lib.interactive import patch_network
from lib.interactive import predictor as predictor_module
from lib.interactive.many_clicks import LONGEST_CHAIN
from lib.interactive.predictor import Predictor
from lib.interactive.prompts import prompts_from_request
from lib.network.sam3d import Embedding
from lib.network.weights import load_weights
from lib.settings import ClickSettings, Settings
from lib.weights.checkpoints import PRETRAINED
from network.small_networks import PUBLISHED_SMALL, SMALL, card_of
from network.small_networks import small_network as network_of

LABELS = ("lesion", "organ", "vessel")
# A quarter of the small networks' work, for the tests that ask hundreds of times.
SMALLER = replace(PUBLISHED_SMALL, patch_size=16, window_size=2, sam_window_size=2)
SMALLER_CHAIN = replace(SMALL, patch_size=16, window_size=2, sam_window_size=2)
DEMO = PRETRAINED / "tiny.safetensors"
DEMO_REQUESTS = int(os.environ.get("SAM3D_DEMO_REQUESTS", "20"))


def small_network(seed=0, settings=PUBLISHED_SMALL):
    """Of one spacing, that grows over patches, unless told otherwise; test_chain.py has the other road."""
    return network_of(seed, settings)


def settings_with(max_patches=4, embedding_cache_mib=64, **values):
    return Settings(
        labels=LABELS, clicks=ClickSettings(max_patches=max_patches), embedding_cache_mib=embedding_cache_mib, **values
    )


def predictor_of(network, settings=None, **card):
    papers = card_of(network.settings, **{"has_background_clicks": True, **card})
    return Predictor(network, papers, settings or settings_with(), torch.device("cpu"))


def noisy(shape, spacing=(1.0, 1.0, 1.0), turn=None, seed=0):
    """A volume of smooth blobs in noise, around the window's middle, with air in it."""
    rng = np.random.default_rng(seed)
    coarse = np.kron(rng.normal(50, 150, [-(-n // 6) for n in shape]), np.ones((6, 6, 6)))
    array = coarse[tuple(slice(n) for n in shape)] + rng.normal(0, 20, shape)
    array[0, 0, 0] = -1000
    affine = np.diag([*spacing, 1.0])
    if turn is not None:
        affine[:3, :3] = turn @ affine[:3, :3]
    affine[:3, 3] = (-30, 12, 55)
    return make_volume(array.astype(np.int16), affine)


def oblique():
    return np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]


def volumes():
    return [
        noisy((30, 28, 26), seed=1),
        noisy((36, 30, 1), (0.8, 0.8, 5.0), seed=2),  # one slice
        noisy((20, 20, 20), seed=3),  # smaller than the patch
        noisy((40, 36, 9), (0.7, 0.7, 5.0), seed=4),
        noisy((24, 30, 20), (1.0, 1.3, 2.0), oblique(), seed=5),
        noisy((26, 22, 24), (-1.2, 1.2, -1.5), seed=6),
        noisy((3, 1, 2), seed=7),
    ]


def ask(predictor, volume, **clicks):
    roi = {"roi": clicks.pop("roi")} if "roi" in clicks else {}
    request = prompts_from_request({**clicks, **roi}, predictor.settings.labels, volume.shape)
    return predictor.segment(volume, request)


def random_request(rng, shape, pool):
    """Clicks of up to three labels and the background; a third of them at the volume's borders, some contradictory."""
    request = {}
    for name in (*LABELS, "background"):
        count = int(rng.choice([0, 1, 1, 2, 4]))
        request[name] = [[int(x) for x in pool[rng.integers(len(pool))]] for _ in range(count)]
    return prompts_from_request(request, LABELS, shape)


def pool_of(rng, shape, count):
    """A few voxels to click, so that patches are met again and come from the cache."""
    high = np.array(shape) - 1
    points = rng.integers(0, high + 1, (count, 3))
    at_border = rng.random((count, 3)) < 0.33
    return np.where(at_border, np.where(rng.random((count, 3)) < 0.5, 0, high), points)


def broken_clicks(segmentation, request, shape, labels=LABELS):
    """How many of the contract's clauses the answer breaks."""
    label_map = segmentation.label_map
    assert label_map.dtype == np.uint8
    assert label_map.shape == shape
    assert label_map.max(initial=0) <= len(labels)
    broken = sum(int(label_map[tuple(point)] != 0) for point in request.background)
    for value, name in enumerate(labels, start=1):
        if name in request.prompts:
            broken += sum(int(label_map[tuple(point)] != value) for point in request.prompts[name].foreground)
        else:
            broken += int((label_map == value).any())
    return broken


def count_broken(predictor, requests_each, cases, pool_size=14):
    rng = np.random.default_rng(8)
    asked = broken = corrected = 0
    for volume in cases:
        pool = pool_of(rng, volume.shape, pool_size)
        for _ in range(requests_each):
            request = random_request(rng, volume.shape, pool)
            answer = predictor.segment(volume, request)
            asked += 1
            broken += broken_clicks(answer, request, volume.shape) > 0
            corrected += answer.report.n_corrected_clicks
    return asked, broken, corrected


def test_the_click_contract_holds_for_random_weights():
    asked = broken = corrected = 0
    # Patches of 24 mm, many to a volume; and of 40 mm, which hold most clicks of a request.
    for seed, (spacing_mm, max_patches) in enumerate([(1.5, 2), (2.5, 3)]):
        settings = settings_with(max_patches=max_patches)
        predictor = predictor_of(small_network(seed, SMALLER), settings, spacing_mm=spacing_mm)
        results = count_broken(predictor, requests_each=37, cases=volumes())
        asked, broken, corrected = (a + b for a, b in zip((asked, broken, corrected), results, strict=True))
    print(f"click contract: {asked} requests, {broken} broken (random weights, {corrected} clicks corrected)")
    assert asked >= 500
    assert corrected > 500  # the network disagrees, so the contract has work to do
    assert broken == 0


@pytest.mark.slow
@pytest.mark.skipif(not DEMO.exists(), reason="the demo model is not here: apps/sam3d/pretrained/tiny.safetensors")
def test_the_click_contract_holds_for_the_demo_model():
    """SAM3D_DEMO_REQUESTS=500 asks as often as for random weights."""
    network, card = load_weights(DEMO)
    predictor = Predictor(network, card, settings_with(max_patches=2, embedding_cache_mib=1024), torch.device("cpu"))
    cases = volumes()
    asked, broken, _ = count_broken(predictor, -(-DEMO_REQUESTS // len(cases)), cases, pool_size=5)
    print(f"click contract: {asked} requests, {broken} broken (demo model)")
    assert asked >= DEMO_REQUESTS
    assert broken == 0


def test_the_same_request_has_the_same_mask():
    volume = noisy((40, 36, 30))
    clicks = {"lesion": [[20, 18, 15], [4, 4, 4]], "organ": [[35, 30, 20]], "background": [[10, 30, 10]]}
    predictor = predictor_of(small_network(1))
    first = ask(predictor, volume, **clicks).label_map
    ask(predictor, volume, lesion=[[1, 2, 3]])
    assert np.array_equal(ask(predictor, volume, **clicks).label_map, first)
    assert np.array_equal(ask(predictor_of(small_network(1)), volume, **clicks).label_map, first)
    assert len(np.unique(first)) == 3


def test_more_clicks_never_take_an_earlier_ones_voxel():
    rng = np.random.default_rng(5)
    predictor = predictor_of(small_network(2, SMALLER), settings_with(max_patches=2))
    for volume in volumes()[:6]:
        points = rng.permutation(np.argwhere(np.ones(volume.shape, bool)))[:12].tolist()
        for count in range(1, len(points) + 1):
            label_map = ask(predictor, volume, organ=points[:count], background=[points[-1]]).label_map
            for point in points[:count]:
                assert label_map[tuple(point)] == (0 if point == points[-1] else 2)


@pytest.mark.parametrize("max_patches", [1, 4, 64])
@pytest.mark.parametrize("kind", ["lesion", "background", "organ"])
def test_a_click_far_away_changes_nothing_here(max_patches, kind):
    """Far: neither its patch nor those its object grows over meet the first click's patch (samples 4 to 35)."""
    volume = noisy((300, 24, 24))
    predictor = predictor_of(small_network(2), settings_with(max_patches=max_patches))
    near, far = [20, 12, 12], [280, 12, 12]
    before = ask(predictor, volume, lesion=[near]).label_map
    extra = {"lesion": [near, far]} if kind == "lesion" else {"lesion": [near], kind: [far]}
    after = ask(predictor, volume, **extra).label_map
    here = slice(4, 36)
    assert before[here].any()
    assert not before[here].all()
    assert np.array_equal(before[here], after[here])


def test_a_later_click_in_the_patch_encodes_nothing(monkeypatch):
    network = small_network(1)
    predictor = predictor_of(network, settings_with(max_patches=1))
    calls = []
    encode, sample = network.encode, patch_network.sample_patch
    monkeypatch.setattr(network, "encode", lambda *args: calls.append("encode") or encode(*args))
    monkeypatch.setattr(patch_network, "sample_patch", lambda *args: calls.append("sample") or sample(*args))
    volume = noisy((40, 40, 40))
    first = ask(predictor, volume, lesion=[[20, 20, 20]]).report
    assert calls == ["sample", "encode"]
    assert (first.n_encoded, first.n_patches, first.n_clicks) == (1, 1, 1)
    second = ask(predictor, volume, lesion=[[20, 20, 20], [24, 15, 22]], background=[[10, 20, 20]]).report
    assert (second.n_encoded, second.n_patches, second.n_clicks) == (0, 1, 3)
    assert calls == ["sample", "encode"]
    assert not {"sample", "encode"} & second.latencies_ms.keys()
    assert {"decode", "paste", "contract"} == second.latencies_ms.keys()
    other = ask(predictor, noisy((40, 40, 40), seed=9), lesion=[[20, 20, 20]]).report
    assert other.n_encoded == 1  # another volume at the same place


class Opened:
    """Names of the files that are opened for reading while `listens`; audit hooks stay for ever, so there is one."""

    def __init__(self):
        self.listens, self.names = False, []
        sys.addaudithook(self._hear)

    def _hear(self, event, args):
        if self.listens and event == "open":
            self.names.append(str(args[0]))


OPENED = Opened()


def test_a_later_click_touches_its_patch_and_no_more(monkeypatch):
    """Of a volume of 26 million voxels: no file, no encoder, no sampling, and no array of the volume's size but the
    mask, which is neither copied nor looked at as a whole."""
    network = small_network(1)
    predictor = predictor_of(network, settings_with(max_patches=1))
    volume = make_volume(np.full((512, 512, 100), 40, np.int16), np.eye(4))
    center, more = [[250, 260, 50]], [[254, 255, 52]]
    first = ask(predictor, volume, lesion=center)
    looked_at, pasted = [], []
    monkeypatch.setattr(network, "encode", lambda *_: pytest.fail("encoded again"))
    monkeypatch.setattr(PatchGrid, "sample", lambda *_args, **_kw: pytest.fail("resampled again"))
    paste, honour = PatchGrid.paste_values, predictor_module.honour_clicks
    monkeypatch.setattr(PatchGrid, "paste_values", lambda *args: pasted.append(paste(*args)) or pasted[-1])
    monkeypatch.setattr(
        predictor_module, "honour_clicks", lambda *args: looked_at.append(args[0].shape) or honour(*args)
    )
    tracemalloc.start()
    OPENED.names.clear()
    OPENED.listens = True
    later = ask(predictor, volume, lesion=center, background=more)
    OPENED.listens = False
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert OPENED.names == []
    assert (first.report.n_encoded, later.report.n_encoded, later.report.n_decoded) == (1, 0, 1)
    # Margins and weights, in the patch's own box at most; and of it what the contract may see.
    assert len(pasted) == 2
    assert all(max(values.shape) <= 32 for _, values in pasted)
    (seen,) = looked_at
    assert max(seen) <= 32 + 2 * predictor_module.FARTHEST_SIGHT
    box_bytes = int(np.prod(seen))
    assert peak < volume.array.size + 12 * box_bytes  # the mask, and some arrays of the box; a second mask is too much
    assert later.box == bounding_box(later.label_map > 0)


def test_the_click_contract_in_a_box_is_the_one_on_the_whole_volume(monkeypatch):
    """Clicks in a crowd and at the volume's borders, most of them contradicted: as far as a correction can see."""
    volume = noisy((140, 30, 33), (1.0, 0.9, 1.1), seed=4)
    predictor = predictor_of(small_network(7, SMALLER), settings_with(max_patches=1))
    rng, corrected = np.random.default_rng(3), 0
    for _ in range(30):
        request = random_request(rng, volume.shape, rng.integers(0, np.array(volume.shape), (9, 3)))
        near = predictor.segment(volume, request)
        with monkeypatch.context() as changed:
            changed.setattr(predictor_module, "FARTHEST_SIGHT", 1000)
            far = predictor.segment(volume, request)
        assert np.array_equal(near.label_map, far.label_map)
        assert near.report.n_corrected_clicks == far.report.n_corrected_clicks
        corrected += near.report.n_corrected_clicks
    assert corrected > 30


def test_a_correction_may_leave_the_patches(monkeypatch):
    """The network sees nothing, so the contract alone makes the mask: four voxels off the patch's border it goes on."""
    predictor = predictor_of(Constant(-1.0), settings_with(max_patches=1))
    volume = make_volume(np.full((70, 40, 40), 40, np.int16), np.eye(4))
    clicks = {"lesion": [[20, 20, 20], [31, 20, 20]], "background": [[25, 20, 20], [44, 20, 20]]}
    answer = ask(predictor, volume, **clicks)
    monkeypatch.setattr(predictor_module, "FARTHEST_SIGHT", 1000)
    assert np.array_equal(answer.label_map, ask(predictor, volume, **clicks).label_map)
    assert answer.report.n_patches == 1  # from 4 to 35 along i
    assert answer.label_map[36, 20, 20] == 1
    assert answer.label_map[39, 20, 20] == 0  # nearer to nobody, but too far


def test_clicks_on_the_background_alone_have_an_empty_box():
    answer = ask(predictor_of(small_network(1)), noisy((20, 20, 20)), background=[[3, 4, 5]])
    assert not answer.label_map.any()
    assert answer.box == (slice(0, 0),) * 3


def test_warming_up_goes_through_the_network_once_and_keeps_nothing():
    network = Threshold()
    predictor = Predictor(network, card_of(PUBLISHED_SMALL), settings_with(), torch.device("cpu"))
    predictor.warm_up()
    assert network.points == [([[16.0, 16.0, 16.0]], [1.0])]
    assert predictor._network._embeddings.used_bytes == 0


def test_embeddings_on_disk_outlive_the_server(tmp_path):
    volume, clicks = noisy((40, 40, 40)), {"lesion": [[20, 20, 20]]}
    settings = settings_with(max_patches=1, embedding_disk_mib=8, model_folder=tmp_path)
    first = ask(predictor_of(small_network(1), settings), volume, **clicks)
    again = ask(predictor_of(small_network(1), settings), volume, **clicks)
    assert [answer.report.n_encoded for answer in (first, again)] == [1, 0]
    assert np.array_equal(first.label_map, again.label_map)
    other_weights = predictor_of(small_network(2), settings, version="2")
    assert ask(other_weights, volume, **clicks).report.n_encoded == 1
    assert len(list((tmp_path / "embeddings").iterdir())) == 1  # those of the first weights are gone


def test_without_the_setting_nothing_is_written(tmp_path):
    settings = settings_with(max_patches=1, model_folder=tmp_path)
    ask(predictor_of(small_network(1), settings), noisy((40, 40, 40)), lesion=[[20, 20, 20]])
    assert list(tmp_path.iterdir()) == []


def test_embeddings_are_bounded_by_bytes():
    volume = noisy((60, 60, 60))
    predictor = predictor_of(small_network(1), settings_with(max_patches=1, embedding_cache_mib=1))
    size = 4 * (8 * 8**3 + 8 * 8**3 + 32**3)
    points = np.random.default_rng(1).integers(0, 60, (30, 3)).tolist()
    encoded = 0
    for point in points:
        encoded += ask(predictor, volume, lesion=[point]).report.n_encoded
        assert predictor._network._embeddings.used_bytes <= 2**20
    assert encoded == 30
    assert predictor._network._embeddings.used_bytes == 2**20 // size * size
    # The same clicks again would be answered from memory altogether: so one more in the same patch.
    last, first = ([point, [min(59, index + 1) for index in point]] for point in (points[-1], points[0]))
    assert ask(predictor, volume, lesion=last).report.n_encoded == 0
    assert ask(predictor, volume, lesion=first).report.n_encoded == 1

    keeping_none = predictor_of(small_network(1), settings_with(max_patches=1, embedding_cache_mib=0))
    assert [ask(keeping_none, volume, lesion=clicks).report.n_encoded for clicks in (first[:1], first)] == [1, 1]


def test_all_48_orientations_have_one_answer():
    """The same tissue at the same place in space, stored with its axes in any order and direction."""
    volume = noisy((26, 22, 30), (1.0, 1.3, 0.9))
    predictor = predictor_of(small_network(6, SMALLER), settings_with(max_patches=2))
    clicks = {"lesion": [[13, 10, 14], [20, 5, 25]], "organ": [[3, 18, 4]], "background": [[15, 12, 20]]}
    expected = ask(predictor, volume, **clicks).label_map
    assert set(np.unique(expected)) == {0, 1, 2}
    worst = 1.0
    for axes, flips in product(permutations(range(3)), product((1, -1), repeat=3)):
        back = np.eye(4)  # a stored index to the index in the original array
        for new, (axis, flip) in enumerate(zip(axes, flips, strict=True)):
            back[:, new] = 0
            back[axis, new] = flip
            back[axis, 3] = 0 if flip > 0 else volume.shape[axis] - 1
        turned = tuple(slice(None, None, flip) for flip in flips)
        stored = make_volume(np.transpose(volume.array, axes)[turned], volume.affine @ back)
        moved = {
            name: np.rint(map_indices(points, volume.affine, stored.affine)).astype(int).tolist()
            for name, points in clicks.items()
        }
        found = np.transpose(ask(predictor, stored, **moved).label_map[turned], np.argsort(axes))
        for value in (1, 2):
            overlap = 2 * np.count_nonzero((found == value) & (expected == value))
            dice = overlap / (np.count_nonzero(found == value) + np.count_nonzero(expected == value))
            worst = min(worst, dice)
    print(f"48 orientations: smallest Dice with the first {worst:.5f}")
    assert worst >= 0.999


class Threshold(nn.Module):
    """Stands in for a network: the object is what is brighter than the window's mean, whatever is clicked."""

    def __init__(self):
        super().__init__()
        self.settings = PUBLISHED_SMALL
        self.points = []

    def encode(self, patch):
        return Embedding(feature=patch, fusion=patch[:0], image=patch[:0])

    def decode(self, embedding, point_coords, point_labels):
        self.points.append((point_coords[0].tolist(), point_labels[0].tolist()))
        return torch.cat([torch.zeros_like(embedding.feature), embedding.feature], dim=1)


class Balls(Threshold):
    """The object is a ball of 10 voxels about each foreground click; the nearer the click, the surer."""

    def decode(self, embedding, point_coords, point_labels):
        d, h, w = torch.meshgrid(*[torch.arange(32.0)] * 3, indexing="ij")
        cells = torch.stack([d, h, w], dim=-1).reshape(-1, 3)
        distance = torch.cdist(cells, point_coords[0][point_labels[0] == 1]).amin(dim=1)
        margin = (10.0 - distance).reshape(1, 1, 32, 32, 32)
        return torch.cat([torch.zeros_like(margin), margin], dim=1)


class Constant(Threshold):
    """Sure of the same margin everywhere, but for an opposite border of two voxels."""

    def __init__(self, margin, border=0):
        super().__init__()
        self.margin = torch.full((1, 1, 32, 32, 32), float(margin))
        inner = slice(border, 32 - border)
        if border:
            self.margin = -self.margin
            self.margin[:, :, inner, inner, inner] = float(margin)

    def decode(self, embedding, point_coords, point_labels):
        return torch.cat([torch.zeros_like(self.margin), self.margin], dim=1)


def bar(length=200, spacing=(1.0, 1.0, 1.0)):
    """A bright bar, 10 mm wide, along the whole of a dark volume but its first and last 10 mm; and where it is."""
    shape = tuple(round(mm / s) for mm, s in zip((length, 40, 40), spacing, strict=True))
    array = np.full(shape, -100, np.int16)
    array[0, 0, 0] = -1000
    inside = [slice(round(a / s), round(b / s)) for a, b, s in
              zip((10, 15, 15), (length - 10, 25, 25), spacing, strict=True)]  # fmt: skip
    array[tuple(inside)] = 200
    return make_volume(array, np.diag([*spacing, 1.0])), array > 0


@pytest.mark.parametrize("at", [20, 100, 180])
def test_an_object_larger_than_the_patch_is_whole_from_one_click(at):
    volume, expected = bar()
    answer = ask(predictor_of(Threshold(), settings_with(max_patches=64)), volume, lesion=[[at, 20, 20]])
    assert np.array_equal(answer.label_map == 1, expected)
    assert answer.report.n_patches <= 11
    assert answer.report.notes == []


@pytest.mark.parametrize("spacing", [(0.8, 0.8, 5.0), (2.0, 0.5, 0.5)])
def test_a_large_object_in_anisotropic_voxels_is_whole(spacing):
    volume, expected = bar(spacing=spacing)
    click = [n // 2 for n in volume.shape]
    found = ask(predictor_of(Threshold(), settings_with(max_patches=64)), volume, lesion=[click]).label_map == 1
    dice = 2 * np.count_nonzero(found & expected) / (np.count_nonzero(found) + np.count_nonzero(expected))
    assert dice > 0.97  # borders between voxels and samples may differ; no piece is missing
    assert not np.count_nonzero(expected.any(axis=(1, 2)) & ~found.any(axis=(1, 2)))


def test_patches_are_limited_and_it_is_said():
    volume, _ = bar()
    answer = ask(predictor_of(Threshold(), settings_with(max_patches=3)), volume, lesion=[[100, 20, 20]])
    assert answer.report.n_patches == 3
    assert answer.report.notes == ["lesion was followed over 3 patches and may go on: raise max_patches for more"]
    assert np.flatnonzero(answer.label_map.any(axis=(1, 2)))[[0, -1]].tolist() == [64, 135]
    whole = ask(predictor_of(Threshold(), settings_with(max_patches=11)), volume, lesion=[[100, 20, 20]])
    assert whole.report.notes == []


def test_clicks_in_patches_already_followed_do_not_follow_it_again():
    volume, expected = bar()
    predictor = predictor_of(Threshold(), settings_with(max_patches=64))
    one = ask(predictor, volume, lesion=[[20, 20, 20]])
    more = ask(predictor, volume, lesion=[[20, 20, 20], [100, 20, 20], [180, 20, 20]])
    assert more.report.n_patches == one.report.n_patches + 2  # each later click has its own patch and no more
    assert np.array_equal(more.label_map == 1, expected)


def test_a_patch_without_clicks_is_told_what_to_follow_and_the_rest_what_was_clicked():
    volume, _ = bar(length=60)
    network = Threshold()
    ask(predictor_of(network), volume, lesion=[[20, 20, 20]], background=[[20, 30, 20], [3, 20, 20]])
    # Corrections are answered one by one: after the first click, and after the background click.
    (first, first_labels), (alone, _), (second, second_labels) = network.points
    # The patch's sample (16, 16, 16) in (d, h, w) lies on the first click; (3, 20, 20) lies outside of it.
    assert first == [[16, 16, 16], [16, 26, 16]]
    assert first_labels == [1, 0]
    assert alone == first[:1]
    # What is made up is told together.
    assert second_labels == [1, 1]
    assert all(10 <= d < 22 and 10 <= h < 22 and 0 <= w < 12 for d, h, w in second)

    network.points.clear()
    ask(predictor_of(network), volume, lesion=[[20, 20, 20], [30, 20, 20]])
    assert network.points[-1] == ([[16, 16, 6]], [1])  # a click of the user's own in both, and nothing made up

    network.points.clear()
    ask(predictor_of(network, has_background_clicks=False), volume, lesion=[[20, 20, 20]], background=[[20, 30, 20]])
    assert network.points[0] == ([[16, 16, 16]], [1])


def test_one_more_click_is_decoded_once(monkeypatch):
    volume = noisy((40, 40, 40))
    predictor = predictor_of(small_network(1), settings_with(max_patches=1))
    clicks = [[20, 20, 20], [24, 15, 22], [18, 25, 22], [21, 21, 25]]
    asked = [ask(predictor, volume, lesion=clicks[:count]).report.n_decoded for count in (1, 2, 3, 4, 3)]
    assert asked == [1, 1, 1, 1, 0]
    # Foreground comes before background, so a foreground click is taken before a background click made earlier.
    assert ask(predictor, volume, lesion=clicks, background=[[10, 20, 20]]).report.n_decoded == 1
    assert ask(predictor, volume, lesion=clicks[:2], background=[[10, 20, 20]]).report.n_decoded == 1
    fresh = predictor_of(small_network(1), settings_with(max_patches=1))
    whole = ask(fresh, volume, lesion=clicks)
    assert whole.report.n_decoded == 4
    assert np.array_equal(whole.label_map, ask(predictor, volume, lesion=clicks).label_map)


def test_of_very_many_clicks_the_first_are_taken_together():
    """Half a chain at a time: so the click after that is one decode again, and not the whole chain."""
    volume = noisy((40, 40, 40))
    predictor = predictor_of(Threshold(), settings_with(max_patches=1))
    rng = np.random.default_rng(0)
    points = [[int(x) for x in 8 + np.array(np.unravel_index(n, (16, 16, 16)))] for n in rng.permutation(4096)[:65]]
    longest = LONGEST_CHAIN

    def decoded(count):
        return ask(predictor, volume, lesion=[[16, 16, 16]], background=points[:count]).report.n_decoded

    # With the foreground click there is one more than `count`.
    assert decoded(longest - 1) == longest
    assert decoded(longest) == longest // 2 + 2  # the first half together, the rest one by one
    assert decoded(longest + 1) == 1


def test_weights_that_never_corrected_get_all_clicks_at_once():
    """As published: the answer to a set of points, whatever their order."""
    volume = noisy((40, 40, 40))
    predictor = predictor_of(small_network(1), settings_with(max_patches=1), has_background_clicks=False)
    clicks = [[20, 20, 20], [24, 15, 22], [18, 25, 22]]
    assert ask(predictor, volume, lesion=clicks).report.n_decoded == 1
    turned = ask(predictor, volume, lesion=[clicks[0], clicks[2], clicks[1]])
    assert np.mean(turned.label_map == ask(predictor, volume, lesion=clicks).label_map) > 0.999


def test_a_correction_that_leaks_is_kept_near_its_click():
    """The network stands in for one that answers a second click with everything."""

    class Leaking(Balls):
        def decode(self, embedding, point_coords, point_labels):
            logits = super().decode(embedding, point_coords, point_labels)
            return (
                logits
                if point_coords.shape[1] == 1
                else torch.full_like(logits, 3.0) * torch.tensor([0.0, 1.0]).view(1, 2, 1, 1, 1)
            )

    volume = make_volume(np.full((40, 40, 40), -200, np.int16), np.eye(4))
    predictor = predictor_of(Leaking(), settings_with(max_patches=1))
    one = ask(predictor, volume, lesion=[[20, 20, 20]]).label_map
    two = ask(predictor, volume, lesion=[[20, 20, 20], [32, 20, 20]]).label_map
    assert one[32, 20, 20] == 0
    # Two voxels beyond the ball of 10: the new answer counts up to 1.5 * (2 * 3 + 2) voxels away.
    assert two[28:35, 20, 20].all()
    distance = np.linalg.norm(np.argwhere(two != one) - [32, 20, 20], axis=1)
    assert 6 < distance.max() <= 12


def test_the_nearest_labels_logit_wins():
    volume = make_volume(np.full((40, 20, 20), -200, np.int16), np.eye(4))
    predictor = predictor_of(Balls(), settings_with(max_patches=1))
    line = ask(predictor, volume, lesion=[[12, 10, 10]], organ=[[22, 10, 10]]).label_map[:, 10, 10]
    # Balls of 10 about 12 and 22; both are 5 from voxel 17, which goes to the first label.
    assert line.tolist() == [0] * 3 + [1] * 15 + [2] * 14 + [0] * 8
    swapped = ask(predictor, volume, organ=[[12, 10, 10]], lesion=[[22, 10, 10]]).label_map[:, 10, 10]
    assert swapped.tolist() == [0] * 3 + [2] * 14 + [1] * 15 + [0] * 8
    three = ask(predictor, volume, lesion=[[12, 10, 10]], organ=[[22, 10, 10]], vessel=[[17, 10, 10]]).label_map
    assert three[:, 10, 10].tolist() == [0] * 3 + [1] * 12 + [3] * 5 + [2] * 12 + [0] * 8


def test_a_box_limits_the_mask_but_not_the_clicks():
    volume = make_volume(np.full((40, 20, 20), -200, np.int16), np.eye(4))
    predictor = predictor_of(Balls(), settings_with(max_patches=1))
    label_map = ask(predictor, volume, lesion=[[12, 10, 10]], roi=[8, 15, 5, 15, 0, 19]).label_map
    assert np.flatnonzero(label_map.any(axis=(1, 2))).tolist() == list(range(8, 16))
    assert np.flatnonzero(label_map.any(axis=(0, 2))).tolist() == list(range(5, 16))
    outside = ask(predictor, volume, lesion=[[12, 10, 10]], roi=[30, 35, 0, 19, 0, 19]).label_map
    assert outside[12, 10, 10] == 1


def test_no_clicks_at_all_are_an_empty_mask():
    volume = noisy((20, 20, 5))
    answer = ask(predictor_of(small_network()), volume)
    assert answer.label_map.shape == (20, 20, 5)
    assert not answer.label_map.any()
    assert answer.report.n_patches == 0
    assert not ask(predictor_of(small_network()), volume, background=[[1, 1, 1]]).label_map.any()


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((20, 20, 20), (1, 1, 1)),
        ((32, 32, 32), (1, 1, 1)),
        ((70, 33, 10), (1, 1, -1)),
        ((1, 1, 1), (1, 1, 1)),
        ((40, 40, 1), (1, 1, 5)),
        ((20, 20, 3), (0.7, 0.7, 50)),
    ],
)
def test_the_automatic_mode_sees_every_voxel(shape, spacing):
    volume = make_volume(np.full(shape, -200, np.int16), np.diag([*spacing, 1.0]))
    answer = predictor_of(Constant(1.0)).segment_automatically(volume)
    assert answer.label_map.dtype == np.uint8
    assert answer.label_map.shape == shape
    assert answer.label_map.all()
    assert answer.report.n_patches == answer.report.n_encoded >= 1
    assert not predictor_of(Constant(-1.0)).segment_automatically(volume).label_map.any()


def test_the_automatic_mode_trusts_a_patchs_middle_more_than_its_border():
    volume = make_volume(np.full((52, 32, 32), -200, np.int16), np.eye(4))  # two patches that share 12 voxels
    answer = predictor_of(Constant(1.0, border=2)).segment_automatically(volume)
    assert answer.report.n_patches == 2
    assert np.flatnonzero(answer.label_map[:, 16, 16]).tolist() == list(range(2, 50))


def test_the_automatic_mode_keeps_no_embedding_and_is_the_same_each_time():
    volume = noisy((40, 30, 20))
    predictor = predictor_of(small_network(3))
    first = predictor.segment_automatically(volume).label_map
    assert predictor._network._embeddings.used_bytes == 0
    assert np.array_equal(predictor.segment_automatically(volume).label_map, first)


def test_what_was_wrong_with_the_volume_or_the_clicks_is_passed_on():
    array = np.full((10, 10, 10), -200, np.float32)
    array[3, 3, 3] = np.nan
    volume = make_volume(array, np.eye(4), name="a.nii")
    report = ask(predictor_of(small_network(), version="7"), volume, lesion=[[5, 5, 5], [50, 5, 5]]).report
    assert report.as_json()["weights_version"] == "7"
    assert [note.split(" ")[0] for note in report.notes] == ["1", "1"]
    assert "not finite" in report.notes[0]
    assert "outside the image" in report.notes[1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there_is_said_to_be_missing():
    with pytest.raises(SettingsError, match="device is 'cuda:1', but PyTorch finds no CUDA device here"):
        Predictor(small_network(), card_of(), settings_with(device="cuda:1"))
    assert Predictor(small_network(), card_of(), settings_with()).device == torch.device("cpu")
