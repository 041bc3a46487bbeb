"""What a place with labelled cases holds, whether it can be used, and who trains."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from lib.datasets import inspection
from lib.datasets.inspection import CaseFacts, facts_of, inspected
from lib.datasets.known import DATASETS
from lib.datasets.listing import labelled_cases, without_images
from lib.datasets.splitting import kept_split, new_split, read_split, write_split
from lib.datasets.statistics import intensity_for
from lib.errors import LabelError, SplitError, TrainingError, VolumeError
from lib.learning.cases import Case
from lib.settings import PRESETS, Intensity

NAMES = {1: "organ", 2: "tumour"}


def write(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def label_map(*values: int) -> np.ndarray:
    """(4, 4, 4) with one voxel of each value."""
    array = np.zeros((4, 4, 4), np.uint8)
    array[0, 0, : len(values)] = values
    return array


def image() -> np.ndarray:
    return np.arange(64, dtype=np.int16).reshape(4, 4, 4) - 60


def names_in(place: Path) -> dict[str, tuple[str, str]]:
    return {
        case.id: (case.image.relative_to(place).as_posix(), case.label.relative_to(place).as_posix())
        for case in labelled_cases(place).cases
    }


def test_pairs_are_found_as_kits_and_lits_name_them(tmp_path):
    for name in (
        *("a/x_image.nii.gz", "a/x_label.nii.gz", "b_image.nii.gz"),
        *("case_00001/imaging.nii.gz", "case_00001/aggregated_MAJ_seg.nii.gz", "case_00001/segmentation.nii.gz"),
        *("case_00002/imaging.nii.gz", "case_00002/segmentation.nii.gz"),
        *("volume-7.nii", "segmentation-7.nii", "volume-8.nii"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert names_in(tmp_path) == {
        "a/x": ("a/x_image.nii.gz", "a/x_label.nii.gz"),
        "case_00001": ("case_00001/imaging.nii.gz", "case_00001/aggregated_MAJ_seg.nii.gz"),
        "case_00002": ("case_00002/imaging.nii.gz", "case_00002/segmentation.nii.gz"),
        "volume-7": ("volume-7.nii", "segmentation-7.nii"),
    }


def test_a_decathlon_folder_misses_what_it_lists(tmp_path):
    for name in ("imagesTr/a", "imagesTr/b_0000", "imagesTr/e", "labelsTr/a", "labelsTr/b", "labelsTr/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.nii.gz").touch()
    listed = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in "abde"]
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"1": "organ", "2": "tumour"}, "training": listed}))
    assert labelled_cases(tmp_path).value_names == NAMES
    assert list(names_in(tmp_path)) == ["a", "b"]
    assert without_images(tmp_path) == ["c", "d", "e"]


def test_a_label_without_its_image_is_missed_among_pairs(tmp_path):
    for name in ("x_image", "x_label", "sub/y_label"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.nii.gz").touch()
    assert without_images(tmp_path) == ["y_label.nii.gz"]


def test_a_datalist_says_who_trains(tmp_path):
    lists = {
        "labels": {"0": "background", "1": "organ"},
        "training": [{"image": "i/a.nii.gz", "label": "l/a.nii.gz"}, {"image": "i/b.nii.gz", "label": "l/b.nii.gz"}],
        "validation": [{"image": "i/c.nii.gz", "label": "l/c.nii.gz"}],
        "test": ["i/d.nii.gz"],
    }
    path = tmp_path / "list.json"
    path.write_text(json.dumps(lists))
    listing = labelled_cases(path)
    assert [(case.id, case.image, case.label) for case in listing.cases][2] == (
        *("c", tmp_path / "i/c.nii.gz"),
        tmp_path / "l/c.nii.gz",
    )
    assert listing.parts == {"a": "training", "b": "training", "c": "validation"}
    path.write_text(json.dumps(lists["training"]))
    assert [case.id for case in labelled_cases(path).cases] == ["a", "b"]
    assert labelled_cases(path).parts == {}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "list.json cannot be read as JSON"),
        ('{"train": []}', 'list.json is no datalist: it needs a list "training"'),
        ('[{"image": "a.nii.gz"}]', "list.json lists {'image': 'a.nii.gz'} twice or without a label"),
        ('[{"image": "a.nii.gz", "label": "b"}, {"image": "x/a.nii.gz", "label": "c"}]', "twice or without a label"),
        ('{"training": [{"image": "a.nii.gz", "label": "b"}], "labels": [1]}', "does not name labels by their values"),
    ],
)
def test_a_datalist_that_makes_no_sense_is_refused(tmp_path, content, sentence):
    (tmp_path / "list.json").write_text(content)
    with pytest.raises(VolumeError, match=sentence):
        labelled_cases(tmp_path / "list.json")


def case_of(folder: Path, label: np.ndarray, affine: np.ndarray | None = None, name: str = "a") -> Case:
    return Case(
        name, write(folder / f"{name}_image.nii.gz", image()), write(folder / f"{name}_label.nii.gz", label, affine)
    )


def test_facts_of_a_case_by_eye(tmp_path):
    spacing = np.diag([1.0, 2.0, 2.5, 1.0])
    written = write(tmp_path / "i.nii.gz", image(), spacing)
    facts = facts_of(Case("a", written, write(tmp_path / "l.nii.gz", label_map(1, 2, 2), spacing)), 2, NAMES)
    assert (facts.name, facts.voxels, facts.ml) == ("a", 2, 0.01)
    # Voxels (0, 0, 1) and (0, 0, 2), in 201 percentiles.
    assert (facts.values[0], facts.values[100], facts.values[200]) == (-59.0, -58.5, -58.0)
    assert facts.is_hounsfield
    assert facts_of(Case("a", written, write(tmp_path / "l.nii.gz", label_map(1), spacing)), 2, NAMES).voxels == 0


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def padded_wrongly(path: Path) -> None:
    path.write_bytes(gzip.compress(b"no image at all" * 40))


@pytest.mark.parametrize(
    ("spoil", "error", "sentence"),
    [
        (lambda case: case.image.unlink(), VolumeError, "a_image.nii.gz is not there: copy or download it again"),
        (lambda case: case.label.unlink(), VolumeError, "a_label.nii.gz is not there"),
        (lambda case: cut_short(case.image), VolumeError, "a_image.nii.gz is damaged, cut short"),
        (lambda case: padded_wrongly(case.label), LabelError, "a_label.nii.gz is damaged, cut short or no NIfTI"),
        (lambda case: write(case.label, label_map(1, 7)), LabelError, r"value 7, which has no name \(1 is organ, 2 is"),
        (lambda case: write(case.label, label_map(1) * np.float32(0.5)), LabelError, "value 0.5, which is no label"),
        (lambda case: write(case.label, label_map(1).astype(np.int16) * -1), LabelError, "value -1, which is no label"),
        (lambda case: write(case.label, label_map(1), np.diag([1, 1, 1.5, 1])), LabelError, "0.75 mm off the image's"),
    ],
)
def test_a_case_that_cannot_be_used_says_why(tmp_path, spoil, error, sentence):
    case = case_of(tmp_path, label_map(1, 2))
    spoil(case)
    with pytest.raises(error, match=sentence):
        facts_of(case, 2, NAMES)
    with pytest.raises(TrainingError, match=f"1 of 1 cases cannot be used: a: .*{sentence}"):
        inspected([case], 2, NAMES, [], tmp_path / "run")


def test_a_label_cropped_to_a_part_is_placed(tmp_path, caplog):
    case = case_of(tmp_path, label_map(1, 2, 2)[:3])
    assert facts_of(case, 2, NAMES).voxels == 2
    assert "a_label.nii.gz has a grid of its own (3 x 4 x 4 voxels" in caplog.text


def test_a_set_is_refused_as_a_whole_and_names_a_few(tmp_path):
    good = case_of(tmp_path, label_map(2))
    bad = [case_of(tmp_path, label_map(9), name=f"bad_{number}") for number in range(3)]
    with pytest.raises(TrainingError) as caught:
        inspected([good, *bad], 2, NAMES, ["gone.nii.gz"], tmp_path / "run")
    text = str(caught.value)
    assert text.startswith("4 of 4 cases cannot be used: gone.nii.gz has a label or an image only; bad_0: bad_0_label")
    assert text.endswith("; and 1 more: mend them, or take their files away")


def test_a_second_look_reads_changed_files_alone(tmp_path, monkeypatch):
    cases = [case_of(tmp_path, label_map(2), name=name) for name in "ab"]
    first = inspected(cases, 2, NAMES, [], tmp_path / "run")
    read = []

    def watched(case, *rest):
        read.append(case.id)
        return facts_of(case, *rest)

    monkeypatch.setattr(inspection, "facts_of", watched)
    assert inspected(cases, 2, NAMES, [], tmp_path / "run") == first
    assert read == []
    write(cases[1].label, label_map(2, 2))
    assert inspected(cases, 2, NAMES, [], tmp_path / "run")["b"].voxels == 2
    assert read == ["b"]
    (tmp_path / "run" / "cases.json").write_text('{"cut')
    inspected(cases, 2, NAMES, [], tmp_path / "run")
    assert read == ["b", "a", "b"]


def facts(voxels: int = 5, values: tuple[float, ...] = (1.0,), is_hounsfield: bool = True) -> CaseFacts:
    return CaseFacts("x", voxels, 1.0, values, is_hounsfield)


def many(count: int, empty: int = 0) -> dict[str, CaseFacts]:
    return {f"c{number:03}": facts(voxels=0 if number < empty else 5) for number in range(count)}


@pytest.mark.parametrize("name", ["kits", "pancreas", "lits", "colon"])
def test_a_set_of_the_published_size_is_split_in_the_published_numbers(name):
    published = DATASETS[name].published_counts
    split = new_split(many(sum(published) + 2, empty=2), {}, published, seed=0)
    assert (len(split.training), len(split.validation), len(split.test)) == published
    assert split.without_target == ["c000", "c001"]
    assert "published fold 0" in split.rule


def test_another_size_is_split_by_shares_and_a_seed():
    split = new_split(many(20), {}, (209, 30, 61), seed=0)
    assert (len(split.training), len(split.validation), len(split.test)) == (14, 2, 4)
    everybody = [*split.training, *split.validation, *split.test]
    assert sorted(everybody) == sorted(many(20))
    assert new_split(many(20), {}, None, seed=0).test == split.test
    assert new_split(many(20), {}, None, seed=1).test != split.test


def test_a_datalists_own_split_is_kept():
    given = {"c000": "validation", "c001": "training", "c002": "training", "c003": "test"}
    split = new_split(many(4), given, None, seed=0)
    assert (split.training, split.validation, split.test) == (["c001", "c002"], ["c000"], ["c003"])


def test_a_part_without_foreground_is_refused():
    with pytest.raises(SplitError, match=r"no case with the target is left for training and validation \(3 cases have"):
        new_split(many(3, empty=3), {}, None, seed=0)
    given = {"c000": "validation", "c001": "training", "c002": "training"}
    with pytest.raises(SplitError, match=r"left for validation \(1 cases have no voxel of it\): add labelled cases"):
        new_split(many(3, empty=1), given, None, seed=0)


def test_a_split_is_read_as_it_was_written(tmp_path):
    split = new_split(many(10, empty=1), {}, None, seed=4)
    write_split(split, tmp_path / "s.json")
    assert read_split(tmp_path / "s.json") == split
    assert kept_split(tmp_path / "s.json", many(10, empty=1)).test == split.test
    with pytest.raises(SplitError, match=r"s\.json names c007, c008, c009, which the data lacks"):
        kept_split(tmp_path / "s.json", many(7))
    with pytest.raises(SplitError, match="no case with the target is left for training and validation"):
        kept_split(tmp_path / "s.json", many(10, empty=10))


@pytest.mark.parametrize("spoil", [lambda text: text[:-9], lambda text: text.replace("c001", "c002"), lambda _: "[]"])
def test_a_spoilt_split_is_refused(tmp_path, spoil):
    path = tmp_path / "s.json"
    write_split(new_split(many(10), {}, None, seed=4), path)
    path.write_text(spoil(path.read_text()))
    with pytest.raises(SplitError, match=r"s\.json is no split that pretrain wrote, or names a case twice"):
        read_split(path)
    with pytest.raises(SplitError, match=r"there is no file t\.json"):
        read_split(tmp_path / "t.json")


def test_statistics_are_measured_where_no_preset_fits():
    even = tuple(float(value) for value in range(0, 201))
    measured, source = intensity_for(None, [facts(values=even), facts(values=even)])
    assert (measured.low, measured.high) == (1.0, 199.0)
    assert measured.mean == 100.0
    assert measured.std == pytest.approx(np.clip(even, 1, 199).std(), abs=1e-3)
    assert source == "measured on the target of 2 training cases"
    assert intensity_for("pancreas", [facts(values=even)])[0] == PRESETS["pancreas"]
    assert intensity_for(None, [facts(), facts(is_hounsfield=False)])[0] == PRESETS["mr"]
    assert intensity_for(None, [facts(values=(7.0, 7.0))])[0] == Intensity(7.0, 7.0, 7.0, 1.0)
