"""Several phases at one place in one DICOM series: each is an image, listed, clicked on, labelled and trained on."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicomweb_client import DICOMwebClient
from pydicom.uid import generate_uid

from archives import DemoArchive
from e2e.archive import Orthanc, orthanc_program
from lib.datastore.archive import ArchiveDatastore
from lib.datastore.opening import open_datastore
from lib.demo import free_port
from lib.images.dicom_writing import SeriesInfo, on_dicom_grid, write_series
from lib.images.volumes import open_volume
from lib.labels.dicom_seg_writing import write_seg
from lib.labels.masks import read_label
from serving import Reply, Server
from studies_in_archive import datastore_at
from unit.test_dicom_seg_writing import of_one_study
from unit.test_dicom_series import OBLIQUE, enhanced, upright
from unit.volumes_on_disk import numbered, write_dicom_series

pytestmark = pytest.mark.app

INFO = SeriesInfo("P-phases", "Doe^Phases")
UID = INFO.uid()
SECOND = f"{UID}.phase2"
SHAPE, SPACING = (64, 56, 30), np.array([0.7, 0.9, 1.5])
# The bright ball lies elsewhere in each phase.
CENTRES = {UID: (44, 20, 10), SECOND: (18, 36, 20)}
TAGS = ("TemporalPositionIdentifier", "AcquisitionNumber", "TriggerTime", "EchoTime", "DiffusionBValue")
CONF = {"labels": "lesion", "score_share": "0", "next_sample": "first"}


def ball(image: str) -> np.ndarray:
    where = np.stack(np.indices(SHAPE), axis=-1)
    return np.linalg.norm((where - CENTRES[image]) * SPACING, axis=-1) < 8


def write_phase(folder: Path, number: int, info: SeriesInfo = INFO, tag: str = TAGS[0]) -> list[Path]:
    """The slices of one phase of an oblique series."""
    image = (UID, SECOND)[number - 1]
    noise = np.random.default_rng(number).normal(0, 10, SHAPE)
    array, grid = on_dicom_grid((np.where(ball(image), 150, -50) + noise).astype(np.int16), upright(OBLIQUE))
    paths = write_series(folder, array, grid, info)
    for k, path in enumerate(paths):
        data = pydicom.dcmread(path)
        setattr(data, tag, number)
        data.InstanceNumber = (number - 1) * SHAPE[2] + k + 1
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = info.uid("phase", number, k)
        data.save_as(path)
    return paths


def itk_image(paths: list[Path]) -> sitk.Image:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(path) for path in paths])
    return reader.Execute()


@pytest.fixture(scope="module")
def phases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """The files of each phase, by the id of its image."""
    place = tmp_path_factory.mktemp("phases")
    return {image: write_phase(place / str(n), n) for n, image in enumerate((UID, SECOND), start=1)}


@pytest.fixture
def folder(phases: dict[str, list[Path]], tmp_path: Path) -> Path:
    """Both phases and a plain series, as files."""
    for image, paths in phases.items():
        for path in paths:
            (tmp_path / "studies" / "a").mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / "studies" / "a" / f"{'12'[image == SECOND]}-{path.name}")
    write_series(
        tmp_path / "studies" / "b", np.zeros((8, 8, 4), np.int16), np.diag([-1, -1, 1.5, 1]), SeriesInfo("ann", "Doe")
    )
    return tmp_path / "studies"


@pytest.fixture
def archive(phases: dict[str, list[Path]], tmp_path: Path) -> Iterator[DemoArchive]:
    (tmp_path / "files").mkdir()
    with DemoArchive(tmp_path / "files", free_port(0)) as running:
        for paths in phases.values():
            DICOMwebClient(running.url).store_instances([pydicom.dcmread(path) for path in paths])
        yield running


def until(is_so: Callable[[], bool], limit_s: float = 60.0) -> None:
    limit = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < limit
        time.sleep(0.2)


def put_label(server: Server, image: str, folder: Path) -> Any:
    path = folder / "label.bin"
    path.write_bytes(ball(image).astype(np.uint8).tobytes(order="F"))
    with path.open("rb") as file:
        sent = {"params": (None, '{"label_info": [{"name": "lesion", "idx": 1}]}'), "label": (path.name, file)}
        answer = server.http.put(f"{server.url}/datastore/label?image={image}&tag=final", files=sent, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.json()


def download(server: Server, image: str, kind: str) -> Any:
    asked = {"image": image, "format": kind}
    return pydicom.dcmread(BytesIO(server.http.get(f"{server.url}/cases/download", params=asked, timeout=120).content))


def next_sample(server: Server, **params: Any) -> Any:
    return server.http.post(f"{server.url}/activelearning/first", json=params, timeout=120).json()


def dice(reply: Reply, image: str) -> float:
    assert reply.mask is not None, reply.detail
    truth = ball(image)
    return 2 * (truth & (reply.mask > 0)).sum() / (truth.sum() + (reply.mask > 0).sum())


def off_mm(found: sitk.Image, read: sitk.Image) -> float:
    """How far apart two grids are at most."""
    ends = ([0, 0, 0], [n - 1 for n in SHAPE], [SHAPE[0] - 1, 0, 0])
    places = [(found.TransformIndexToPhysicalPoint(end), read.TransformIndexToPhysicalPoint(end)) for end in ends]
    return max(float(np.abs(np.subtract(one, other)).max()) for one, other in places)


def refuse_mixing(seg: Any, image: str, phases: dict[str, list[Path]]) -> None:
    """A SEG refers to the slices of its own phase alone, those that lie where its frames do."""
    own = {str(data.SOPInstanceUID): data for data in map(pydicom.dcmread, phases[image])}
    for frame in seg.PerFrameFunctionalGroupsSequence:
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        place = own[str(source.ReferencedSOPInstanceUID)].ImagePositionPatient
        assert np.allclose(frame.PlanePositionSequence[0].ImagePositionPatient, place, atol=1e-3)
    named = {str(each.ReferencedSOPInstanceUID) for each in seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert named <= own.keys()


def check_training(store: ArchiveDatastore, phases: dict[str, list[Path]]) -> None:
    """Each phase is trained on, with its own voxels and its own label, where ITK reads it."""
    cases = {case.id: case for case in store.annotated_cases()}
    assert set(cases) == {UID, SECOND}
    for image, case in cases.items():
        volume, read = open_volume(case.image), itk_image(phases[image])
        assert np.array_equal(volume.array, sitk.GetArrayFromImage(read).T)
        place = (volume.affine @ [*(n - 1 for n in SHAPE), 1])[:3] * [-1, -1, 1]
        assert np.abs(place - read.TransformIndexToPhysicalPoint([n - 1 for n in SHAPE])).max() < 0.01
        drawn = read_label(case.label, volume, ["lesion"], case.value_names).masks["lesion"]
        assert np.array_equal(drawn, ball(image))


def go_through(server: Server, phases: dict[str, list[Path]], n_others: int, tmp_path: Path) -> None:
    """What an annotator does with both phases: list, click, store."""
    until(lambda: server.info()["datastore"]["phases"] == {"count": 1, "names": [SECOND]})
    stats = server.http.get(f"{server.url}/datastore/", timeout=60).json()
    assert (stats["total"], stats["completed"]) == (2 + n_others, 0)
    for image, click in CENTRES.items():
        reply = server.infer({"lesion": [list(click)], "result_extension": ".nrrd"}, image=image)
        assert dice(reply, image) > 0.7
        (tmp_path / "reply.nrrd").write_bytes(reply.content)
        assert off_mm(sitk.ReadImage(str(tmp_path / "reply.nrrd")), itk_image(phases[image])) < 0.01
        notes = " ".join(reply.params["notes"])
        assert f"2 phases at one place (told apart by {TAGS[0]}), of which phase {1 + (image == SECOND)} is" in notes
        assert f"its other phases are images of their own: {SECOND if image == UID else UID}" in notes
        asked, params = {"image": image, "output": "dicom_seg"}, json.dumps({"lesion": [list(click)]})
        seg = server.http.post(f"{server.url}/infer/sam3d", params=asked, files={"params": (None, params)}, timeout=120)
        refuse_mixing(pydicom.dcmread(BytesIO(seg.content)), image, phases)
    unknown = server.infer({"lesion": [[1, 1, 1]]}, image=f"{UID}.phase3")
    assert (unknown.status, f"is opened as {UID}, {SECOND}" in unknown.detail) == (404, True), unknown.detail
    for image in (SECOND, UID):
        put_label(server, image, tmp_path)
        refuse_mixing(download(server, image, "dicom_seg"), image, phases)
        (item,) = download(server, image, "rtstruct").ReferencedFrameOfReferenceSequence
        (of_series,) = item.RTReferencedStudySequence[0].RTReferencedSeriesSequence
        referred = {str(each.ReferencedSOPInstanceUID) for each in of_series.ContourImageSequence}
        assert referred == {str(pydicom.dcmread(path).SOPInstanceUID) for path in phases[image]}
    assert server.info()["datastore"]["completed"] == 2
    address = f"{server.url}/proxy/dicom/studies/{INFO.study_uid}/series?Modality=SEG"
    until(lambda: (found := server.http.get(address, timeout=60)).text != "" and len(found.json()) == 2)


def stored_segs(url: str, http: Any) -> list[Any]:
    """The SEGs of an archive, whole."""
    found = http.get(f"{url}/series?Modality=SEG", timeout=60)
    client = DICOMwebClient(url, session=http)
    uids = [(each["0020000D"]["Value"][0], each["0020000E"]["Value"][0]) for each in found.json()]
    return [data for study, series in uids for data in client.retrieve_series(study, series)]


def test_phases_of_a_folder_are_images_to_click_on_label_and_train_on(
    folder: Path, phases: dict[str, list[Path]], tmp_path: Path
) -> None:
    with Server(tmp_path / "first", folder, CONF) as server:
        go_through(server, phases, 1, tmp_path)
        received = [pydicom.dcmread(path) for path in (folder / ".monailabel" / "received").rglob("*.dcm")]
        assert len(received) == 2
        for image in CENTRES:
            (seg,) = [each for each in received if names(each, phases[image])]
            refuse_mixing(seg, image, phases)
    store = open_datastore(str(folder), ["lesion"], lambda: "v")  # as a training run of the server does
    assert isinstance(store, ArchiveDatastore)
    check_training(store, phases)
    assert [len(store.history.versions(image, "final")) for image in CENTRES] == [1, 1]
    store.close()
    with Server(tmp_path / "second", folder, CONF) as server:
        assert server.info()["datastore"]["completed"] == 2
        assert put_label(server, SECOND, tmp_path)["version"] == 2


def names(seg: Any, paths: list[Path]) -> bool:
    """Whether a SEG refers to one of these slices."""
    own = {str(pydicom.dcmread(path).SOPInstanceUID) for path in paths}
    references = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    return any(str(each.ReferencedSOPInstanceUID) in own for each in references)


def test_phases_of_an_archive_are_images_and_their_segs_are_read_back_as_theirs(
    archive: DemoArchive, phases: dict[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server(tmp_path / "server", archive.url, CONF) as server:
        go_through(server, phases, 0, tmp_path)
    segs = stored_segs(archive.url, archive.http)
    assert len(segs) == 2
    for image in CENTRES:
        (seg,) = [each for each in segs if names(each, phases[image])]
        refuse_mixing(seg, image, phases)
    store = datastore_at(archive.url, tmp_path / "elsewhere", monkeypatch)  # which has none of the labels here
    until(lambda: set(store.get_labeled_images()) == {UID, SECOND})
    check_training(store, phases)
    store.close()


@pytest.mark.skipif(orthanc_program() is None, reason="Orthanc with its DICOMweb plugin is not installed")
def test_phases_in_orthanc_are_listed_unopened_and_their_labels_read_back(
    phases: dict[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Orthanc(tmp_path / "orthanc", free_port(0)) as archive:
        for paths in phases.values():
            DICOMwebClient(archive.url).store_instances([pydicom.dcmread(path) for path in paths])
        store = datastore_at(archive.url, tmp_path / "cache", monkeypatch)
        until(lambda: store.list_images() == [UID, SECOND])
        assert store.at_hand() == []
        for image in (SECOND, UID):
            (tmp_path / "label.bin").write_bytes(ball(image).astype(np.uint8).tobytes(order="F"))
            store.save_label(image, str(tmp_path / "label.bin"), "final", {"label_info": [{"name": "lesion"}]})
        until(lambda: not store.waiting())
        store.close()
        elsewhere = datastore_at(archive.url, tmp_path / "elsewhere", monkeypatch)
        until(lambda: set(elsewhere.get_labeled_images()) == {UID, SECOND})
        check_training(elsewhere, phases)
        elsewhere.close()


def test_next_sample_gives_phases_but_to_those_who_show_whole_series(folder: Path, tmp_path: Path) -> None:
    shutil.rmtree(folder / "b")
    with Server(tmp_path / "server", folder, CONF) as server:
        until(lambda: server.info()["datastore"]["phases"]["count"] == 1)
        assert next_sample(server, client_id="ann", series_only=True)["id"] == UID
        sample = next_sample(server, client_id="bob")
        assert (sample["id"], sample["StudyInstanceUID"]) == (SECOND, INFO.study_uid)
        put_label(server, UID, tmp_path)
        none = next_sample(server, client_id="cleo", series_only=True)
        assert none == {
            "detail": "every series has a label; 1 other cases (phases, image files) open in 3D Slicer alone"
        }


def test_a_seg_that_names_no_phase_counts_for_none(
    archive: DemoArchive, phases: dict[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As some programs write it: it names the series alone, or all of its instances."""
    source = tmp_path / "source"
    shutil.copytree(phases[UID][0].parent, source)
    affine = open_volume(source).affine
    for name in ("series alone", "all instances"):
        write_seg({"lesion": ball(UID)}, affine, source, tmp_path / "seg.dcm")
        seg = pydicom.dcmread(tmp_path / "seg.dcm")
        for frame in seg.PerFrameFunctionalGroupsSequence:
            del frame.DerivationImageSequence
        references = seg.ReferencedSeriesSequence[0]
        if name == "series alone":
            del references.ReferencedInstanceSequence
        else:
            both = [pydicom.dcmread(path) for paths in phases.values() for path in paths]
            first = references.ReferencedInstanceSequence[0]
            references.ReferencedInstanceSequence = [referring(first, data) for data in both]
        seg.SeriesInstanceUID, seg.SOPInstanceUID = generate_uid(), generate_uid()
        seg.file_meta.MediaStorageSOPInstanceUID = seg.SOPInstanceUID
        DICOMwebClient(archive.url).store_instances([seg])
    store = datastore_at(archive.url, tmp_path / "cache", monkeypatch)
    until(lambda: store.list_images() == [UID, SECOND])
    store._segs.expire()
    assert store.annotated_cases() == []
    store._segs.expire()
    store.get_labeled_images()
    until(lambda: store.shown()["unused_segs"]["count"] == 2)
    assert all("does not say which of the phases" in each for each in store.shown()["unused_segs"]["names"])
    store.close()


