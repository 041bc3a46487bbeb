"""The datastore of a DICOMweb archive: what counts as labelled, whose it is, and how soon it is seen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicomweb_client import DICOMwebClient
from fastapi import HTTPException

from archives import DemoArchive
from lib.datastore.archive import ArchiveDatastore
from lib.demo import free_port
from lib.images.dicom_writing import SeriesInfo, on_dicom_grid, write_series
from lib.images.volumes import open_volume
from lib.labels.dicom_seg_writing import SegInfo, write_seg
from lib.labels.masks import read_label
from studies_in_archive import datastore_at, write_image
from unit.test_dicom_writing import affine_of

pytestmark = pytest.mark.app

ANN, BOB = SeriesInfo("P-ann", "Doe^Ann"), SeriesInfo("P-bob", "Doe^Bob")
LOCALIZER = SeriesInfo("P-ann", "Doe^Ann", series="2", description="uneven")
SHAPE = (9, 8, 6)
AFFINE = affine_of("LPS")


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[DemoArchive]:
    for info in (ANN, BOB):
        write_image(tmp_path / "files", info, AFFINE, SHAPE)
    with DemoArchive(tmp_path / "files", free_port(0)) as running:
        yield running


@pytest.fixture
def store(archive: DemoArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ArchiveDatastore]:
    opened = datastore_at(archive.url, tmp_path / "cache", monkeypatch)
    yield opened
    opened.close()


def ball(at: int) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[at : at + 3, 2:5, 1:4] = True
    return mask


def foreign_seg(
    archive: DemoArchive, info: SeriesInfo, masks: dict[str, np.ndarray], time_of_day: str, **changes
) -> str:
    """Store a SEG as another program would have done, at a time of day in 2030; its series' UID."""
    series = archive.folder / info.study_uid / info.uid()
    path = archive.folder.with_name("foreign.dcm")
    write_seg(masks, open_volume(series).affine, series, path, SegInfo("elsewhere"))
    data = pydicom.dcmread(path)
    data.SeriesDate = data.ContentDate = "20300101"
    data.SeriesTime = data.ContentTime = time_of_day
    for keyword, value in changes.items():
        setattr(data, keyword, value)
    DICOMwebClient(archive.url).store_instances([data])
    return str(data.SeriesInstanceUID)


def submit(store: ArchiveDatastore, folder: Path, info: SeriesInfo, mask: np.ndarray) -> None:
    (folder / "label.bin").write_bytes(mask.astype(np.uint8).tobytes(order="F"))
    store.save_label(info.uid(), str(folder / "label.bin"), "final", {"label_info": [{"name": "liver"}]})


def trained_on(store: ArchiveDatastore, info: SeriesInfo) -> np.ndarray:
    (case,) = [case for case in store.annotated_cases() if case.id == info.uid()]
    return read_label(case.label, open_volume(case.image), ["liver"], case.value_names).masks["liver"]


def until(is_so, limit_s: float = 120.0) -> float:
    """Seconds until something is so."""
    begun = time.monotonic()
    while not is_so():
        assert time.monotonic() - begun < limit_s
        time.sleep(0.1)
    return time.monotonic() - begun


def test_completed_counts_images_and_not_segs(store, archive, tmp_path) -> None:
    assert store.status() == {"total": 2, "completed": 0, "label_tags": {}}
    for at in (0, 1, 2):
        submit(store, tmp_path, ANN, ball(at))
    until(lambda: not store.waiting())
    segs = archive.http.get(f"{archive.url}/series?Modality=SEG", timeout=30).json()
    assert len(segs) == 3
    until(lambda: len(store._segs.get()) == 3)
    assert (store.status()["total"], store.status()["completed"]) == (2, 1)
    assert store.get_labeled_images() == [ANN.uid()]
    assert store.get_unlabeled_images() == [BOB.uid()]


