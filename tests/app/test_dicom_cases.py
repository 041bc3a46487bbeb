"""DICOM series as users have met them, in a folder that is served: they open in place, or it is said why not."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from lib.datastore.archive import ArchiveDatastore
from lib.datastore.opening import open_datastore
from lib.images.dicom_writing import SeriesInfo, on_dicom_grid, write_series
from lib.images.volumes import open_volume
from lib.labels.masks import read_label
from serving import Server
from unit.test_dicom_series import OBLIQUE, upright

pytestmark = pytest.mark.app

SHARED_CASES = Path(__file__).parents[2].parent / "shared" / "cases"
SHAPE, CENTRE, SPACING = (64, 56, 40), (40, 20, 14), np.array([1.0, 1.0, 1.5])
GRID = np.diag([-1.0, -1.0, 1.5, 1.0])


def ball(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    where = np.stack(np.indices(shape), axis=-1)
    return np.linalg.norm((where - CENTRE) * SPACING, axis=-1) < 8


def plain(k: int, data: Any) -> None:
    pass


def stray(k: int, data: Any) -> None:
    if k == 39:
        data.ImageOrientationPatient, data.ImageType = [1, 0, 0, 0, 0, -1], ["ORIGINAL", "PRIMARY", "LOCALIZER"]


def phases(k: int, data: Any) -> None:
    data.ImagePositionPatient, data.AcquisitionNumber = [0, 0, 1.5 * (k % 20)], 1 + k // 20


def tilted(k: int, data: Any) -> None:
    data.ImagePositionPatient = [0, 0.25 * 1.5 * k, 1.5 * k]


def white_on_black(k: int, data: Any) -> None:
    data.PhotometricInterpretation = "MONOCHROME1"


def two_distances(k: int, data: Any) -> None:
    data.ImagePositionPatient = [0, 0, np.cumsum([0.0, *[4.0] * 19, 1.1, *[7.0] * 19])[k]]


def gap(k: int, data: Any) -> None:
    data.ImagePositionPatient = [0, 0, 1.5 * (k if k < 20 else k + 2)]


# What is done to a series, and what its note or its refusal says.
OPENED: dict[str, tuple[Callable[[int, Any], None], str]] = {
    "plain": (plain, ""),
    "stray": (stray, "1 of 40 slices"),
    "phases": (phases, "2 phases at one place (told apart by AcquisitionNumber)"),
    "tilted": (tilted, "tilted gantry (14.0 degrees) and is resampled"),
    "white on black": (white_on_black, ""),
}
REFUSED: dict[str, tuple[Callable[[int, Any], None], str]] = {
    "two distances": (two_distances, "has two slice distances: 4 mm up to"),
    "gap": (gap, "misses slices: 4.5 mm lie between"),
}


def info_of(name: str) -> SeriesInfo:
    return SeriesInfo(f"P-{name}"[:16], "Doe^Case", study=name)


def write(folder: Path, name: str, edit: Callable[[int, Any], None], affine: np.ndarray = GRID) -> None:
    noise = np.random.default_rng(0).normal(0, 10, SHAPE)
    array, grid = on_dicom_grid((np.where(ball(), 150, -50) + noise).astype(np.int16), affine)
    for k, path in enumerate(write_series(folder / name, array, grid, info_of(name))):
        data = pydicom.dcmread(path)
        edit(k, data)
        data.save_as(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("cases") / "studies"
    for name, (edit, _) in {**OPENED, **REFUSED}.items():
        write(place, name, edit)
    write(place, "oblique", plain, upright(OBLIQUE))
    return place


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server") / "server", folder, {"labels": "lesion"}) as running:
        yield running


def place_of(content: bytes, folder: Path) -> sitk.Image:
    (folder / "reply.nrrd").write_bytes(content)
    return sitk.ReadImage(str(folder / "reply.nrrd"))


@pytest.mark.parametrize("name", OPENED)
def test_what_opens_says_what_was_done_and_is_segmented_in_place(server: Server, tmp_path: Path, name: str) -> None:
    _, note = OPENED[name]
    click = list(CENTRE)
    if name == "tilted":  # the grid begins at the first slice, from which the others have moved
        click[1] += round(0.25 * 1.5 * CENTRE[2])
    params = {"lesion": [click], "result_extension": ".nrrd"}
    reply = server.infer(params, image=info_of(name).uid())
    assert reply.mask is not None, reply.detail
    assert note in " ".join(reply.params["notes"])
    found = place_of(reply.content, tmp_path)
    middle = np.argwhere(reply.mask > 0).mean(axis=0)
    place = np.array(found.TransformContinuousIndexToPhysicalPoint(middle.tolist()))
    drawn_at = np.array(CENTRE) * SPACING + [0, 0.25 * 1.5 * CENTRE[2] if name == "tilted" else 0, 0]
    assert np.linalg.norm(place - drawn_at) < 3, (place, drawn_at)


def test_a_series_that_is_shown_white_on_black_has_the_values_of_any_other(server: Server, tmp_path: Path) -> None:
    """ITK inverts them, so that bone would be darker than air."""
    arrays = {}
    for name in ("plain", "white on black"):
        query = {"image": info_of(name).uid()}
        (tmp_path / "image.nii").write_bytes(server.http.get(f"{server.url}/datastore/image", params=query).content)
        arrays[name] = open_volume(tmp_path / "image.nii").array
    assert np.array_equal(arrays["white on black"], arrays["plain"])


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_open_says_why(server: Server, name: str) -> None:
    reply = server.infer({"lesion": [list(CENTRE)]}, image=info_of(name).uid())
    assert (reply.status, REFUSED[name][1] in reply.detail) == (422, True), reply.detail
    assert ("fetch" in reply.detail) == (name == "gap")


def test_an_oblique_series_its_reply_and_its_label_lie_where_itk_reads_it(
    server: Server, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, reader = info_of("oblique").uid(), sitk.ImageSeriesReader()
    reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder / "oblique")))
    read = reader.Execute()
    reply = server.infer({"lesion": [list(CENTRE)], "result_extension": ".nrrd"}, image=image)
    assert reply.mask is not None, reply.detail
    found = place_of(reply.content, tmp_path)
    assert found.GetSize() == read.GetSize()
    ends = ([0, 0, 0], [n - 1 for n in SHAPE], [SHAPE[0] - 1, 0, 0])
    off = max(
        np.abs(np.subtract(found.TransformIndexToPhysicalPoint(end), read.TransformIndexToPhysicalPoint(end))).max()
        for end in ends
    )
    # As 3D Slicer writes a label: on the grid that ITK reads.
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[10:20, 5:30, 3:9] = 1
    label = sitk.GetImageFromArray(drawn.T)
    label.CopyInformation(read)
    sitk.WriteImage(label, str(tmp_path / "label.nii.gz"))
    with (tmp_path / "label.nii.gz").open("rb") as file:
        sent = {"params": (None, '{"label_info": [{"name": "lesion", "idx": 1}]}'), "label": ("label.nii.gz", file)}
        answer = server.http.put(f"{server.url}/datastore/label?image={image}&tag=final", files=sent, timeout=120)
    assert answer.status_code == 200, answer.text
    store = open_datastore(str(folder), ["lesion"], lambda: "v")  # as a training run of the server does
    assert isinstance(store, ArchiveDatastore)
    (case,) = store.annotated_cases()
    volume = open_volume(case.image)
    off_trained = max(
        np.abs((volume.affine @ [*end, 1])[:3] * [-1, -1, 1] - read.TransformIndexToPhysicalPoint(end)).max()
        for end in ends
    )
    masks = read_label(case.label, volume, ["lesion"], case.value_names).masks
    store.close()
    print(f"reply {off:.1e} mm off, training array {off_trained:.1e} mm off")
    assert max(off, off_trained) < 0.01
    assert np.array_equal(volume.array, sitk.GetArrayFromImage(read).T)
    assert np.array_equal(masks["lesion"], drawn.astype(bool))


@pytest.mark.skipif(not SHARED_CASES.is_dir(), reason=f"no {SHARED_CASES}: the cases as they were met are not here")
def test_the_cases_that_were_met(tmp_path: Path) -> None:
    sys.path.insert(0, str(SHARED_CASES))
    try:
        import make_cases
    finally:
        sys.path.pop(0)
    place = tmp_path / "studies"
    place.mkdir()
    make_cases.readable_and_unreadable_series(place)
    make_cases.head_ct_of_two_slice_distances(place)
    series = {path.name: str(pydicom.dcmread(next(path.iterdir())).SeriesInstanceUID) for path in place.iterdir()}
    with Server(tmp_path / "server", place, {"labels": "lesion"}) as server:
        assert server.info()["datastore"]["total"] == 5
        replies = {name: server.infer({"lesion": [list(CENTRE)]}, image=uid) for name, uid in series.items()}
    good = replies.pop("good")
    assert good.mask is not None, good.detail
    truth = ball()
    assert 2 * (truth & (good.mask > 0)).sum() / (truth.sum() + (good.mask > 0).sum()) > 0.7
    for reply in replies.values():
        assert (reply.status, "has two slice distances" in reply.detail) == (422, True)
        assert "fetch" not in reply.detail
