"""The published recipe and test, part by part, against what can be read by eye."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from torch import nn

from lib.datasets.known import DATASETS, KnownDataset
from lib.datasets.labelled_cases import Case
from lib.errors import VolumeError
from lib.geometry import PatchGrid
from lib.images.volumes import make_volume
from lib.parity.parameter_counts import ParameterCounts, counts_of_variant, explained
from lib.published import augmentation
from lib.published.augmentation import CropRecipe, training_crop
from lib.published.points import drawn, training_points, validation_points
from lib.published.protocol import PointTest, Subject, evaluate_points, on_grid_of, patch_probability, patch_start
from lib.published.results import comparison
from lib.published.scorecards import write_point_scorecards
from lib.published.volumes import Reading, cut, resampled
from lib.settings import PRESETS, Intensity

AS_IT_IS = Intensity(low=-1e6, high=1e6, mean=0.0, std=1.0)


def test_an_axis_is_resampled_by_its_scale_factor():
    line = np.array([0.0, 10.0, 20.0]).reshape(3, 1, 1)
    # 1.5 mm: floor(4.5) samples at (i + 0.5) / 1.5 - 0.5 = -1/6 (held at 0), 0.5, 7/6 and 11/6 voxels.
    assert resampled(line, [1.5, 1, 1], 1.0)[:, 0, 0].tolist() == pytest.approx([0.0, 5.0, 35 / 3, 55 / 3], rel=1e-6)
    # 0.5 mm: one sample, midway between the first two voxels.
    assert resampled(line, [0.5, 1, 1], 1.0)[:, 0, 0].tolist() == [5.0]
    with pytest.raises(VolumeError, match=r"\(3, 1, 1\) voxels is thinner than 1 mm: it has no sample"):
        resampled(line, [0.2, 1, 1], 1.0)


def test_a_set_is_read_as_published_and_any_other_by_its_orientation():
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    left = np.diag([-1.0, 2.0, 3.0, 1.0])  # the first axis runs to the left
    volume = make_volume(array, left)
    fixed = Reading.of(volume, DATASETS["pancreas"].axes)
    assert np.array_equal(fixed.turned(array), array.transpose(2, 1, 0))
    own = Reading.of(volume, None)
    assert np.array_equal(own.turned(array), array.transpose(2, 1, 0)[:, :, ::-1])
    assert own.spacing(volume).tolist() == [3.0, 2.0, 1.0]
    for reading in (fixed, own, Reading.of(volume, DATASETS["kits"].axes)):
        assert np.array_equal(reading.back(reading.turned(array)), array)
    # By orientation it is the frame in which clicks are answered.
    grid = PatchGrid.around(left, (1, 1, 2), 2, 1.0)
    assert grid.axes == own.axes
    assert [step < 0 for step in grid.steps] == [axis in own.reversed_axes for axis in range(3)]


def block(shape=(90, 80, 70)):
    """An image of 0 with a block of 100 in it, and the block."""
    target = np.zeros(shape, np.bool_)
    target[30:40, 35:45, 20:32] = True
    return np.where(target, np.float32(100), np.float32(0)), target


@pytest.mark.parametrize("is_in_plane", [False, True])
def test_a_crop_keeps_image_and_target_together(is_in_plane):
    image, target = block()
    recipe = CropRecipe(32, is_in_plane)
    found = []
    for seed in range(30):
        patch, its_target = training_crop(image, target, PRESETS["ct"], recipe, np.random.default_rng(seed))
        assert patch.shape == its_target.shape == (32, 32, 32)
        assert set(np.unique(its_target)) <= {0.0, 1.0}
        if its_target.any():
            # 100 HU apart, of 100 HU spread: 1, and half of it where a zoom blurs the border.
            brighter = patch[its_target == 1] - np.median(patch[its_target == 0])
            assert brighter.min() > 0.45
            assert its_target.sum() < 500 or brighter.mean() > 0.8
            found.append(its_target.sum())
    # Two in three are centred on the target, a wider crop of which is then cut at random.
    assert 12 <= len(found) <= 29
    assert len(set(found)) > 5


def test_a_crop_is_decided_by_its_generator():
    image, target = block()
    recipe = CropRecipe(32)
    first, again, other = (
        training_crop(image, target, PRESETS["ct"], recipe, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


def test_the_shift_is_of_hounsfield_units_or_of_the_spread(monkeypatch):
    monkeypatch.setattr(augmentation, "EVEN", 1.0)
    image, target = block()
    shifts = {}
    for is_hounsfield in (True, False):
        recipe = CropRecipe(32, is_hounsfield=is_hounsfield)
        intensity = Intensity(-1e6, 1e6, 0.0, 1000.0)
        values = [
            np.median(training_crop(image, target, intensity, recipe, np.random.default_rng(seed))[0]) * 1000
            for seed in range(12)
        ]
        shifts[is_hounsfield] = np.abs(values).max()
    assert 10 < shifts[True] <= 20
    assert 200 < shifts[False] <= 420


def test_turns_within_slices_leave_every_slice_alone(monkeypatch):
    monkeypatch.setattr(augmentation, "IN_PLANE_SHARE", 1.0)
    monkeypatch.setattr(augmentation, "EVEN", 0.0)
    image = np.repeat(np.arange(40, dtype=np.float32), 40 * 40).reshape(40, 40, 40)
    target = np.zeros(image.shape, np.bool_)
    target[15:25, 15:25, 15:25] = True
    # As wide as the image, so that nothing is padded and d keeps its place.
    monkeypatch.setattr(augmentation, "WIDER", 1.0)
    patch, its_target = training_crop(image, target, AS_IT_IS, CropRecipe(40, True), np.random.default_rng(3))
    assert np.allclose(patch[:, 15:25, 15:25], np.arange(40)[:, None, None], atol=1e-3)
    assert its_target.any(axis=(1, 2)).nonzero()[0].tolist() == list(range(15, 25))
    assert its_target[20].sum() != 100  # turned and zoomed
    assert np.array_equal(its_target[15], its_target[24])


def test_points_are_ten_of_the_target_and_twenty_of_anywhere():
    target = np.zeros((16, 16, 16), np.bool_)
    target[3, 4, 5] = target[3, 4, 6] = True
    points = training_points(target, np.random.default_rng(0))
    assert points.shape == (30, 3)
    assert {tuple(point) for point in points[:10]} == {(3, 4, 5), (3, 4, 6)}
    assert len({tuple(point) for point in points[10:]}) > 15
    assert training_points(np.zeros_like(target), np.random.default_rng(0)).shape == (20, 3)
    assert {tuple(point) for point in validation_points(target, np.random.default_rng(0))} == {(3, 4, 5), (3, 4, 6)}
    assert validation_points(np.zeros_like(target), np.random.default_rng(0)).shape == (10, 3)
    assert drawn(np.zeros_like(target), 3, np.random.default_rng(0)).shape == (0, 3)


def test_the_patch_lies_midway_between_the_outermost_points():
    assert patch_start(np.array([[10, 20, 33]]), 8).tolist() == [6, 16, 29]
    # (5 + 10) // 2 = 7; nothing else than the outermost ones counts.
    assert patch_start(np.array([[5, 0, 1], [10, 0, 1], [9, 0, 1]]), 8).tolist() == [3, -4, -3]
    patch = cut(np.ones((4, 4, 4), np.float32), np.array([-1, 2, 0]), 4)
    assert patch.sum() == 3 * 2 * 4
    assert patch[1:, :2, :].all()


class Watching(nn.Module):
    """In place of a network: says object where its patch is above 0, and keeps what it was asked."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.settings = type("Sizes", (), {"patch_size": size})
        self.weight = nn.Parameter(torch.zeros(1))
        self.asked: list[tuple[np.ndarray, list[list[float]], list[float]]] = []

    def forward(self, patch, points, labels):
        self.asked.append((patch[0, 0].numpy(), points[0].tolist(), labels[0].tolist()))
        return torch.cat([torch.zeros_like(patch), 8 * patch], dim=1)