def test_a_new_study_and_a_new_label_are_seen_within_seconds(store, archive, tmp_path) -> None:
    assert len(store.list_images()) == 2
    cleo = SeriesInfo("P-cleo", "Doe^Cleo")
    array, affine = on_dicom_grid(np.zeros(SHAPE, np.int16), AFFINE)
    paths = write_series(tmp_path / "new", array, affine, cleo)
    DICOMwebClient(archive.url).store_instances([pydicom.dcmread(path) for path in paths])
    until(lambda: cleo.uid() in store.list_images())
    foreign_seg(archive, ANN, {"liver": ball(0)}, "100000")
    until(lambda: store.get_labeled_images() == [ANN.uid()])


def test_questions_to_the_archive_are_not_logged_one_by_one(store, caplog) -> None:
    with caplog.at_level("INFO"):
        store._images.expire()
        assert len(store.list_images()) == 2
        store.archive._client.search_for_series()
    assert [record.getMessage() for record in caplog.records if record.name.startswith("dicomweb_client")] == []


def test_each_seg_is_described_once_and_one_that_is_not_hides_no_other(store, archive, monkeypatch, caplog) -> None:
    bad = foreign_seg(archive, BOB, {"liver": ball(1)}, "100000")
    good = [foreign_seg(archive, info, {"liver": ball(2)}, "110000") for info in (ANN, BOB)]
    described, is_broken = store.archive._client.retrieve_series_metadata, True
    asked = []

    def describe(study: str, uid: str) -> list[dict]:
        asked.append(uid)
        # A real answer of the server, about something it has not got.
        return described(study, "1.2.3" if uid == bad and is_broken else uid)

    monkeypatch.setattr(store.archive._client, "retrieve_series_metadata", describe)
    until(lambda: {seg.series for seg in store._segs.get()} == set(good) and asked.count(bad) > 1)
    assert [asked.count(uid) for uid in good] == [1, 1]
    assert sum(bad in record.getMessage() for record in caplog.records) == 1
    is_broken = False
    until(lambda: bad in {seg.series for seg in store._segs.get()})
    n_asked = len(asked)
    store._segs.expire()
    assert len(store._segs.get()) == 3
    assert len(asked) == n_asked


def test_the_newest_of_several_segs_counts_and_the_others_are_versions(store, archive, tmp_path) -> None:
    submit(store, tmp_path, ANN, ball(0))
    later = foreign_seg(archive, ANN, {"tumour": ball(5), "liver": ball(3)}, "120000")
    foreign_seg(archive, ANN, {"liver": ball(2)}, "110000")
    until(lambda: len(store._segs.get()) == 3)
    assert np.array_equal(trained_on(store, ANN), ball(3))
    versions = store.history.versions(ANN.uid(), "final")
    assert [each.source for each in versions] == ["client", "archive", "archive"]
    assert versions[-1].series == later
    # Asked again, nothing is read twice.
    assert np.array_equal(trained_on(store, ANN), ball(3))
    assert len(store.history.versions(ANN.uid(), "final")) == 3


def test_a_label_submitted_after_a_seg_was_read_counts(store, archive, tmp_path) -> None:
    foreign_seg(archive, ANN, {"liver": ball(2)}, "110000", SeriesDate="20200101", ContentDate="20200101")
    until(lambda: store.get_labeled_images() == [ANN.uid()])
    assert np.array_equal(trained_on(store, ANN), ball(2))
    submit(store, tmp_path, ANN, ball(4))
    assert np.array_equal(trained_on(store, ANN), ball(4))


def test_a_seg_of_other_structures_leaves_its_image_to_be_annotated(store, archive) -> None:
    foreign_seg(archive, ANN, {"vertebra": ball(0)}, "100000")
    foreign_seg(archive, BOB, {"liver": ball(0)}, "100000")
    until(lambda: store.get_labeled_images() == [BOB.uid()])
    assert store.get_unlabeled_images() == [ANN.uid()]


