"""Annotated cases to practise on: which part of which label is drawn, where it lies, and what is made up in turn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lib.errors import LabelError
from lib.geometry import PatchGrid
from lib.learning.case_subjects import AnnotatedCases
from lib.learning.cases import Case, CaseStore
from lib.learning.subjects import Subject
from lib.retraining.rehearsal import rehearse
from network.small_networks import card_of
from volumes_on_disk import write_nifti

SHAPE = (40, 36, 24)
VALUES = {1: "lesion", 2: "organ"}


def label_map() -> np.ndarray:
    """Two lesions, a speck of one, and an organ."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[5:12, 6:12, 4:9] = 1
    labels[25:33, 20:30, 12:20] = 1
    labels[38, 34, 22] = 1
    labels[20:24, 3:15, 3:20] = 2
    return labels


def oblique_affine() -> np.ndarray:
    """Flipped, oblique, anisotropic voxels."""
    turn = np.linalg.qr(np.random.default_rng(4).normal(size=(3, 3)))[0]
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-0.9, 1.2, 2.5])
    affine[:3, 3] = 30, -20, 50
    return affine


def store_of(folder: Path, labels: np.ndarray, name: str = "case") -> CaseStore:
    image, label = folder / f"{name}.nii", folder / f"{name}_label.nii"
    write_nifti(image, (100 * labels).astype(np.int16), oblique_affine())
    write_nifti(label, labels, oblique_affine())
    return CaseStore([Case(name, image, label, VALUES)], ["lesion", "organ"], card_of(), folder / "cache", 2**30)


def draw_many(pool: AnnotatedCases, count: int = 60) -> list[Subject]:
    return [pool.draw(n, np.random.default_rng([3, n])) for n in range(count)]


def test_each_part_of_each_label_is_a_subject_where_it_lies(tmp_path: Path) -> None:
    labels = label_map()
    found = {}
    for subject in draw_many(AnnotatedCases(store_of(tmp_path, labels), "lesion")):
        mask = subject.region.whole(SHAPE)
        found[int(mask.sum())] = mask
        value = 1 if subject.is_sought else 2
        assert (labels[mask] == value).all()
        grid = PatchGrid.around(subject.volume.affine, subject.first_click(np.random.default_rng(0)), 16, 1.0)
        image = grid.sample(subject.volume.array, fill=np.nan)
        inside = subject.target(grid) > 0.99
        assert inside.any()
        assert np.nanmin(image[inside]) > 95 * value
    assert sorted(found) == [7 * 6 * 5, 8 * 10 * 8, 4 * 12 * 17]


def test_a_label_of_a_few_voxels_is_a_subject_where_nothing_larger_is(tmp_path: Path) -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[10:12, 10:12, 10] = 1
    labels[30, 30, 20] = 1
    subjects = draw_many(AnnotatedCases(store_of(tmp_path, labels), "lesion"), 10)
    assert {int(subject.region.mask.sum()) for subject in subjects} == {4}


def test_the_same_random_numbers_draw_the_same_subject_whatever_was_drawn_before(tmp_path: Path) -> None:
    store = store_of(tmp_path, label_map())
    whole = [tuple(subject.region.start) for subject in draw_many(AnnotatedCases(store, "lesion"), 12)]
    alone = [
        tuple(AnnotatedCases(store, "lesion").draw(n, np.random.default_rng([3, n])).region.start) for n in range(12)
    ]
    assert alone == whole
    assert len(set(whole)) == 3


def test_without_a_usable_case_there_is_no_subject(tmp_path: Path) -> None:
    pool = AnnotatedCases(store_of(tmp_path, np.zeros(SHAPE, np.uint8)), "lesion")
    with pytest.raises(LabelError, match="none of 1 cases can be trained on"):
        pool.draw(0, np.random.default_rng(0))


def test_half_of_what_is_rehearsed_is_annotated_and_its_seed_decides_the_rest(tmp_path: Path) -> None:
    store = store_of(tmp_path, label_map())
    own = AnnotatedCases(store, "lesion")

    def drawn(seed: int, count: int) -> list[Subject]:
        mixture = rehearse(own, seed)
        return [mixture.draw(n, np.random.default_rng([5, n])) for n in range(count)]

    annotated = store.open("case").volume.key
    keys = [subject.volume.key for subject in drawn(0, 40)]
    assert 12 <= keys.count(annotated) <= 28
    again, other = ([subject.volume.key for subject in drawn(seed, 16)] for seed in (0, 1))
    assert again == keys[:16]
    # Which pool a sample is of goes by its own numbers: of what is made up, none is the same.
    for first, second in zip(keys, other, strict=False):
        assert (first == second) is (first == annotated)
    assert len(set(keys[:16])) > 5
