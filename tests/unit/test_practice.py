"""What is practised on: plain volumes, ways to look at a subject, pools that go on where they were, groups of cases."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from lib.errors import TrainingError
from lib.geometry import PatchGrid
from lib.images.volumes import make_volume
from lib.learning.case_cache import Region
from lib.learning.chains import spoilt
from lib.learning.made_volumes import KEPT, MadeVolumes, phantom_target, shown_plain
from lib.learning.subjects import Look, Subject
from lib.pretraining.pools import RealCases, read_groups
from lib.settings import Intensity
from lib.synthesis.phantoms import make_phantom
from lib.synthesis.plain import SMALLEST_VOXELS, plain_volume
from volumes_on_disk import write_nifti

PLAIN = Intensity(low=-1000, high=1000, mean=0, std=1)


def rng_of(seed):
    return np.random.default_rng([9, seed])


def test_plain_volumes_are_decided_by_their_seed_and_show_their_object():
    first, again, other = (plain_volume(rng_of(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first.array, again.array)
    assert np.array_equal(first.mask, again.mask)
    assert first.array.shape != other.array.shape or not np.array_equal(first.array, other.array)
    seen, scales, sizes = [], [], []
    for seed in range(40):
        plain = plain_volume(rng_of(seed))
        assert plain.array.shape == plain.mask.shape
        assert plain.array.dtype == np.float32
        assert plain.mask.sum() >= SMALLEST_VOXELS
        around = ndimage.binary_dilation(plain.mask, iterations=2) & ~plain.mask
        inside, outside = plain.array[plain.mask], plain.array[around]
        deviation = 1.5 * np.median(np.abs(outside - np.median(outside)))  # whatever else lies there
        seen.append(abs(np.median(inside) - np.median(outside)) > deviation)
        scales.append(np.abs(plain.affine[:3, :3]).max())
        sizes.append(plain.mask.sum())
    assert np.mean(seen) > 0.7
    assert max(scales) > 30 * min(scales)
    assert max(sizes) > 100 * min(sizes)


def test_a_look_turns_voxels_and_clicks_alike_and_back():
    values = np.zeros((8, 8, 8), np.float32)
    values[1, 2, 5] = 1
    turned_somehow = 0
    for seed in range(30):
        look = Look.draw(rng_of(seed))
        turned = look.turn(values)[0, 0].numpy()
        (place,) = look.turn_points(np.array([[1.0, 2.0, 5.0]]), 8)
        assert turned[tuple(place.astype(int))] == 1
        assert np.array_equal(look.turn_back(turned), values)
        turned_somehow += not np.array_equal(turned, values)
    assert turned_somehow > 15


def oblique_subject():
    """A box in a volume of flipped, oblique, anisotropic voxels."""
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-0.8, 1.1, 3.0])
    mask = np.zeros((40, 30, 20), bool)
    mask[12:25, 8:20, 5:12] = True
    return Subject(make_volume(np.where(mask, 5, 1).astype(np.int16), affine), PLAIN, Region.around(mask)), mask


def test_image_target_and_click_of_a_subject_lie_at_one_place():
    subject, mask = oblique_subject()
    still = Look((0, 1, 2), (), 1.0, 0.0, 1.0, 0.0, 0.0)
    clicked = set()
    for seed in range(40):
        click = subject.first_click(rng_of(seed))
        assert mask[click]
        clicked.add(click)
        grid = PatchGrid.around(subject.volume.affine, click, 24, 1.3)
        image, target = still.patch(subject, grid, rng_of(0)), subject.target(grid)
        assert target[12, 12, 12] > 0.4
        inside = image != 0
        assert (
            np.abs(image - (1 + 4 * target))[inside].max() < 0.02
        )  # the box around the mask is narrower than a wide kernel
    assert len(clicked) > 15
    assert subject.extent_mm == pytest.approx((7 + 4) * 3.0)


def test_a_spoilt_truth_is_like_it_and_not_it():
    truth = np.zeros((32, 32, 32), bool)
    truth[10:22, 8:24, 12:20] = True
    likeness = []
    for seed in range(30):
        prior = spoilt(truth, rng_of(seed))
        assert set(np.sign(prior).ravel().tolist()) <= {-1.0, 1.0}
        assert 0.5 <= np.abs(prior).max() <= 1
        likeness.append(2 * ((prior > 0) & truth).sum() / ((prior > 0).sum() + truth.sum()))
    assert 0.4 < np.mean(likeness) < 0.95
    assert len(set(np.round(likeness, 3))) > 20


def test_made_volumes_are_the_same_for_whoever_goes_on():
    def drawn(numbers):
        pool = MadeVolumes(shown_plain, 2, 7)
        return {n: pool.draw(n, rng_of(n)) for n in numbers}

    whole, later = drawn(range(12)), drawn(range(8, 12))
    for number, subject in later.items():
        assert np.array_equal(subject.volume.array, whole[number].volume.array)
        assert np.array_equal(subject.region.mask, whole[number].region.mask)


def test_each_made_volume_serves_several_samples_and_processes_make_none_twice(monkeypatch):
    made = []

    def noted(rng):
        made.append(rng.bit_generator.state["state"]["state"])
        return shown_plain(np.random.default_rng(0))

    pool = MadeVolumes(noted, 4, 7)
    for number in range(8 * KEPT):
        pool.draw(number, rng_of(number))
    alone = sorted(made)
    # Places begin their first volumes at different ages, so that some see a third one.
    assert 2 * KEPT <= len(alone) < 3 * KEPT
    assert len(set(alone)) == len(alone)
    made.clear()
    for rank in range(4):
        pool, share = MadeVolumes(noted, 4, 7), KEPT // 4
        for number in range(8 * KEPT):
            if number % KEPT // share == rank:
                pool.draw(number, rng_of(number))
    assert sorted(made) == alone


def test_a_phantoms_target_is_one_part():
    phantom = make_phantom(3, (64, 64, 40), (2.0, 2.0, 3.0), scene="viscera")
    for seed in range(10):
        target = phantom_target(rng_of(seed), phantom)
        if target is not None:
            assert ndimage.label(target)[1] == 1
            assert target.sum() >= 20


def write_group(folder: Path, **changes) -> Path:
    array = np.zeros((20, 20, 20), np.int16)
    label = array.astype(np.uint8)
    label[3:9, 3:9, 3:9], label[13:18, 13:18, 13:18], label[0, 0, 19] = 1, 1, 1
    write_nifti(folder / "a_image.nii", array, np.eye(4))
    write_nifti(folder / "a_label.nii", label, np.eye(4))
    group = {"name": "a", "share": 1, "cases": [["a_image.nii", "a_label.nii"]], **changes}
    path = folder / "groups.json"
    path.write_text(json.dumps([group]))
    return path


def test_each_part_of_a_label_is_a_subject_and_specks_are_none(tmp_path: Path):
    (group,) = read_groups(write_group(tmp_path, is_sought=False))
    cases = RealCases([group])
    found = {tuple(cases.draw(0, rng_of(seed)).region.counts) for seed in range(30)}
    assert len(found) == 2
    assert not cases.draw(0, rng_of(1)).is_sought


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"cases": [["gone.nii", "a_label.nii"]]}, "files that are not there"),
        ({"cases": []}, "names no cases"),
        ({"share": 0}, "no share"),
        ({"share": "much"}, "is no list of case groups"),
        ({"cases": 3}, "is no list of case groups"),
    ],
)
def test_groups_that_cannot_be_trained_on_are_refused(tmp_path: Path, changes, sentence):
    with pytest.raises(TrainingError, match=sentence):
        read_groups(write_group(tmp_path, **changes))


def test_groups_may_lie_apart_from_their_cases(tmp_path: Path):
    elsewhere = tmp_path / "elsewhere" / "groups.json"
    elsewhere.parent.mkdir()
    write_group(tmp_path).rename(elsewhere)
    with pytest.raises(TrainingError, match="files that are not there"):
        read_groups(elsewhere)
    [group] = read_groups(elsewhere, tmp_path)
    assert all(path.parent == tmp_path for pair in group.cases for path in pair)


def test_the_demo_model_was_trained_on_no_patient_that_it_is_measured_on():
    groups = json.loads((Path(__file__).parents[2] / "docs" / "demo-model-cases.json").read_text())
    files = [Path(file).name for group in groups for pair in group["cases"] for file in pair]
    assert len(files) == len(set(files)) == 2 * 101
    patients = {match[1] for file in files if (match := re.match(r"sarcoma_\w+?_(\d+)_", file))}
    assert len(patients) == 20
    assert not patients & {"024", "028", "029", "032", "033", "041", "043", "047", "048"}
    assert not any(name in file for file in files for name in ("pet", "hippocampus", "ms_flair_07", "headneck_12_"))