def test_a_seg_that_is_no_label_here_can_be_started_from(store, archive, tmp_path) -> None:
    foreign = foreign_seg(archive, ANN, {"vertebra": ball(0)}, "100000")
    damaged = foreign_seg(archive, ANN, {"vertebra": ball(0)}, "110000", SegmentationType="SURFACE")
    other = foreign_seg(archive, BOB, {"vertebra": ball(1)}, "100000")
    counted = foreign_seg(archive, ANN, {"liver": ball(2)}, "120000")
    until(lambda: len(reasons(store)) == 3 and len(store._segs.get()) == 1)
    submit(store, tmp_path, ANN, ball(3))
    found = store.starts(ANN.uid())
    versions = [(each.version.number, each.version.series, each.labels) for each in found if each.version]
    assert versions == [(2, counted, ("liver",)), (1, "", ("liver",))]  # of 2030, and of now
    assert [(each.seg, each.labels, each.when[:10]) for each in found if each.seg] == [
        (foreign, ("vertebra",), "2030-01-01")
    ]
    masks = store.label_masks(store.stored_seg(ANN.uid(), foreign)).masks
    assert list(masks) == ["vertebra"]
    assert np.array_equal(masks["vertebra"], ball(0))
    for uid in (damaged, other, counted, "../../etc", ""):
        with pytest.raises(HTTPException, match="to start from: see /cases/starts") as caught:
            store.stored_seg(ANN.uid(), uid)
        assert caught.value.status_code == 404


def test_a_seg_of_another_patient_is_nothing_to_start_from(store, archive) -> None:
    uid = foreign_seg(archive, ANN, {"spine": ball(0)}, "100000", PatientID="P-bob", StudyInstanceUID=BOB.study_uid)
    until(lambda: uid in reasons(store))
    assert store.starts(ANN.uid()) == []
    with pytest.raises(HTTPException, match="to start from"):
        store.stored_seg(ANN.uid(), uid)


def test_a_seg_is_held_against_the_files_of_its_image_whatever_the_archive_lists(store, archive, monkeypatch) -> None:
    store.get_image_uri(ANN.uid())
    uid = foreign_seg(archive, ANN, {"spine": ball(0)}, "100000", PatientID="P-bob", StudyInstanceUID=BOB.study_uid)
    listed = store.archive._client.search_for_series

    def search(**asked) -> list[dict]:
        # A real answer of the server, but for whose Ann's series is.
        found = listed(**asked)
        for each in found:
            if each["0020000E"]["Value"] == [ANN.uid()]:
                each["00100020"]["Value"], each["0020000D"]["Value"] = ["P-bob"], [BOB.study_uid]
        return found

    monkeypatch.setattr(store.archive._client, "search_for_series", search)
    until(lambda: [each.seg for each in store.starts(ANN.uid())] == [uid])
    with pytest.raises(HTTPException, match=f"SEG {uid} is of another patient or study than the image") as caught:
        store.stored_seg(ANN.uid(), uid)
    assert caught.value.status_code == 409


def test_a_seg_that_names_another_patient_is_never_this_patients_label(store, archive) -> None:
    # In a study of its own, for the demo server refuses it in Ann's.
    uid = foreign_seg(archive, ANN, {"liver": ball(0)}, "100000", PatientID="P-bob", StudyInstanceUID=BOB.study_uid)
    until(lambda: reasons(store).get(uid) == "it is of another patient or study than the image it names")
    assert store.get_labeled_images() == []
    assert store.annotated_cases() == []
    assert store.history.versions(ANN.uid(), "final") == []