def test_the_network_is_asked_about_the_published_patch():
    image = np.full((6, 6, 6), 50.0, np.float32)
    image[0, 1, 2] = 150.0
    network = Watching(4)
    intensity = Intensity(0.0, 120.0, 50.0, 10.0)
    points = np.array([[0, 1, 2], [1, 1, 2]])
    probability = patch_probability(network, image, points, intensity)
    ((patch, coords, labels),) = network.asked
    # Starts at (0 + 1) // 2 - 2 = -2, so that the point lies two samples in, and what is beside the image is 0.
    assert coords == [[2.0, 2.0, 2.0], [3.0, 2.0, 2.0]]
    assert labels == [1.0, 1.0]
    assert patch[2, 2, 2] == 7.0  # clipped at 120
    assert np.count_nonzero(patch) == 1
    assert probability.shape == (6, 6, 6)
    assert probability[0, 1, 2] > 0.99
    assert probability[1, 1, 2] == 0.5
    assert probability[2:].max() == probability[:, 3:].max() == 0.0


class Stub:
    """The parts of a predictor that the test by points reads."""

    def __init__(self, intensity: Intensity) -> None:
        self.card = type("Card", (), {"intensity": intensity, "spacing_mm": 1.0})


def subject_of(size: int) -> tuple[Subject, Watching]:
    network = Watching(size)
    return Subject(network, Stub(Intensity(-100.0, 200.0, 50.0, 10.0))), network


