"""The interactive protocol, played against users of the network whose answers are known."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from lib.datasets.labelled_cases import Case, cases_in, phantom_cases
from lib.errors import LabelError, VolumeError
from lib.evaluation.baselines import BASELINES, geodesic, random_walk, region_growing
from lib.evaluation.figures import Snapshot
from lib.evaluation.protocol import (
    Answer,
    Result,
    Round,
    Target,
    evaluate,
    evaluate_target,
    replay,
    segmenter_of,
    summarise,
)
from lib.evaluation.scorecards import averages, target_rows, write_scorecards
from lib.images.preprocess import NOT_HOUNSFIELD
from lib.images.volumes import make_volume
from lib.interactive.predictor import Predictor
from lib.interactive.prompts import prompts_from_request
from lib.network.build import build_sam3d
from lib.network.weights import Card
from lib.settings import PRESETS, VARIANTS, ClickSettings, Settings

ONE_MM = np.ones(3)
SMALL = replace(VARIANTS["tiny"], patch_size=16, window_size=2, sam_window_size=2, embed_dim=24)


def block(*slices, shape=(20, 12, 12)):
    mask = np.zeros(shape, np.bool_)
    mask[slices] = True
    return mask


# A box of 11 x 5 x 5 voxels: its middle row is 3 voxels deep along i = 4 to 10, of which the first is clicked.
TARGET = block(slice(2, 13), slice(3, 8), slice(3, 8))
HALF = block(slice(2, 8), slice(3, 8), slice(3, 8))
TOO_MUCH = TARGET | block(slice(16, 20), slice(0, 12), slice(0, 12))


def answers_in_turn(*masks):
    """A segmenter that gives these masks one after the other, and the clicks that it was sent."""
    sent, left = [], list(masks)

    def segment(foreground, background):
        sent.append((list(foreground), list(background)))
        return Answer(left.pop(0), patches=2, encoder_calls=1)

    return segment, sent


def rounds_with(*dices):
    return tuple(Round((0, 0, 0), True, dice, dice / 2, 0.5, 3, 1) for dice in dices)


def result_of(*dices, n_clicks=10, method="sam3d", case="a"):
    return Result(Target(case, "1", 100, 0.1), method, rounds_with(*dices), n_clicks)


def test_a_perfect_answer_ends_the_game_at_the_first_click():
    segment, sent = answers_in_turn(TARGET)
    rounds, masks = evaluate_target(segment, TARGET, ONE_MM, n_clicks=10)
    assert sent == [([(4, 5, 5)], [])]
    assert [(turn.click, turn.dice, turn.nsd) for turn in rounds] == [((4, 5, 5), 1.0, 1.0)]
    assert [mask is TARGET for mask in masks] == [True]
    result = Result(Target("a", "1", 275, 0.3), "sam3d", tuple(rounds), 10)
    assert result.dices == [1.0] * 10
    assert result.worst_drop == 0.0


def test_corrections_are_foreground_where_missed_and_background_where_spurious():
    segment, sent = answers_in_turn(HALF, TOO_MUCH, TARGET)
    rounds, masks = evaluate_target(segment, TARGET, ONE_MM, n_clicks=5)
    # Missed: i = 8 to 12, a cube. Spurious: the slab from 16 on, four voxels thick with its outside at 20.
    assert [turn.click for turn in rounds[:2]] == [(4, 5, 5), (10, 5, 5)]
    assert TOO_MUCH[rounds[2].click]
    assert not TARGET[rounds[2].click]
    assert [turn.is_foreground for turn in rounds] == [True, True, False]
    assert sent[2] == ([(4, 5, 5), (10, 5, 5)], [rounds[2].click])
    # 150 of 275 voxels found; then all of them with 576 too many.
    assert [turn.dice for turn in rounds] == pytest.approx([2 * 150 / (150 + 275), 2 * 275 / (275 + 851), 1.0])
    assert (rounds[0].patches, rounds[0].encoder_calls) == (2, 1)
    assert masks[0] is HALF
    assert masks[1] is TARGET


def test_no_more_clicks_are_made_than_asked_for():
    segment, sent = answers_in_turn(HALF, HALF, HALF)
    rounds, _ = evaluate_target(segment, TARGET, ONE_MM, n_clicks=3)
    assert len(rounds) == len(sent) == 3
    # Without any change between them the same error is clicked again.
    assert rounds[1].click == rounds[2].click


def test_surfaces_are_compared_at_two_millimetres():
    near, far = block(slice(2, 15), slice(3, 8), slice(3, 8)), block(slice(2, 18), slice(3, 8), slice(3, 8))
    for mask, expected in ((near, 1.0), (far, pytest.approx(0.75, abs=0.2))):
        segment, _ = answers_in_turn(mask)
        assert evaluate_target(segment, TARGET, ONE_MM, n_clicks=1)[0][0].nsd == expected


def test_another_method_gets_the_very_same_clicks():
    first, sent = answers_in_turn(HALF, TOO_MUCH, TARGET)
    rounds, _ = evaluate_target(first, TARGET, ONE_MM, n_clicks=3)
    second, sent_again = answers_in_turn(TARGET, HALF, HALF)
    replayed = replay(second, rounds, TARGET, ONE_MM)
    assert sent_again == sent
    assert [turn.dice for turn in replayed] == pytest.approx([1.0, 300 / 425, 300 / 425])


def test_a_result_repeats_its_last_score_and_knows_its_worst_drop():
    result = result_of(0.5, 0.9, 0.6, 0.7)
    assert result.dices == [0.5, 0.9, 0.6] + [0.7] * 7
    assert result.nsds[-1] == 0.35
    assert result.worst_drop == pytest.approx(0.3)
    assert str(result_of(0.5, n_clicks=2)) == "a, label 1, sam3d: Dice 0.50 0.50 (0.5 s)"


def test_averages_by_eye():
    of = summarise([result_of(0.4, 0.5, 0.9), result_of(0.8, 0.7)])
    assert of["targets"] == 2
    assert of["dice"] == pytest.approx({1: 0.6, 3: 0.8, 5: 0.8, 10: 0.8})
    assert of["nsd"] == pytest.approx({1: 0.3, 3: 0.4, 5: 0.4, 10: 0.4})
    assert of["failed_share"] == {1: 0.5, 3: 0.0, 5: 0.0, 10: 0.0}
    # 0.45 + 0.7 + 0.9 + 0.9 and 0.75 + 0.7 + 0.7 + 0.7
    assert of["auc_dice"] == pytest.approx((2.95 + 2.85) / 2)
    assert of["noc_80"] == (3 + 1) / 2
    assert of["worst_drop_mean"] == pytest.approx(0.05)
    assert of["worst_drop_max"] == pytest.approx(0.1)
    assert of["dropped_share"] == 0.5
    assert of["dice_by_click"][:3] == pytest.approx([0.6, 0.6, 0.8])
    assert of["first_click_seconds"] == 0.5


def test_averages_leave_out_what_was_not_played():
    of = summarise([result_of(0.4, 0.5, 0.9, n_clicks=3)])
    assert list(of["dice"]) == [1, 3]
    assert of["auc_dice"] is None
    assert of["noc_80"] == 3
    assert summarise([result_of(0.4, n_clicks=1)])["later_click_seconds"] is None
    assert summarise([result_of(0.4, n_clicks=1)])["noc_80"] == 10


def write(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


def test_pairs_are_found_at_any_depth(tmp_path):
    image = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    for name in ("b", "deeper/a"):
        write(tmp_path / f"{name}_image.nii.gz", image)
        write(tmp_path / f"{name}_label.nii.gz", (image > 20).astype(np.uint8))
    write(tmp_path / "alone_image.nii.gz", image)
    cases = cases_in(tmp_path)
    assert [case.name for case in cases] == ["b", "deeper/a"]
    volume, label_map = cases[1].load()
    assert volume.array.tolist() == image.tolist()
    assert np.flatnonzero(label_map).tolist() == [21, 22, 23]


@pytest.mark.parametrize("labels", [{"0": "background", "1": "organ", "2": "tumour"}, {"background": 0, "tumour": 2}])
def test_a_decathlon_folder_names_its_labels(tmp_path, labels):
    image = np.zeros((2, 3, 4), np.int16)
    write(tmp_path / "imagesTr" / "x_01.nii.gz", image)
    write(tmp_path / "imagesTr" / "x_02_0000.nii.gz", image)
    for name in ("x_01", "x_02", "without_image", "._x_01"):
        write(tmp_path / "labelsTr" / f"{name}.nii.gz", image.astype(np.uint8))
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
    cases = cases_in(tmp_path)
    assert [case.name for case in cases] == ["x_01", "x_02"]
    assert cases[0].label_names[2] == "tumour"
    cases[1].load()


def test_folders_that_cannot_be_evaluated_say_why(tmp_path):
    with pytest.raises(VolumeError, match="holds no labelled case: put"):
        cases_in(tmp_path)
    (tmp_path / "labelsTr").mkdir()
    (tmp_path / "dataset.json").write_text("[1, 2]")
    with pytest.raises(VolumeError, match=r"dataset\.json does not name labels"):
        cases_in(tmp_path)


def test_a_label_must_lie_on_its_images_grid(tmp_path):
    shifted = np.eye(4)
    shifted[0, 3] = 0.6
    write(tmp_path / "a_image.nii.gz", np.zeros((2, 3, 4), np.int16))
    write(tmp_path / "a_label.nii.gz", np.zeros((2, 3, 4), np.uint8), shifted)
    with pytest.raises(LabelError, match=r"lies 0\.6 mm off it"):
        cases_in(tmp_path)[0].load()
    longer = np.zeros((2, 3, 5), np.uint8)
    longer[0, 0, 1] = 1
    write(tmp_path / "a_label.nii.gz", longer)
    assert np.argwhere(cases_in(tmp_path)[0].load()[1]).tolist() == [[0, 0, 1]]


def test_phantoms_are_cases():
    (case,) = phantom_cases(1, "ct")
    volume, label_map = case.load()
    assert case.name == "phantom_ct_000"
    assert label_map.shape == volume.shape
    assert np.unique(label_map).tolist() == [0, 1]


def bright_block():
    """A block of 100 in a background of 0, both with a little texture; (volume, truth)."""
    truth = block(slice(8, 20), slice(6, 18), slice(6, 18), shape=(30, 24, 24))
    texture = np.random.default_rng(0).normal(size=truth.shape) * 2
    return make_volume((100 * truth + texture).astype(np.float32), np.eye(4)), truth


@pytest.mark.parametrize("baseline", BASELINES.values(), ids=list(BASELINES))
def test_baselines_find_what_is_plain_to_see(baseline):
    volume, truth = bright_block()
    mask = baseline(volume, [(13, 11, 11)], [(2, 2, 2)])
    assert mask.dtype == np.bool_
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.95


def test_baselines_heed_background_clicks():
    volume, _ = bright_block()
    near = random_walk(volume, [(10, 11, 11)], [(18, 11, 11)])
    assert near[8:12, 11, 11].all()
    assert not near[17:, 11, 11].any()
    parted = geodesic(volume, [(10, 11, 11)], [(18, 11, 11)])
    assert parted[8:12, 11, 11].all()
    assert not parted[17:20, 11, 11].any()
    leaky = np.array(volume.array)
    leaky[20:28, 10:14, 10:14] = 97  # within the widest tolerance of a block this even
    leaky_volume = make_volume(leaky, np.eye(4))
    assert region_growing(leaky_volume, [(13, 11, 11)], [])[25, 11, 11]
    assert not region_growing(leaky_volume, [(13, 11, 11)], [(25, 11, 11)])[25, 11, 11]


def test_baselines_look_at_a_box_round_the_clicks_and_average_fine_voxels():
    array = np.zeros((300, 9, 9), np.int16)
    array[::2] = 1  # a mean of one half everywhere
    volume = make_volume(array, np.diag([0.75, 1.0, 1.0, 1.0]))
    mask = region_growing(volume, [(150, 4, 4)], [])
    # 64 mm are 85.3 voxels, two voxels make a block; the last one of 173 voxels is a block of its own, of 1.
    assert np.flatnonzero(mask.any(axis=(1, 2))).tolist() == list(range(150 - 86, 150 + 86))


def test_baselines_of_a_flat_volume_go_by_the_clicks_alone():
    flat = make_volume(np.zeros((9, 9, 9), np.int16), np.eye(4))
    walked = random_walk(flat, [(4, 4, 4)], [(6, 4, 4)])
    assert walked.sum() == 5**3 - 1
    assert walked[2:6, 2:7, 2:7].all()
    assert region_growing(flat, [(4, 4, 4)], []).all()
    # Half-way to the border, which is four voxels away.
    assert np.flatnonzero(geodesic(flat, [(4, 4, 4)], [])[:, 4, 4]).tolist() == [3, 4, 5]


def random_predictor(**settings):
    card = Card("tiny", SMALL, PRESETS["ct"], spacing_mm=1.5, is_trained=True)
    given = {"clicks": ClickSettings(max_patches=2), "device": "cpu", **settings}
    return Predictor(build_sam3d(SMALL, seed=3), card, Settings(**given))


def test_the_predictor_plays_and_keeps_the_contract():
    volume, truth = bright_block()
    rounds, masks = evaluate_target(segmenter_of(random_predictor(), volume), truth, volume.spacing, n_clicks=3)
    assert rounds[0].encoder_calls > 0
    assert sum(turn.encoder_calls for turn in rounds) <= sum(turn.patches for turn in rounds)
    for turn in rounds:
        assert bool(masks[-1][turn.click]) is turn.is_foreground


def test_small_and_surplus_targets_are_left_out_with_a_note():
    volume, truth = bright_block()
    label_map = 2 * truth.astype(np.uint8)
    label_map[0, 0, :20] = 1
    label_map[25:28, :4, :4] = 3

    def refuse():
        raise VolumeError("bad.nii.gz is empty")

    cases = [Case("bad", refuse), Case("good", lambda: (volume, label_map), {2: "block"})]
    outcomes = list(evaluate(random_predictor(), cases, n_clicks=1, max_targets=2, has_baselines=True))
    assert outcomes[:3] == [
        "bad was left out: bad.nii.gz is empty",
        "good: the first 2 of 3 labels were taken",
        "good: label 1 was left out, for it has 20 voxels only",
    ]
    results = outcomes[3:]
    assert [result.method for result in results] == ["sam3d", "region growing", "random walker", "geodesic"]
    assert {result.target for result in results} == {Target("good", "block", 1728, 1.728)}
    assert {result.rounds[0].click for result in results} == {(13, 11, 11)}


@pytest.mark.parametrize(("offset", "is_ct"), [(0, False), (-100, True)])
def test_a_volume_without_dark_voxels_is_normalised_as_mr(offset, is_ct):
    volume, _ = bright_block()
    volume = make_volume(volume.array + offset, np.eye(4))
    clicks = prompts_from_request({"lesion": [[13, 11, 11]]}, ("lesion", "organ"), volume.shape)
    report = random_predictor().segment(volume, clicks).report
    assert (NOT_HOUNSFIELD in report.notes) is not is_ct
    named = random_predictor(intensity=PRESETS["ct"]).segment(volume, clicks).report
    assert NOT_HOUNSFIELD not in named.notes


def test_planes_show_the_click_and_the_outlines():
    volume, truth = bright_block()
    snapshot = Snapshot.of(volume, truth, [truth, np.zeros_like(truth)], (13, 11, 11))
    middle = tuple(length // 2 for length in snapshot.image.shape[1:])
    assert (snapshot.image[:, middle[0], middle[1]] > 128).all()
    assert [coverage[:, middle[0], middle[1]].round().tolist() for coverage in snapshot.masks.values()] == [
        [1, 1, 1],
        [1, 1, 1],
        [0, 0, 0],
    ]


def test_planes_are_turned_as_radiologists_see_them():
    right = block(slice(26, 28), slice(11, 13), slice(11, 13), shape=(30, 24, 24))  # +i is to the patient's right
    front = block(slice(13, 15), slice(22, 24), slice(11, 13), shape=(30, 24, 24))
    top = block(slice(13, 15), slice(11, 13), slice(21, 23), shape=(30, 24, 24))
    volume, truth = bright_block()

    def centre(mask, plane):
        coverage = Snapshot.of(volume, truth, [mask], (13, 11, 11)).masks["after the first click"][plane]
        row, column = np.argwhere(coverage > 0.5).mean(axis=0) / len(coverage)
        return row, column

    axial, coronal, sagittal = 0, 1, 2
    assert centre(right, axial)[1] < 0.3
    assert centre(right, coronal)[1] < 0.3
    assert centre(front, axial)[0] < 0.3
    assert centre(front, sagittal)[1] < 0.3
    assert centre(top, coronal)[0] < 0.35
    assert centre(top, sagittal)[0] < 0.35


def test_scorecards_hold_every_target_and_method(tmp_path):
    volume, truth = bright_block()
    snapshot = Snapshot.of(volume, truth, [truth], (13, 11, 11))
    target = Target("case|1", "1", 100, 0.1)
    results = [
        Result(target, "sam3d", rounds_with(0.25, 0.75), 3, snapshot),
        Result(target, "region growing", rounds_with(0.5), 3),
    ]
    write_scorecards(results, ["x was left out"], {"version": "7"}, tmp_path)
    rows = list(csv.DictReader((tmp_path / "targets.csv").read_text().splitlines()))
    assert [row["method"] for row in rows] == ["sam3d", "region growing"]
    assert [rows[0][f"dice_{n}"] for n in (1, 2, 3)] == ["0.2500", "0.7500", "0.7500"]
    assert rows[0]["clicks"] == "+0 0 0; +0 0 0"
    assert rows[0]["patches"] == "6"
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["weights"] == {"version": "7"}
    assert summary["left_out"] == ["x was left out"]
    assert summary["methods"]["sam3d"]["dice"] == {"1": 0.25, "3": 0.75}
    tables = (tmp_path / "tables.md").read_text()
    assert averages(results) in tables
    assert "case\\|1" in tables
    assert tables.endswith("- x was left out\n")
    assert len(target_rows(results)[0]) == len(target_rows(results)[1])
    for name in ("dice.png", "overlays.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