def reasons(store: ArchiveDatastore) -> dict[str, str]:
    """Why SEGs do not count, by series, as /info/ shows it."""
    store.get_labeled_images()
    return dict(each.split(": ", 1) for each in store.shown()["unused_segs"]["names"])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"SegmentationType": "SURFACE"}, "has segmentation type SURFACE"),
        ({"BitsAllocated": 8}, "has 8 bits per voxel"),
        ({"ReferencedSeriesSequence": []}, "does not say what it was drawn on"),
        ({"SegmentSequence": []}, "it does not name"),
        ({"PerFrameFunctionalGroupsSequence": []}, "does not say where its frames lie"),
    ],
)
def test_a_seg_that_training_cannot_use_does_not_count_and_is_named(store, archive, changes, reason) -> None:
    bad = foreign_seg(archive, ANN, {"liver": ball(1)}, "100000", **changes)
    good = foreign_seg(archive, BOB, {"liver": ball(1)}, "100000")
    until(lambda: reason in reasons(store).get(bad, ""))
    until(lambda: store.get_labeled_images() == [BOB.uid()])
    assert store.status()["completed"] == 1
    assert good not in reasons(store)
    assert [case.id for case in store.annotated_cases()] == [BOB.uid()]


def test_a_seg_whose_pixels_turn_out_to_be_damaged_stops_counting(store, archive) -> None:
    bad = foreign_seg(archive, ANN, {"liver": ball(1)}, "100000", PixelData=b"\0\0")
    until(lambda: store.get_labeled_images() == [ANN.uid()])
    assert store.annotated_cases() == []
    until(lambda: "is cut short" in reasons(store).get(bad, ""))
    assert store.get_labeled_images() == []


def test_image_info_is_that_of_the_series_asked_for(store) -> None:
    for info in (ANN, BOB):
        store.get_image_uri(info.uid())
        known = store.get_image_info(info.uid())
        assert (known["PatientID"], known["StudyInstanceUID"]) == (info.patient_id, info.study_uid)


def refusal(store: ArchiveDatastore, image: str) -> tuple[int, str]:
    with pytest.raises(HTTPException) as caught:
        store.get_image_uri(image)
    return caught.value.status_code, caught.value.detail


def test_what_is_no_volume_is_refused_with_its_reason(store, archive, tmp_path) -> None:
    array, affine = on_dicom_grid(np.zeros(SHAPE, np.int16), AFFINE)
    paths = write_series(tmp_path / "uneven", array, affine, LOCALIZER)
    DICOMwebClient(archive.url).store_instances(
        [pydicom.dcmread(path) for number, path in enumerate(paths) if number != 2]
    )
    status, sentence = refusal(store, LOCALIZER.uid())
    assert (status, "misses slices" in sentence) == (422, True)
    assert refusal(store, "1.2.3.4") == (404, "the archive has no series 1.2.3.4: reload the study")
    assert refusal(store, "../../etc")[0] == 404
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.name == "etc"] == []


def test_an_image_that_the_archive_does_not_deliver_is_refused_with_what_it_did(store, archive) -> None:
    archive.kill()
    status, sentence = refusal(store, ANN.uid())
    assert status == 503
    assert "the archive did not answer" in sentence
    assert sentence.endswith("try again later")


def test_a_download_that_is_cut_off_is_begun_again(store, archive, tmp_path, monkeypatch) -> None:
    whole = store.archive._client.iter_series

    def cut(*arguments, **options):
        for number, instance in enumerate(whole(*arguments, **options)):
            if number == 3:
                return
            yield instance

    monkeypatch.setattr(store.archive._client, "iter_series", cut)
    status, sentence = refusal(store, ANN.uid())
    assert (status, sentence.startswith("the archive delivered 3 of 6 instances")) == (502, True)
    monkeypatch.undo()
    assert open_volume(store.get_image_uri(ANN.uid())).shape == SHAPE


def test_series_are_at_hand_once_they_were_opened(store: ArchiveDatastore, archive: DemoArchive) -> None:
    assert store.at_hand() == []
    store.get_image_uri(ANN.uid())
    assert store.at_hand() == [ANN.uid()]
    assert set(store.list_images()) == {ANN.uid(), BOB.uid()}