def case_with(*values: int, spacing: float = 2.0) -> Case:
    label = np.zeros((10, 12, 14), np.uint8)
    for value in values:
        label[3:7, 4:8, 5:9] = value
    volume = make_volume((100 * (label > 0)).astype(np.int16), np.diag([spacing] * 3 + [1.0]), "v")
    return Case(f"case {values}", lambda: (volume, label))


TUMOUR = KnownDataset("folder", "own data", target=2, axes=(2, 1, 0))


def test_a_case_is_answered_on_its_own_grid_and_scored():
    subject, network = subject_of(32)
    outcomes = list(evaluate_points(subject, [case_with(2), case_with(1), case_with()], TUMOUR, PointTest((1, 3, 10))))
    assert outcomes[1:] == [
        "case (1,) was left out: its label has no voxel of value 2",
        "case () was left out: its label has no voxel of value 2",
    ]
    result = outcomes[0]
    assert result.target.voxels == 64
    assert result.target.ml == 0.512
    assert list(result.scores) == [1, 3, 10]
    # The block is as bright as a click on it; two voxels to a sample, so its border is kept.
    assert all(score.dice == pytest.approx(1.0, abs=0.02) for score in result.scores.values())
    assert all(score.nsd == 1.0 for score in result.scores.values())
    assert [len(points) for _, points, _ in network.asked] == [1, 3, 10]
    # With one point it is the middle of the patch.
    assert network.asked[0][1] == [[16.0, 16.0, 16.0]]


def test_points_are_decided_by_the_seed_and_the_case_alone():
    asked = []
    other_name = Case("another", case_with(2).load)
    for cases, seed in (
        *(([case_with(2)], 0), ([case_with(1), case_with(2)], 0)),
        *(([case_with(2)], 1), ([other_name], 0)),
    ):
        subject, network = subject_of(32)
        list(evaluate_points(subject, cases, TUMOUR, PointTest((3,), seed=seed)))
        asked.append(network.asked[0][1])
    assert asked[0] == asked[1]
    assert len({str(points) for points in asked}) == 3