def referring(reference: Any, data: Any) -> Any:
    made = pydicom.Dataset()
    made.ReferencedSOPClassUID, made.ReferencedSOPInstanceUID = reference.ReferencedSOPClassUID, data.SOPInstanceUID
    return made


def test_labels_of_all_phases_of_a_series_that_grew_are_set_aside(
    phases: dict[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "files").mkdir()
    with DemoArchive(tmp_path / "files", free_port(0)) as archive:
        client, n_late = DICOMwebClient(archive.url), 5
        for paths in phases.values():
            client.store_instances([pydicom.dcmread(path) for path in paths[n_late:]])
        store = datastore_at(archive.url, tmp_path / "cache", monkeypatch)
        until(lambda: store.list_images() == [UID, SECOND])
        for image in (UID, SECOND):
            mask = tmp_path / "label.bin"
            mask.write_bytes(ball(image)[:, :, n_late:].astype(np.uint8).tobytes(order="F"))
            store.save_label(image, str(mask), "final", {"label_info": [{"name": "lesion"}]})
        assert store.get_labeled_images() == [UID, SECOND]
        short = {image: store.reference(image) for image in (UID, SECOND)}
        for paths in phases.values():
            client.store_instances([pydicom.dcmread(path) for path in paths[:n_late]])
        assert open_volume(store.get_image_uri(SECOND)).shape == SHAPE
        for image in (UID, SECOND):  # the other one as well, though nobody opened it again
            assert "grew from 50 to 60 instances" in " ".join(store.image_notes(image))
            assert store.reference(image) != short[image]
            assert open_volume(store.get_image_uri(image)).shape == SHAPE
        store._segs.expire()
        assert store.get_labeled_images() == []
        assert store.annotated_cases() == []
        store.close()


def test_phases_in_one_enhanced_file_are_told_apart_by_its_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_dicom_series(tmp_path / "plain", 2 * numbered((24, 20, 6)), upright(OBLIQUE), of_one_study)
    whole = pydicom.dcmread(enhanced(tmp_path / "enhanced", source, "CT", phases=2) / "enhanced.dcm")
    first, mask = str(whole.SeriesInstanceUID), np.zeros((24, 20, 6), np.uint8)
    second, mask[3:6, 4:7, 1:3] = f"{first}.phase2", 1
    (tmp_path / "label.bin").write_bytes(mask.tobytes(order="F"))
    (tmp_path / "files").mkdir()
    with DemoArchive(tmp_path / "files", free_port(0)) as archive:
        DICOMwebClient(archive.url).store_instances([whole])
        store = datastore_at(archive.url, tmp_path / "cache", monkeypatch)
        until(lambda: store.list_images() == [first, second])
        arrays = [open_volume(store.get_image_uri(image)).array for image in (first, second)]
        assert np.array_equal(arrays[0], 2 * numbered((24, 20, 6)))
        assert (arrays[1] > arrays[0]).all()
        store.save_label(second, str(tmp_path / "label.bin"), "final", {"label_info": [{"name": "lesion"}]})
        until(lambda: not store.waiting())
        store.close()
        (seg,) = stored_segs(archive.url, archive.http)
        for frame in seg.PerFrameFunctionalGroupsSequence:
            number = int(frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber)
            place = whole.PerFrameFunctionalGroupsSequence[number - 1].PlanePositionSequence[0].ImagePositionPatient
            assert number > 6  # those before are of the first phase
            assert np.allclose(frame.PlanePositionSequence[0].ImagePositionPatient, place)
        elsewhere = datastore_at(archive.url, tmp_path / "elsewhere", monkeypatch)
        until(lambda: elsewhere.list_images() == [first, second])
        (case,) = elsewhere.annotated_cases()
        assert case.id == second
        drawn = read_label(case.label, open_volume(case.image), ["lesion"], case.value_names).masks["lesion"]
        assert np.array_equal(drawn, mask.astype(bool))
        elsewhere.close()


@pytest.mark.parametrize("tag", TAGS[1:])
def test_phases_are_listed_unopened_by_whatever_tells_them_apart(
    tag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        write_phase(tmp_path / "studies" / str(number), number, tag=tag)
    store = open_datastore(str(tmp_path / "studies"), ["lesion"], lambda: "v")
    assert isinstance(store, ArchiveDatastore)
    until(lambda: store.list_images() == [UID, SECOND])
    assert store.at_hand() == []
    store.close()
