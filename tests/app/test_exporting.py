"""A folder of labelled cases as others train on it: voxels, places, versions, patients, readers of others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from monai.data import load_decathlon_datalist

from cli import main
from lib.datasets.listing import labelled_cases
from lib.datastore.reviews import APPROVED, SENT_BACK
from lib.datastore.versioned import VersionedDatastore
from lib.images.dicom_writing import SeriesInfo, on_dicom_grid, write_series
from lib.images.volumes import open_volume
from unit.test_dicom_writing import affine_of
from unit.volumes_on_disk import write_itk

pytestmark = [pytest.mark.app, pytest.mark.slow]

SHAPE = (9, 8, 6)
NAMES = ("liver", "Gefäß")


def image_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-500, 900, SHAPE).astype(np.int16)


def label_of(seed: int) -> np.ndarray:
    values = np.random.default_rng(100 + seed).integers(0, 3, SHAPE).astype(np.uint8)
    return values % 2 if seed == 3 else values  # one holds the first of its labels only


def submit(store: VersionedDatastore, image: str, seed: int, tmp_path: Path, names: tuple[str, ...] = NAMES) -> None:
    affine = open_volume(store.get_image_uri(image)).affine
    nibabel.save(nibabel.Nifti1Image(label_of(seed), affine), tmp_path / "l.nii.gz")
    store.save_label(image, str(tmp_path / "l.nii.gz"), "final", {"label_info": [{"name": name} for name in names]})


def flipped(number: int) -> np.ndarray:
    return affine_of(("RAS", "LPI", "PSL", "IRA", "LAS", "SPR")[number % 6], turn=0.2 * number)


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """Six images of three patients (one of whom has two), of two kinds of files and in all directions, with labels."""
    folder = tmp_path / "studies"
    ids = ["sub-01/ct", "sub-01/mr", "sub-02/ct", "sub-03/ct", "sub 4", "sub-05/ct"]
    for number, name in enumerate(ids):
        path = folder / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        if name == "sub 4":
            write_itk(folder / "sub 4.nrrd", image_of(number), flipped(number))
        else:
            nibabel.save(nibabel.Nifti1Image(image_of(number), flipped(number)), path)
    store = VersionedDatastore(str(folder), extensions=["*"])
    for number, name in enumerate(ids[:5]):
        submit(store, name.replace("/", "__"), number, tmp_path)
    submit(store, "sub-02__ct", 12, tmp_path, names=("Gefäß", "liver"))  # other values for the same names
    return folder


def export(studies: Path, out: Path, form: str, *options: str) -> dict[str, Any]:
    assert main(["export", "--studies", str(studies), "--out", str(out), "--format", form, *options]) == 0
    return json.loads((out / ("dataset.json" if form == "msd" else "datalist.json")).read_text())


def same_grid(one: Path, other: Path) -> bool:
    """As nnU-Net's own check of a data set compares an image with its label."""
    read = [sitk.ReadImage(str(path)) for path in (one, other)]
    told = [(each.GetSize(), each.GetSpacing(), each.GetOrigin(), each.GetDirection()) for each in read]
    return all(np.allclose(a, b, atol=1e-4) for a, b in zip(*told, strict=True))


def test_a_decathlon_folder_holds_what_was_drawn(studies: Path, tmp_path: Path) -> None:
    out = tmp_path / "Task501_Livers"
    told = export(studies, out, "msd", "--test-share", "0.25", "--modality", "CT")
    assert told["labels"] == {"0": "background", "1": "Gefäß", "2": "liver"}
    assert (told["modality"], told["numTraining"] + told["numTest"]) == ({"0": "CT"}, 5)
    assert told["numTest"] == len(told["test"]) >= 1
    versions = json.loads((out / "versions.json").read_text())["cases"]
    for number, image in enumerate(("sub-01__ct", "sub-01__mr", "sub-02__ct", "sub-03__ct", "sub 4")):
        (name,) = [name for name, each in versions.items() if each["image"] == image]
        part = {"training": "Tr", "test": "Ts"}[versions[name]["part"]]
        paths = [out / f"{kind}{part}" / f"{name}.nii.gz" for kind in ("images", "labels")]
        assert same_grid(*paths)
        assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(paths[0]))).T, image_of(number))
        found = sitk.GetArrayFromImage(sitk.ReadImage(str(paths[1]))).T
        drawn = label_of(12 if number == 2 else number)
        value = {"Gefäß": 1, "liver": 2} if number == 2 else {"liver": 1, "Gefäß": 2}
        assert np.array_equal(found == 1, drawn == value["Gefäß"])
        assert np.array_equal(found == 2, drawn == value["liver"])
        assert paths[0].is_symlink() == (image != "sub 4")  # NRRD is written anew
        assert (versions[name]["version"], len(versions[name]["sha256"])) == (2 if number == 2 else 1, 64)
    # Both images of a patient are in one part.
    assert versions["sub-01_ct"]["part"] == versions["sub-01_mr"]["part"]
    # Readers: our own, and MONAI's.
    listing = labelled_cases(out)
    assert {case.id for case in listing.cases} == {
        name for name, each in versions.items() if each["part"] == "training"
    }
    assert listing.value_names[2] == "liver"
    assert len(load_decathlon_datalist(str(out / "dataset.json"), True, "training")) == told["numTraining"]


