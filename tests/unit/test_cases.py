"""Training samples: each at its own voxel, each the same for its number, and no bad case stops them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from lib.errors import LabelError
from lib.geometry import PatchGrid
from lib.images.volumes import make_volume
from lib.learning.augmentation import Augmentation
from lib.learning.case_cache import CaseCache, PreparedCase, Region
from lib.learning.cases import Case, CaseStore, Draw, TrainingSample
from lib.network.weights import Card
from lib.settings import PRESETS, VARIANTS, Intensity
from unit.volumes_on_disk import write_nifti

SIZE = 16
SHAPE = (30, 26, 14)
AFFINE = np.array([[0, 0, 2.0, -30.0], [0.9, 0, 0, 11.0], [0, -1.1, 0, 900.0], [0, 0, 0, 1]])
LABELS = ["lesion", "organ"]
# An intensity that leaves values as they are.
PLAIN = Intensity(low=-1e6, high=1e6, mean=0.0, std=1.0)
ORIENTATIONS = [(order, flips) for order in permutations(range(3)) for flips in product((1, -1), repeat=3)]


def card_of(spacing_mm: float = 1.5, intensity: Intensity = PLAIN, size: int = SIZE, has_prior: bool = False) -> Card:
    """Of a network of one spacing, or of one that reads the mask so far and sees objects from as far as they need."""
    network = replace(VARIANTS["tiny"], patch_size=size, click_unet=VARIANTS["tiny"].click_unet if has_prior else ())
    return Card("tiny", network, intensity, spacing_mm)


def label_map(seed: int = 0) -> NDArray:
    """A lesion with thin parts and a larger organ, elsewhere for every seed."""
    rng = np.random.default_rng(seed)
    label = np.zeros(SHAPE, np.uint8)
    i, j, k = (int(rng.integers(3, n - 8)) for n in SHAPE)
    label[i : i + 6, j : j + 5, k : k + 3] = 2
    label[i + 2, j - 3 : j + 3, k + 1] = 1
    label[i + 2 : i + 5, j, k] = 1
    return label


def image_of(label: NDArray, seed: int = 0) -> NDArray:
    """100 for the lesion and 200 for the organ, over ripples from -20 to 20."""
    ripples = np.random.default_rng(seed).integers(-20, 21, label.shape)
    return (100 * label.astype(np.int16) + ripples).astype(np.int16)


def write_case(folder: Path, name: str, seed: int = 0, affine: NDArray = AFFINE) -> Case:
    folder.mkdir(exist_ok=True)
    label = label_map(seed)
    image = write_nifti(folder / f"{name}.nii", image_of(label, seed), affine)
    return Case(name, image, write_nifti(folder / f"{name}_label.nii", label, affine))


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    return [write_case(tmp_path / "data", f"case_{seed}", seed) for seed in range(4)]


StoreMaker = Callable[..., CaseStore]


@pytest.fixture
def store_of(tmp_path: Path) -> StoreMaker:
    def make(cases: list[Case], **changes: object) -> CaseStore:
        given = {"labels": LABELS, "card": card_of(), "cache_folder": tmp_path / "cache", "limit_bytes": 10**8}
        return CaseStore(cases, **{**given, **changes})

    return make


def same(first: TrainingSample, second: TrainingSample) -> bool:
    arrays = np.array_equal(first.patch, second.patch) and np.array_equal(first.target, second.target)
    words = [(each.label, each.case, each.voxel, each.at) for each in (first, second)]
    return arrays and words[0] == words[1]


# ---------------------------------------------------------------- samples


def test_a_sample_shows_the_voxel_it_was_drawn_for(cases: list[Case], store_of: StoreMaker) -> None:
    store = store_of(cases, augmentation=None)
    seen = []
    for sample in store.samples(seed=1, start=0, count=60, draw=Draw(background_share=0.0)):
        label = label_map(int(sample.case[-1]))
        assert label[sample.voxel] == LABELS.index(sample.label) + 1
        assert sample.target[sample.at] == 1.0
        # Read from the file, no interpolation: the voxel lies on a sample of the patch. Thin slices are not averaged.
        affine = store.open(sample.case).volume.affine
        grid = PatchGrid.around(affine, sample.voxel, SIZE, 1.5).shifted(np.array([SIZE // 2] * 3) - sample.at)
        assert np.array_equal(grid.sample(label == label[sample.voxel], 0.0, antialias=False) > 0.5, sample.target > 0)
        assert sample.patch.dtype == sample.target.dtype == np.float32
        assert sample.patch.shape == sample.target.shape == (SIZE,) * 3
        assert set(np.unique(sample.target)) <= {0.0, 1.0}
        seen.append((sample.case, sample.label))
    assert len(set(seen)) == 8  # every label of every case


def test_patches_hold_the_image_where_the_target_says(tmp_path: Path, store_of: StoreMaker) -> None:
    # With samples on the voxels themselves, the patch must be above 50 exactly where the target is, in every
    # orientation and however it was flipped.
    label = (label_map() > 0).astype(np.uint8)
    for number, (order, flips) in enumerate(ORIENTATIONS):
        affine = np.eye(4)
        affine[:3, :3] = np.eye(3)[:, order] * flips
        folder = tmp_path / f"orientation_{number}"
        folder.mkdir()
        image = write_nifti(folder / "image.nii", image_of(label), affine)
        case = Case("only", image, write_nifti(folder / "label.nii", label, affine))
        store = store_of([case], card=card_of(spacing_mm=1.0), augmentation=Augmentation(shift=5.0, scale=0.1))
        for sample in store.samples(seed=number, start=0, count=4):
            assert np.array_equal(sample.patch > 50, sample.target > 0)


def test_the_voxel_falls_anywhere_in_the_patch(cases: list[Case], store_of: StoreMaker) -> None:
    at = np.array([sample.at for sample in store_of(cases).samples(3, 0, 300, Draw(0.0, centred_share=0.0))])
    reach = int(0.8 * ((SIZE - 1) // 2))
    assert at.min() >= 0
    assert at.max() < SIZE
    for axis in range(3):
        places = set(at[:, axis].tolist())
        assert len(places) >= 2 * reach + 1  # flips add one more
        assert abs(at[:, axis].mean() - (SIZE - 1) / 2) < 1.0
    still = [sample.at for sample in store_of(cases, augmentation=None).samples(3, 0, 5, Draw(0.0, 0.0, 0.0))]
    assert still == [(SIZE // 2,) * 3] * 5


def spacings_drawn(label: NDArray, folder: Path, count: int, seed: int = 0) -> list[float]:
    """Millimetres between samples, for samples of one case in voxels of 1 mm."""
    image = write_nifti(folder / "drawn.nii", image_of(label), np.eye(4))
    case = Case("drawn", image, write_nifti(folder / "drawn_label.nii", label, np.eye(4)))
    store = CaseStore([case], LABELS, card_of(has_prior=True), None, 10**8, augmentation=None)
    drawn: list[float] = []
    real = store._patch
    store._patch = lambda prepared, grid: drawn.append(grid.spacing_mm) or real(prepared, grid)  # type: ignore
    list(store.samples(seed, 0, count, draw=Draw(background_share=0.0)))
    return drawn


def test_patches_are_drawn_at_the_finest_spacing_that_holds_the_object_and_at_any(tmp_path: Path) -> None:
    small, large, apart = (np.zeros((64, 64, 64), np.uint8) for _ in range(3))
    small[28:34, 28:34, 28:34] = 1
    large[20:43, 20:43, 20:43] = 1  # wider than a patch of 16 mm
    apart[20:24, 20:24, 20:24] = 1
    apart[27:31, 20:24, 20:24] = 1  # a second lesion, that a patch around the first one cuts
    for label, usual in ((small, 1.0), (apart, 1.0), (large, 4.0)):
        drawn = spacings_drawn(label, tmp_path, 60)
        # Half of them at any, a third of which are the usual one.
        assert 0.5 < drawn.count(usual) / 60 < 0.85, (usual, drawn)
        assert set(drawn) == {1.0, 2.0, 4.0}


@pytest.mark.parametrize(
    "affine",
    [
        np.diag([1.0, 1.0, 1.0, 1.0]),
        np.diag([-0.8, 0.9, 2.0, 1.0]),
        np.array([[0, 0.9, -0.4, 3], [0.8, 0.3, 1.2, 0], [-0.5, 0.2, 1.6, 9], [0, 0, 0, 1]]),
    ],
    ids=["1 mm", "flipped, anisotropic", "oblique"],
)
def test_centred_patches_have_the_middle_of_the_clicked_lesion_in_theirs(tmp_path: Path, affine: NDArray) -> None:
    label = np.zeros((60, 50, 40), np.uint8)
    where = np.moveaxis(np.indices(label.shape), 0, -1)
    middles = np.array([[15, 14, 12], [44, 33, 27]])
    for middle in middles:
        label[np.linalg.norm((where - middle) @ affine[:3, :3].T, axis=-1) < 4.5] = 1
    image = write_nifti(tmp_path / "two.nii", image_of(label), affine)
    case = Case("two", image, write_nifti(tmp_path / "two_label.nii", label, affine))
    store = CaseStore([case], LABELS, card_of(spacing_mm=1.0), None, 10**8, augmentation=None)
    seen = []
    for sample in store.samples(2, 0, 30, Draw(background_share=0.0, centred_share=1.0)):
        off = np.linalg.norm((np.array(sample.voxel) - middles) @ affine[:3, :3].T, axis=1)
        assert off.min() <= 1.5
        assert sample.at == (SIZE // 2,) * 3
        seen.append(int(off.argmin()))
    assert set(seen) == {0, 1}


def test_background_patches_are_empty_of_their_label(cases: list[Case], store_of: StoreMaker) -> None:
    store = store_of(cases, card=card_of(spacing_mm=0.8))
    samples = list(store.samples(seed=4, start=0, count=200, draw=Draw(background_share=0.3)))
    empty = [sample for sample in samples if not sample.target.any()]
    assert 40 <= len(empty) <= 80
    assert all(np.ptp(sample.patch) > 0 for sample in empty)
    assert all(sample.target[sample.at] == 1.0 for sample in samples if sample.target.any())
    assert not any(not sample.target.any() for sample in store.samples(4, 0, 100, draw=Draw(background_share=0.0)))


def test_a_label_all_over_leaves_no_background(tmp_path: Path, store_of: StoreMaker) -> None:
    image = write_nifti(tmp_path / "image.nii", image_of(label_map()), AFFINE)
    label = write_nifti(tmp_path / "label.nii", np.ones(SHAPE, np.uint8), AFFINE)
    store = store_of([Case("full", image, label)])
    assert all(sample.target.any() for sample in store.samples(0, 0, 10, draw=Draw(background_share=1.0)))


def test_an_exchanged_target_stays_where_it_was_over_every_other_image(tmp_path: Path, store_of: StoreMaker) -> None:
    # The second image is the first, mirrored on disk, and 1000 brighter; the third is twice as wide.
    label, turned = label_map(0), np.diag([-1.0, 1.0, 1.0, 1.0])
    image = image_of(label)
    turned[0, 3] = SHAPE[0] - 1
    wide, wide_label = np.repeat(image, 2, axis=0) + 3000, np.repeat(label, 2, axis=0)
    stored = {
        "plain": (image, label, AFFINE),
        "mirrored": (image[::-1] + 1000, label[::-1], AFFINE @ turned),
        "wide": (wide, wide_label, AFFINE),
    }
    cases = []
    for name, (values, mask, affine) in stored.items():
        path = write_nifti(tmp_path / f"{name}.nii", values.astype(np.int16), affine)
        cases.append(Case(name, path, write_nifti(tmp_path / f"{name}_label.nii", mask, affine)))
    store = store_of(cases, augmentation=None)
    rows = list(store.exchanged(list(stored), np.random.default_rng(4), Draw(background_share=0.0)))
    assert [[each.case for each in row] for row in rows] == [[name] * 3 for name in stored]
    for row in rows:
        assert len({(each.voxel, each.at, each.label) for each in row}) == 1
        assert all(each.target is row[0].target and each.target.any() for each in row)
    plain, mirrored, wide_patch = (each.patch for each in rows[0])
    # Beside the volume both are filled alike, and everywhere else they show the same.
    assert set(np.unique(np.round(mirrored - plain, 1))) == {0.0, 1000.0}
    first = rows[0][0]
    grid = PatchGrid.around(AFFINE, first.voxel, SIZE, 1.5).shifted(np.array([SIZE // 2] * 3) - first.at)
    np.testing.assert_allclose(plain[first.target > 0], grid.sample(image, 0.0)[first.target > 0], atol=0.01)
    assert np.abs(wide_patch[first.target > 0] - 3000).max() < 500


def test_voxels_are_drawn_evenly() -> None:
    mask = np.zeros((6, 5, 8), bool)
    mask[1, 2, 2], mask[2:4, 1:3, 6] = True, True
    rng = np.random.default_rng(0)
    drawn = [Region.around(mask).draw(rng) for _ in range(2000)]
    counts = {index: drawn.count(index) for index in set(drawn)}
    assert set(counts) == {tuple(index) for index in np.argwhere(mask).tolist()}
    assert min(counts.values()) > 320  # of 400 each


@pytest.mark.parametrize("spacing_mm", [0.4, 1.0, 3.1])
def test_a_boxed_mask_gives_the_target_of_the_whole_one(spacing_mm: float) -> None:
    rng = np.random.default_rng(1)
    mask = label_map(2) == 2
    region = Region.around(mask)
    assert np.array_equal(region.whole(SHAPE), mask)
    for _ in range(30):
        voxel = rng.integers(SHAPE)
        grid = PatchGrid.around(AFFINE, voxel, SIZE, spacing_mm).shifted(rng.uniform(-6, 6, 3))
        expected = grid.sample(mask, 0.0, antialias=False) > 0.5
        assert np.array_equal(region.target(grid) > 0, expected)


def test_intensities_are_those_of_the_card(cases: list[Case], store_of: StoreMaker) -> None:
    narrow = Intensity(low=0.0, high=150.0, mean=50.0, std=25.0)
    patches = [
        sample.patch for sample in store_of(cases, card=card_of(intensity=narrow), augmentation=None).samples(0, 0, 20)
    ]
    assert min(patch.min() for patch in patches) == pytest.approx(-2.0)
    assert max(patch.max() for patch in patches) == pytest.approx(4.0, abs=0.3)
    opened = store_of(cases, card=card_of(intensity=PRESETS["mr"])).open("case_0")
    assert not opened.intensity.is_percentile


def test_light_augmentation_by_eye() -> None:
    patch = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    flipped = Augmentation(flip_share=1.0, shift=0.0, scale=0.0)(patch, patch > 5, (0, 0, 1), np.random.default_rng(0))
    assert flipped[0].tolist() == [[[7, 6], [5, 4]], [[3, 2], [1, 0]]]
    assert flipped[1].tolist() == [[[1, 1], [0, 0]], [[0, 0], [0, 0]]]
    assert flipped[2] == (1, 1, 0)
    still = Augmentation(flip_share=0.0)(patch, patch, (0, 0, 1), np.random.default_rng(0))
    assert still[2] == (0, 0, 1)
    assert np.array_equal(still[1], patch)
    assert not np.array_equal(still[0], patch)
    assert np.abs(still[0] - patch).max() <= 0.2 + 0.1 * 7


# ------------------------------------------------------------ determinism


def test_a_sample_depends_on_seed_and_number_alone(cases: list[Case], store_of: StoreMaker, tmp_path: Path) -> None:
    whole = list(store_of(cases).samples(seed=7, start=0, count=12))
    later = list(store_of(cases).samples(seed=7, start=9, count=3))
    assert all(map(same, whole[9:], later))
    elsewhere = list(store_of(cases, cache_folder=tmp_path / "other").samples(seed=7, start=0, count=12))
    in_memory = list(store_of(cases, cache_folder=None).samples(seed=7, start=0, count=12))
    uncached = list(store_of(cases, limit_bytes=1).samples(seed=7, start=0, count=12))
    for others in (elsewhere, in_memory, uncached):
        assert all(map(same, whole, others))
    assert not any(map(same, whole, store_of(cases).samples(seed=8, start=0, count=12)))


def test_a_bad_case_met_early_or_late_changes_no_sample(cases: list[Case], store_of: StoreMaker) -> None:
    cases[1].label.unlink()
    store = store_of(cases)
    assert store.usable() == ["case_0", "case_2", "case_3"]
    early = list(store.samples(seed=2, start=0, count=20))
    late = [next(iter(store_of(cases).samples(seed=2, start=number, count=1))) for number in range(20)]
    assert all(map(same, early, late))


# ----------------------------------------------------------------- skipped


def test_cases_that_cannot_be_used_are_named_and_left_out(tmp_path: Path, store_of: StoreMaker) -> None:
    cases = [write_case(tmp_path / "data", name) for name in ("good", "cut", "gone", "empty", "moved", "damaged")]
    _, cut, gone, empty, moved, damaged = cases
    cut.image.write_bytes(cut.image.read_bytes()[:2000])
    gone.image.unlink()
    write_nifti(empty.label, np.zeros(SHAPE, np.uint8), AFFINE)
    write_nifti(moved.label, label_map(), AFFINE + 400.0 * np.eye(4, k=3))
    damaged.label.write_bytes(b"what")
    store = store_of(cases)
    assert store.skipped == {}  # nothing is opened before it is asked for
    assert {sample.case for sample in store.samples(0, 0, 30)} == {"good"}
    assert store.usable() == ["good"]
    said = {"cut": "cut short", "gone": "does not exist", "empty": "no voxel", "moved": "mm off it"}
    assert store.skipped.keys() == {*said, "damaged"}
    for case, reason in said.items():
        assert reason in store.skipped[case]
    assert "damaged_label.nii" in store.skipped["damaged"]


def test_no_usable_case_is_one_sentence(cases: list[Case], store_of: StoreMaker) -> None:
    cases[0].image.unlink()
    with pytest.raises(LabelError, match=r"none of 1 cases can be trained on: case_0\.nii does not exist"):
        next(iter(store_of(cases[:1]).samples(0, 0, 1)))
    with pytest.raises(LabelError, match=r"none of 0 cases.*annotated"):
        next(iter(store_of([]).samples(0, 0, 1)))


def test_notes_of_labels_are_kept(cases: list[Case], store_of: StoreMaker) -> None:
    for _ in range(2):  # from the file, then from the cache
        store = store_of([replace(cases[0], value_names={1: "lesion", 2: "vessel"})])
        assert store.usable() == ["case_0"]
        assert list(store.open("case_0").regions) == ["lesion"]
        assert "vessel" in store.notes["case_0"][0]


# ------------------------------------------------------------------- cache


def size_on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def count_preparations(store: CaseStore, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    prepared: list[str] = []
    prepare = store._prepared
    monkeypatch.setattr(store, "_prepared", lambda case: prepared.append(case.id) or prepare(case))
    return prepared


def test_cases_are_prepared_once_and_mapped(
    cases: list[Case], store_of: StoreMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(store_of(cases).samples(0, 0, 20))
    store = store_of(cases)
    prepared = count_preparations(store, monkeypatch)
    store.usable()
    assert prepared == []
    opened = store.open("case_0")
    assert isinstance(opened.volume.array, np.memmap)
    assert isinstance(opened.regions["organ"].mask, np.memmap)
    assert np.array_equal(opened.volume.array, image_of(label_map(0), 0))
    assert np.array_equal(opened.regions["organ"].whole(SHAPE), label_map(0) == 2)
    assert np.array_equal(opened.volume.affine, nib.load(cases[0].image).affine)


def test_the_cache_keeps_to_its_bytes_and_drops_the_least_used(
    cases: list[Case], store_of: StoreMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    store_of(cases[:1]).usable()
    one = size_on_disk(folder)
    limit = 2 * one + one // 2  # room for two
    store = store_of(cases, limit_bytes=limit)
    prepared = count_preparations(store, monkeypatch)
    for case, made in [
        ("case_0", []),
        ("case_1", ["case_1"]),
        ("case_0", []),
        ("case_2", ["case_2"]),
        ("case_0", []),
        ("case_1", ["case_1"]),
        ("case_2", ["case_2"]),
    ]:
        prepared.clear()
        assert store.open(case) is not None
        assert prepared == made, case
        assert size_on_disk(folder) <= limit
    small = store_of(cases, limit_bytes=one // 2)
    assert size_on_disk(folder) == 0  # a lower limit holds from the start
    assert small.usable() == [case.id for case in cases]
    assert size_on_disk(folder) == 0


def test_a_changed_file_or_card_is_prepared_again(
    cases: list[Case], store_of: StoreMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_of(cases[:1]).usable()

    def made(case: Case, **changes: object) -> list[str]:
        store = store_of([case], **changes)
        prepared = count_preparations(store, monkeypatch)
        assert store.usable() == [case.id]
        return prepared

    assert made(cases[0]) == []
    assert made(cases[0], card=card_of(spacing_mm=2.0)) == []  # does not matter to what is kept
    assert made(cases[0], card=card_of(intensity=PRESETS["ct"])) == ["case_0"]
    assert made(cases[0], labels=["organ", "lesion"]) == ["case_0"]
    assert made(replace(cases[0], value_names={1: "organ", 2: "lesion"})) == ["case_0"]
    write_nifti(cases[0].label, label_map(3), AFFINE)
    assert made(cases[0]) == ["case_0"]
    os.utime(cases[0].image, ns=(5, 5))
    assert made(cases[0]) == ["case_0"]


@pytest.mark.parametrize("file", ["image.npy", "label_0.npy", "case.json"])
@pytest.mark.parametrize("damage", ["cut", "zeroed", "gone", "flipped"])
def test_damaged_entries_are_made_again(
    cases: list[Case], store_of: StoreMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, damage: str
) -> None:
    good = list(store_of(cases[:1]).samples(0, 0, 3))
    [entry] = (tmp_path / "cache").iterdir()
    path = entry / file
    content = path.read_bytes()
    spoilt = {
        "cut": content[: len(content) // 2],
        "zeroed": bytes(len(content)),
        "flipped": content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
    }
    path.unlink()
    if damage != "gone":
        path.write_bytes(spoilt[damage])
    store = store_of(cases[:1])
    prepared = count_preparations(store, monkeypatch)
    assert all(map(same, good, store.samples(0, 0, 3)))
    if not (file == "case.json" and damage == "flipped"):
        assert prepared == ["case_0"]
        assert path.read_bytes() == content
    again = count_preparations(fresh := store_of(cases[:1]), monkeypatch)
    assert fresh.usable() == ["case_0"]
    assert again == []


def test_a_pickle_in_the_cache_is_never_run(cases: list[Case], store_of: StoreMaker, tmp_path: Path) -> None:
    store_of(cases[:1]).usable()
    [entry] = (tmp_path / "cache").iterdir()
    bad = np.array([print], dtype=object)
    np.save(entry / "image.npy", bad, allow_pickle=True)
    opened = store_of(cases[:1]).open("case_0")
    assert np.array_equal(opened.volume.array, image_of(label_map(0), 0))


def test_a_full_disk_costs_time_only(
    cases: list[Case], store_of: StoreMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    store = store_of(cases)
    assert store.usable() == [case.id for case in cases]
    assert store.skipped == {}
    assert size_on_disk(tmp_path / "cache") == 0
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_a_killed_writer_left_is_swept_up(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    dead, alive = folder / ".writing-99999999-a", folder / f".writing-{os.getpid()}-b"
    for path in (dead, alive):
        path.mkdir(parents=True)
        (path / "image.npy").write_bytes(b"half")
    CaseCache(folder, 10**6)
    assert [path.name for path in folder.iterdir()] == [alive.name]


def test_another_process_may_delete_what_is_in_use(tmp_path: Path) -> None:
    mask = label_map() == 2
    volume = make_volume(image_of(label_map()), AFFINE)
    made = PreparedCase(volume, PLAIN, {"organ": Region.around(mask)})
    first, second = CaseCache(tmp_path / "cache", 10**7), CaseCache(tmp_path / "cache", 10**7)
    opened = first.get("a", lambda: made)
    assert second.get("a", lambda: pytest.fail("made twice")).volume.key == volume.key
    CaseCache(tmp_path / "cache", 1)
    assert np.array_equal(first.get("a", lambda: made).volume.array, volume.array)
    assert np.array_equal(opened.regions["organ"].whole(SHAPE), mask)