def test_what_lies_outside_of_the_patch_is_background():
    subject, _ = subject_of(4)
    (result,) = evaluate_points(subject, [case_with(2)], TUMOUR, PointTest((1,), tolerance_mm=0.5))
    assert 0 < result.scores[1].dice < 0.5
    assert result.scores[1].nsd < 0.5


def test_a_label_is_brought_to_the_images_grid_by_nearest():
    label = np.array([[[False, True]]])
    assert on_grid_of(label, torch.zeros(1, 1, 5)).tolist() == [[[False, False, False, True, True]]]


def test_the_table_holds_the_published_rows_and_ours():
    table = comparison("pancreas", "Pancreas", {1: (12.345, 67.8), 10: (50.0, 60.0)}, "1.52 M").splitlines()
    header, rows = table[0].split(" | "), [line.strip("| ").split(" | ") for line in table[2:]]
    at = header.index("Pancreas tumour Dice")
    of = {row[0]: row for row in rows}
    assert of["3DSAM-adapter, 1 point a volume"][at : at + 2] == ["54.09", "76.27"]
    assert of["3DSAM-adapter, 3 points a volume"][at : at + 2] == ["54.92", "77.57"]
    assert of["3DSAM-adapter, 10 points a volume"][at : at + 2] == ["57.47", "79.62"]
    assert of["3DSAM-adapter, 1 point a volume"][1:] == [
        *("73.78", "83.86", "54.09", "76.27", "54.78", "69.55", "48.35", "63.65", "25.46 M")
    ]
    line = next(line for line in table if line.startswith("| reproduction, 10 points"))
    assert line.split("|")[at + 1 : at + 3] == [" 49.56 ", " 71.82 "]
    assert table[-2].split("|")[1] == " ours, 1 point a volume "
    assert [cell.strip() for cell in table[-1].split("|")][1:-1] == [
        *("ours, 10 points a volume", "", "", "50.00", "60.00", "", "", "", "", "1.52 M")
    ]
    assert "| own data Dice | own data NSD |" in comparison("folder", "own data", {0: (1.0, 2.0)}, "x")
    assert "| ours, automatic |" in comparison("folder", "own data", {0: (1.0, 2.0)}, "x")


def test_scorecards_hold_every_case(tmp_path):
    subject, _ = subject_of(32)
    test = PointTest((1, 10), 5.0)
    results = list(evaluate_points(subject, [case_with(2)], TUMOUR, test))
    counts = ParameterCounts(10, 5, 4, 3, 1)
    table = write_point_scorecards(results, ["x was left out"], {"version": "7"}, TUMOUR, test, counts, tmp_path)
    (row,) = csv.DictReader((tmp_path / "cases.csv").read_text().splitlines())
    assert (row["case"], row["voxels"], row["ml"]) == ("case (2,)", "64", "0.512")
    assert float(row["dice_10"]) == pytest.approx(results[0].scores[10].dice, abs=1e-4)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["percent"]["1"]["dice"] == pytest.approx(100 * results[0].scores[1].dice, abs=0.01)
    assert (summary["left_out"], summary["weights"]) == (["x was left out"], {"version": "7"})
    text = (tmp_path / "table.md").read_text()
    assert text.startswith(table)
    assert text.endswith("- x was left out\n")
    assert "own data (1 cases) Dice" in table
    for name in ("dice.png", "sizes.png", "overlays.png", "cases/case_2_.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_parameters_are_counted_as_published():
    counts = counts_of_variant("vit_b")
    assert counts.as_published == 25_462_400
    assert counts.trained == 25_462_400 - 263_424 + 256
    assert counts.encoder == 15_209_984
    assert counts.added == 7_304_704
    # The deployed published network has 114,309,004, twelve of them gains that are no parameters here.
    assert counts.total == 114_309_004 - 263_424 + 256 - 12
    text = explained()
    assert "published 25.46 M, 25,462,400: ours leaves away 263,424 that are never used and has 256" in text
    assert "+7.79 % (published +7.79 %)" in text
    assert "16.96 % (published 16.96 %)" in text
