"""A series of which the archive has a part when it is first opened, and the whole a moment later."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicomweb_client import DICOMwebClient
from fastapi import HTTPException

from archives import DemoArchive
from lib.activelearning.background import image_reference
from lib.datastore.archive import ArchiveDatastore
from lib.demo import free_port
from lib.images.dicom_writing import SeriesInfo, on_dicom_grid, write_series
from lib.images.volumes import open_volume
from serving import Server
from studies_in_archive import datastore_at

pytestmark = pytest.mark.app

INFO = SeriesInfo("P-late", "Doe^Late")
# A bright ball of 8 mm around this voxel.
SHAPE, CENTRE, SPACING = (64, 56, 40), (40, 20, 14), np.array([1.0, 1.0, 1.5])
LOWER = 10


def ball() -> np.ndarray:
    where = np.stack(np.indices(SHAPE), axis=-1)
    return np.linalg.norm((where - CENTRE) * SPACING, axis=-1) < 8


@pytest.fixture(scope="module")
def slices(tmp_path_factory: pytest.TempPathFactory) -> list[pydicom.Dataset]:
    """The instances of the whole series, from below."""
    noise = np.random.default_rng(0).normal(0, 10, SHAPE)
    array, affine = on_dicom_grid((np.where(ball(), 150, -50) + noise).astype(np.int16), np.diag([-1, -1, 1.5, 1]))
    return [pydicom.dcmread(path) for path in write_series(tmp_path_factory.mktemp("late"), array, affine, INFO)]


@pytest.fixture
def archive(tmp_path: Path, slices: list[pydicom.Dataset]) -> Iterator[DemoArchive]:
    """An archive that has the upper 30 slices."""
    (tmp_path / "files").mkdir()
    with DemoArchive(tmp_path / "files", free_port(0)) as running:
        DICOMwebClient(running.url).store_instances(slices[LOWER:])
        yield running


@pytest.fixture
def store(archive: DemoArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ArchiveDatastore]:
    opened = datastore_at(archive.url, tmp_path / "cache", monkeypatch)
    yield opened
    opened.close()


def submit(store: ArchiveDatastore, folder: Path, mask: np.ndarray) -> None:
    (folder / "label.bin").write_bytes(mask.astype(np.uint8).tobytes(order="F"))
    store.save_label(INFO.uid(), str(folder / "label.bin"), "final", {"label_info": [{"name": "lesion"}]})


def segs(archive: DemoArchive) -> int:
    return len(archive.http.get(f"{archive.url}/series?Modality=SEG", timeout=30).json())


def test_a_series_that_grew_is_fetched_again_and_labels_of_the_shorter_do_not_count(
    store: ArchiveDatastore,
    archive: DemoArchive,
    slices: list[pydicom.Dataset],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    short = open_volume(store.get_image_uri(INFO.uid()))
    assert short.shape == (*SHAPE[:2], 30)
    submit(store, tmp_path, ball()[:, :, LOWER:])
    assert store.get_labeled_images() == [INFO.uid()]
    reference = image_reference(INFO.uid(), store)
    DICOMwebClient(archive.url).store_instances(slices[:LOWER])

    whole = open_volume(store.get_image_uri(INFO.uid()))
    assert whole.shape == SHAPE
    assert whole.key != short.key  # by which embeddings are kept
    assert image_reference(INFO.uid(), store) != reference
    assert "grew from 30 to 40 instances" in " ".join(store.image_notes(INFO.uid()))
    assert segs(archive) == 1  # of the shorter one, as SEG of this image
    store._segs.expire()
    for opened in (store, datastore_at(archive.url, tmp_path / "cache", monkeypatch)):
        assert opened.get_labeled_images() == []
        assert opened.annotated_cases() == []
        assert len(opened.history.versions(INFO.uid(), "final")) == 1

    with pytest.raises(HTTPException):
        submit(store, tmp_path, ball()[:, :, LOWER:])
    submit(store, tmp_path, ball())
    assert store.get_labeled_images() == [INFO.uid()]
    (case,) = store.annotated_cases()
    assert open_volume(case.image).shape == SHAPE
    assert open_volume(case.label).shape == SHAPE


def test_what_was_fetched_is_served_while_the_archive_is_away(store: ArchiveDatastore, archive: DemoArchive) -> None:
    store.get_image_uri(INFO.uid())
    archive.kill()
    assert open_volume(store.get_image_uri(INFO.uid())).shape == (*SHAPE[:2], 30)


def test_a_whole_series_is_counted_and_not_fetched_again(
    store: ArchiveDatastore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = []
    download = store.archive.download
    monkeypatch.setattr(store.archive, "download", lambda *given: (fetched.append(given), download(*given)))
    for _ in range(3):
        store.get_image_uri(INFO.uid())
    assert len(fetched) == 1


def test_a_click_on_the_whole_series_is_answered_on_the_whole_series(
    archive: DemoArchive, slices: list[pydicom.Dataset], tmp_path: Path
) -> None:
    with Server(tmp_path / "server", archive.url, {"labels": "lesion"}) as server:
        first = server.infer({"lesion": [[CENTRE[0], CENTRE[1], CENTRE[2] - LOWER]]}, image=INFO.uid())
        assert first.mask is not None, first.detail
        assert first.mask.shape == (*SHAPE[:2], 30)
        DICOMwebClient(archive.url).store_instances(slices[:LOWER])
        reply = server.infer({"lesion": [list(CENTRE)]}, image=INFO.uid())
        assert reply.mask is not None, reply.detail
        assert reply.mask.shape == SHAPE
        truth = ball()
        dice = 2 * (truth & (reply.mask > 0)).sum() / (truth.sum() + (reply.mask > 0).sum())
        print(f"Dice with the ball {dice:.2f}")
        assert dice > 0.7
        assert "grew from 30 to 40 instances" in " ".join(reply.params["notes"])