def test_a_datalist_has_links_to_the_images_or_copies(studies: Path, tmp_path: Path) -> None:
    told = export(studies, tmp_path / "list", "datalist", "--labels", "liver,Gefäß")
    assert told["labels"] == {"0": "background", "1": "Gefäß", "2": "liver"}
    entries = load_decathlon_datalist(str(tmp_path / "list" / "datalist.json"), True, "training")
    assert len(entries) + len(told["test"]) == 5
    assert len([path for path in (tmp_path / "list" / "images").iterdir() if path.is_symlink()]) == 4
    assert all(same_grid(Path(entry["image"]), Path(entry["label"])) for entry in entries)
    listing = labelled_cases(tmp_path / "list" / "datalist.json")
    assert (len(listing.cases), set(listing.parts.values())) == (5, {"training", "test"})
    export(studies, tmp_path / "copies", "datalist", "--copy")
    assert len([path for path in (tmp_path / "copies" / "images").iterdir() if not path.is_symlink()]) == 5


def test_only_what_counts_is_exported(studies: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = VersionedDatastore(str(studies), extensions=["*"])
    arguments = ["export", "--studies", str(studies), "--format", "msd", "--test-share", "0"]
    assert main([*arguments, "--out", str(tmp_path / "none"), "--train-on", "reviewed"]) == 2
    assert "no case has a label that can be exported (reviewed ones count)" in capsys.readouterr().err
    store.review("sub-03__ct", APPROVED, "emil", "")
    store.review("sub-01__ct", SENT_BACK, "emil", "too small")
    told = export(studies, tmp_path / "reviewed", "msd", "--train-on", "reviewed")
    assert [entry["image"] for entry in told["training"]] == ["./imagesTr/sub-03_ct.nii.gz"]
    assert json.loads((tmp_path / "reviewed" / "versions.json").read_text())["cases"]["sub-03_ct"]["approved"]
    told = export(studies, tmp_path / "submitted", "msd", "--test-share", "0", "--labels", "liver")
    assert (told["numTraining"], told["labels"]) == (4, {"0": "background", "1": "liver"})
    assert (tmp_path / "submitted" / "imagesTs").is_dir()  # nnU-Net looks for it
    assert main([*arguments, "--out", str(tmp_path / "submitted")]) == 2
    assert "is not empty: name a folder that is new" in capsys.readouterr().err


def test_patients_are_drawn_by_the_seed_and_none_is_torn_apart(tmp_path: Path) -> None:
    """By the headers of DICOM series: two series of one patient, and three other patients."""
    folder = tmp_path / "dicom"
    for number, (patient, series) in enumerate([("P-1", "1"), ("P-1", "2"), ("P-2", "1"), ("P-3", "1"), ("P-4", "1")]):
        info = SeriesInfo(patient, "Doe^Jane", series=series, modality="MR")
        array, grid = on_dicom_grid(image_of(number), flipped(number))
        write_series(folder / f"{patient}-{series}", array, grid, info)
    from lib.datastore.opening import open_datastore

    store = open_datastore(str(folder), ["liver"], lambda: "")
    assert isinstance(store, VersionedDatastore)
    for number, image in enumerate(store.list_images()):
        submit(store, image, number, tmp_path)
    store.close()
    tested = set()
    for seed in range(3):
        out = tmp_path / f"{seed}"
        told = export(folder, out, "msd", "--test-share", "0.5", "--seed", str(seed), "--labels", "liver,Gefäß")
        assert told["modality"] == {"0": "MR"}
        cases = json.loads((out / "versions.json").read_text())["cases"]
        of_first = {cases[SeriesInfo("P-1", "Doe^Jane", series=each, modality="MR").uid()]["part"] for each in "12"}
        assert len(of_first) == 1
        tested.add(tuple(sorted(name for name, each in cases.items() if each["part"] == "test")))
        for entry in told["training"]:
            assert same_grid(out / entry["image"], out / entry["label"])
    assert len(tested) > 1
