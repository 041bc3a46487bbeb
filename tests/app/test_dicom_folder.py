"""`--studies` as a folder of DICOM files: any nesting, names and transfer syntaxes, of several patients."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import requests
from dicomweb_client import DICOMwebClient
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from lib.datastore.backups import back_up
from lib.datastore.opening import folder_of_labels
from lib.dicomweb.archive import Archive
from lib.dicomweb.headers import Header, _found, _found_by_pydicom, read_header
from lib.dicomweb.server import LocalServer
from lib.images.dicom_places import Place
from lib.images.dicom_writing import SeriesInfo, on_dicom_grid, write_series
from serving import APP, Server, write_study
from unit.test_dicom_series import enhanced, pack_wavelets
from unit.volumes_on_disk import numbered

pytestmark = pytest.mark.app

SHAPE, CENTRE, SPACING = (64, 56, 40), (40, 20, 14), np.array([1.0, 1.0, 1.5])


def ball() -> np.ndarray:
    where = np.stack(np.indices(SHAPE), axis=-1)
    return np.linalg.norm((where - CENTRE) * SPACING, axis=-1) < 8


def plain(data: Any, folder: Path) -> None:
    pass


def implicit(data: Any, folder: Path) -> None:
    data.is_implicit_VR, data.file_meta.TransferSyntaxUID = True, ImplicitVRLittleEndian


def deflated(data: Any, folder: Path) -> None:
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian


def big_endian(data: Any, folder: Path) -> None:
    data.PixelData = np.frombuffer(data.PixelData, "<u2").astype(">u2").tobytes()
    data.is_little_endian, data.is_implicit_VR = False, False
    data.file_meta.TransferSyntaxUID = ExplicitVRBigEndian


def run_length(data: Any, folder: Path) -> None:
    data.compress(RLELossless)


def wavelets(data: Any, folder: Path) -> None:
    pack_wavelets(data, folder)


# Each a series of its own, in a folder and under names of its own.
KINDS: dict[str, tuple[Callable[[Any, Path], None], str, str]] = {
    "plain": (plain, "ann/2024/ct", "{:04d}.dcm"),
    "implicit": (implicit, "ann/2025/ct", "IM{:06d}"),
    "deflated": (deflated, "bob/Ä ö/a b", "{}.IMA"),
    "big endian": (big_endian, "bob/x", "1.2.3.{}"),
    "run length": (run_length, "cleo/DICOM/00000001", "{:08X}"),
    "wavelets": (wavelets, "cleo/DICOM/00000002", "{:08X}"),
}


# Image files that lie among them, each with a ball that lies elsewhere, by the ids that they are served under.
IMAGE_FILES = {"scan.nii.gz": 0, "ann/2024/follow up.nii": 3}
IMAGE_IDS = {"scan": "scan.nii.gz", "ann__2024__follow up": "ann/2024/follow up.nii"}
N_CASES = len(KINDS) + len(IMAGE_FILES)


def info_of(kind: str) -> SeriesInfo:
    folder = KINDS[kind][1]
    modality = "MR" if kind == "run length" else "CT"
    return SeriesInfo(folder.split("/")[0], f"Doe^{folder.split('/')[0]}", study=kind, modality=modality)


def fill(folder: Path) -> Path:
    """A folder with a series of each kind, and what lies beside them."""
    noise = np.random.default_rng(0).normal(0, 10, SHAPE)
    array, affine = on_dicom_grid((np.where(ball(), 150, -50) + noise).astype(np.int16), np.diag([-1, -1, 1.5, 1]))
    for kind, (pack, place, name) in KINDS.items():
        written = write_series(folder.with_name("writing"), array, affine, info_of(kind))
        (folder / place).mkdir(parents=True)
        for number, path in enumerate(written, start=1):
            data = pydicom.dcmread(path)
            pack(data, folder.with_name("packing"))
            data.save_as(folder / place / name.format(number), write_like_original=False)
    (folder / "notes.txt").write_text("not DICOM")
    (folder / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    whole = next((folder / KINDS["plain"][1]).iterdir()).read_bytes()
    (folder / "cut.dcm").write_bytes(whole[:300])
    (folder / "ann" / "copy").write_bytes(whole)
    for name, shift in IMAGE_FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_study(folder / name, np.roll(array, shift, axis=0), affine)
    for name in ("drawn.seg.nrrd", "labelsTr/scan.nii.gz", "1.2.840.5.nii"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"what is no case")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("dicom") / "studies")


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server") / "server", folder, {"labels": "lesion,liver"}) as running:
        yield running


def ask(server: Server, path: str, **headers: str) -> requests.Response:
    return server.http.get(f"{server.url}/proxy/dicom{path}", headers=headers, timeout=60)


def test_every_series_is_listed_and_what_is_left_out_is_named(server: Server) -> None:
    limit = time.monotonic() + 60
    while "are left out" not in server.log.read_text() and time.monotonic() < limit:
        time.sleep(0.2)
    said = server.info()["datastore"]
    assert said["total"] == N_CASES
    left_out = dict(each.split(": ", 1) for each in said["left_out"]["names"])
    copies = {name for name in left_out if name.startswith("ann/")}
    assert len(copies) == 1
    assert set(left_out) - copies == {"cut.dcm", "drawn.seg.nrrd", "labelsTr/", "1.2.840.5.nii"}
    assert "no whole DICOM file" in left_out["cut.dcm"]
    assert left_out["drawn.seg.nrrd"] == "a segmentation, not an image"
    assert "its name is that of a series: rename it" in left_out["1.2.840.5.nii"]
    assert "5 files or series of" in server.log.read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_a_click_is_answered_on_a_series_of_any_kind(server: Server, kind: str) -> None:
    reply = server.infer({"lesion": [list(CENTRE)]}, image=info_of(kind).uid())
    assert reply.mask is not None, reply.detail
    truth = ball()
    assert 2 * (truth & (reply.mask > 0)).sum() / (truth.sum() + (reply.mask > 0).sum()) > 0.7


@pytest.mark.parametrize("kind", KINDS)
def test_ohif_is_given_headers_and_frames(server: Server, folder: Path, kind: str) -> None:
    info = info_of(kind)
    series = f"/studies/{info.study_uid}/series/{info.uid()}"
    metadata = ask(server, f"{series}/metadata").json()
    assert [each["00200013"]["Value"] for each in metadata] == [[number] for number in range(1, 41)]
    uid = metadata[14]["00080018"]["Value"][0]
    frame = f"{series}/instances/{uid}/frames/1"
    raw = ask(server, frame, Accept="multipart/related; type=application/octet-stream")
    assert b"transfer-syntax=1.2.840.10008.1.2.1\r\n" in raw.content
    content = raw.content.partition(b"\r\n\r\n")[2]
    values = np.frombuffer(content[: 2 * SHAPE[0] * SHAPE[1]], "<u2").reshape(SHAPE[1], SHAPE[0]).T * 0.5 - 1024
    assert np.abs(values[CENTRE[:2]] - 150) < 50
    assert np.abs(values[5, 5] + 50) < 50
    packed = ask(server, frame, Accept="multipart/related; type=application/octet-stream; transfer-syntax=*")
    syntax = str(pydicom.dcmread(next((folder / KINDS[kind][1]).iterdir())).file_meta.TransferSyntaxUID)
    is_packed = kind in ("run length", "wavelets")
    assert f"transfer-syntax={syntax if is_packed else '1.2.840.10008.1.2.1'}".encode() in packed.content
    assert (len(packed.content) < len(raw.content)) == is_packed


def test_studies_of_all_patients_are_listed_for_ohif(server: Server) -> None:
    studies = ask(server, "/studies").json()
    assert len(studies) == len(KINDS)
    assert {each["00100020"]["Value"][0] for each in studies} == {"ann", "bob", "cleo"}


@pytest.mark.parametrize("image", IMAGE_IDS)
def test_an_image_file_among_the_series_is_a_case(server: Server, folder: Path, tmp_path: Path, image: str) -> None:
    name = IMAGE_IDS[image]
    centre, truth = (CENTRE[0] + IMAGE_FILES[name], *CENTRE[1:]), np.roll(ball(), IMAGE_FILES[name], axis=0)
    reply = server.infer({"lesion": [list(centre)]}, image=image)
    assert reply.mask is not None, reply.detail
    assert 2 * (truth & (reply.mask > 0)).sum() / (truth.sum() + (reply.mask > 0).sum()) > 0.7
    sent = server.http.get(f"{server.url}/datastore/image", params={"image": image}, timeout=60)
    assert sent.content == (folder / name).read_bytes()
    refused = server.infer({"lesion": [list(centre)]}, image=image, output="dicom_seg")
    assert (refused.status, "needs a DICOM series" in refused.detail) == (422, True)


def test_a_label_of_an_image_file_belongs_to_its_content(tmp_path: Path) -> None:
    folder, image = fill(tmp_path / "studies"), info_of("plain").uid()
    before = files_of(folder)
    with Server(tmp_path / "first", folder, {"labels": "lesion"}) as server:
        for each in ("scan", image):
            answer = put_label(server, each, tmp_path)
            assert answer.status_code == 200, answer.text
            assert ("archive" in answer.json()) == (each == image)
        assert server.info()["datastore"]["completed"] == 2
        back_up(folder_of_labels(str(folder)), tmp_path / "model", tmp_path / "kept.tar")
        with tarfile.open(tmp_path / "kept.tar") as kept:
            names = kept.getnames()
        assert all(
            any(name.startswith(f"studies/label_versions/{each}/") for name in names) for each in ("scan", image)
        )
        (folder / "scan.nii.gz").rename(folder / "bob" / "renamed.nii.gz")
        write_study(folder / "scan.nii.gz", np.zeros((5, 5, 5), np.int16))  # another patient's, under its name
        trained = {"bob__renamed": before["scan.nii.gz"]}
        until(lambda: trained_on(server, "scan", "bob__renamed") == trained)
    with Server(tmp_path / "second", folder, {"labels": "lesion"}) as server:
        until(lambda: server.info()["datastore"]["total"] == N_CASES + 1)
        assert server.info()["datastore"]["completed"] == 2
        assert trained_on(server, "scan", "bob__renamed") == trained
        segs = f"/studies/{info_of('plain').study_uid}/series?Modality=SEG"
        until(lambda: ask(server, segs).text != "" and len(ask(server, segs).json()) == 1)
        listed = server.http.get(f"{server.url}/datastore/?output=all", timeout=60).json()["objects"]
        assert {name: set(listed[name]["labels"]) for name in ("scan", "bob__renamed", "ann__2024__follow up")} == {
            "scan": set(),
            "bob__renamed": {"final"},
            "ann__2024__follow up": set(),
        }


def test_a_folder_stays_what_it_was_served_as(tmp_path: Path) -> None:
    """Else labels would be looked for elsewhere than they are."""
    folder, state = tmp_path / "studies", tmp_path / "studies" / ".monailabel"
    folder.mkdir()
    write_study(folder / "scan.nii.gz", np.zeros((4, 4, 4), np.int16))
    assert folder_of_labels(str(folder)) == folder
    state.mkdir()
    (state / "datastore_v2.json").write_text("{}")
    assert folder_of_labels(str(folder)) == state
    (folder / "datastore_v2.json").write_text("{}")
    (state / "datastore_v2.json").unlink()
    write_series(folder / "ct", np.zeros((8, 8, 2), np.int16), np.diag([-1, -1, 1.5, 1]), SeriesInfo("ann", "Doe^Ann"))
    assert folder_of_labels(str(folder)) == folder


def trained_on(server: Server, *images: str) -> dict[str, bytes]:
    """The content of the files, of those named, that training would use, by id."""
    listed = server.http.get(f"{server.url}/datastore/?output=all", timeout=60).json()["objects"]
    files = {
        str(Path(server.studies).resolve() / listed[image]["image"]["info"]["name"]): image
        for image in images
        if image in listed
    }
    cases = server.http.get(f"{server.url}/datastore/?output=train", timeout=60).json()
    return {files[each["image"]]: Path(each["image"]).read_bytes() for each in cases if each["image"] in files}


def until(is_so: Callable[[], bool], limit_s: float = 60.0) -> None:
    limit = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < limit
        time.sleep(0.2)


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".monailabel" not in path.parts
    }


def put_label(server: Server, image: str, folder: Path) -> requests.Response:
    path = folder / "label.bin"
    path.write_bytes(ball().astype(np.uint8).tobytes(order="F"))
    params = '{"label_info": [{"name": "lesion", "idx": 1}]}'
    with path.open("rb") as file:
        sent = {"params": (None, params), "label": (path.name, file)}
        return server.http.put(f"{server.url}/datastore/label?image={image}&tag=final", files=sent, timeout=120)


def test_a_label_is_stored_and_counts_after_a_restart_on_another_port(tmp_path: Path) -> None:
    folder = fill(tmp_path / "studies")
    before, image = files_of(folder), info_of("wavelets").uid()
    with Server(tmp_path / "first", folder, {"labels": "lesion"}) as server:
        answer = put_label(server, image, tmp_path)
        assert answer.status_code == 200, answer.text
        assert answer.json()["archive"] == "stored", answer.text
        segs = ask(server, f"/studies/{info_of('wavelets').study_uid}/series?Modality=SEG").json()
        assert len(segs) == 1
        assert server.info()["datastore"]["completed"] == 1
    assert files_of(folder) == before  # the user's files are as they were
    with Server(tmp_path / "second", folder, {"labels": "lesion"}) as server:
        said = server.info()["datastore"]
        assert (said["completed"], said["total"]) == (1, N_CASES)
        # A series that is copied in meanwhile is seen.
        info = SeriesInfo("dora", "Doe^Dora")
        array, affine = on_dicom_grid(numbered((6, 5, 4)), np.diag([-1, -1, 1.5, 1]))
        written = write_series(tmp_path / "new", array, affine, info)
        shutil.copytree(tmp_path / "new", folder / "dora" / "deep")
        until(lambda: server.info()["datastore"]["total"] == N_CASES + 1)
        reply = server.infer({"lesion": [[2, 2, 2]]}, image=info.uid())
        assert reply.mask is not None, reply.detail
        assert reply.mask.shape == (6, 5, len(written))


def test_next_sample_of_a_folder_without_a_volume_says_so(tmp_path: Path) -> None:
    folder, info = tmp_path / "studies", SeriesInfo("una", "Doe^Una")
    for path in write_series(folder / "film", np.zeros((8, 8, 2), np.int16), np.diag([-1, -1, 1.5, 1]), info):
        data = pydicom.dcmread(path)
        data.Modality = "US"
        data.save_as(path)
    (folder / "cut.dcm").write_bytes(path.read_bytes()[:300])
    with Server(tmp_path / "server", folder, {"labels": "lesion"}) as server:
        asked = {"client_id": "ann"}
        said = server.http.post(f"{server.url}/activelearning/random", json=asked, timeout=120).json()
        assert list(said) == ["detail"]
        assert said["detail"].startswith(
            "there is no case here at all: add images that open; 2 other files, folders or"
        )
        left_out = server.info()["datastore"]["left_out"]["names"]
        assert (
            f"series {info.uid()}: its modality is US, and CT, MR, PT are listed unless others are asked for"
            in left_out
        )


def test_an_enhanced_series_can_be_annotated(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 10, SHAPE)
    array, affine = on_dicom_grid((np.where(ball(), 150, -50) + noise).astype(np.int16) * 2, np.diag([-1, -1, 1.5, 1]))
    info = SeriesInfo("eve", "Doe^Eve")
    write_series(tmp_path / "plain", array, affine, info)
    for path in (tmp_path / "plain").iterdir():  # as `enhanced` takes them
        data = pydicom.dcmread(path)
        values = np.frombuffer(data.PixelData, "<u2") * 0.5 - 1024
        data.PixelData, data.RescaleSlope, data.RescaleIntercept = (values + 1024).astype("<u2").tobytes(), 1, -1024
        data.save_as(path, write_like_original=False)
    enhanced(tmp_path / "studies", tmp_path / "plain", "CT")
    with Server(tmp_path / "server", tmp_path / "studies", {"labels": "lesion"}) as server:
        reply = server.infer({"lesion": [list(CENTRE)]}, image=info.uid())
        assert reply.mask is not None, reply.detail
        assert reply.mask.shape == SHAPE
        assert reply.mask[CENTRE] == 1
        answer = put_label(server, info.uid(), tmp_path)
        assert answer.status_code == 200, answer.text
        assert answer.json()["archive"] == "stored", answer.text


@pytest.mark.skipif("os.geteuid() == 0", reason="root may write into any folder")
def test_of_a_folder_that_may_only_be_read_labels_are_kept_at_home(tmp_path: Path) -> None:
    folder = fill(tmp_path / "studies")
    folder.chmod(0o500)
    with Server(tmp_path / "server", folder, {"labels": "lesion"}) as server:
        assert put_label(server, info_of("plain").uid(), tmp_path).status_code == 200
    assert list((tmp_path / "server" / "home").rglob("label_versions"))


def test_the_index_finds_what_pydicom_finds(folder: Path) -> None:
    fast = 0
    for kind, (_, place, _) in KINDS.items():
        path = next(iter(sorted((folder / place).iterdir())))
        header = read_header(path)
        assert header is not None
        said = _found_by_pydicom(path)
        found = _found(path.read_bytes()[:16_384])
        fast += found is not None
        if found is not None:
            assert {key: value for key, value in said.items() if key != "class"} == found, kind
        data = pydicom.dcmread(path)
        assert header == Header(
            *(str(data.StudyInstanceUID), str(data.SeriesInstanceUID), str(data.SOPInstanceUID)),
            *(str(data.SOPClassUID), str(data.file_meta.TransferSyntaxUID)),
            *(int(data.InstanceNumber), 1, SHAPE[1], SHAPE[0]),
            *("\\".join(map(str, data[tag].value)) for tag in ("ImagePositionPatient", "ImageOrientationPatient")),
        )
        assert header.place == Place(1, tuple(data.ImagePositionPatient), tuple(data.ImageOrientationPatient))
    assert fast == 4  # all but deflated and big endian


def test_a_kept_index_is_refreshed_and_reads_no_header_twice(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = shutil.copytree(folder, tmp_path / "studies", ignore=shutil.ignore_patterns(".monailabel"))
    kept = tmp_path / "index.sqlite"
    read: list[Path] = []

    def counted(path: Path) -> Header | None:
        read.append(path)
        return read_header(path)

    monkeypatch.setattr("lib.dicomweb.archive.read_header", counted)

    def listed() -> tuple[int, int]:
        read.clear()
        archive = Archive(place, tmp_path / "received", kept)
        found = len(archive.find())
        archive.close()
        return found, len(read)

    n_files = sum(path.is_file() and path.name != "DICOMDIR" for path in place.rglob("*"))
    assert listed() == (40 * len(KINDS), n_files)
    assert listed() == (40 * len(KINDS), 0)
    shutil.rmtree(place / KINDS["plain"][1])
    first = next((place / KINDS["implicit"][1]).iterdir())
    first.write_bytes(first.read_bytes()[:200])
    assert listed() == (40 * len(KINDS) - 40 - 1 + 1, 1)  # the copy of one of those that are gone is left
    kept.write_bytes(b"no index at all" * 1000)
    assert listed()[0] == 40 * len(KINDS) - 40


KILLED_WHILE_READING = """
import os, sys
from pathlib import Path
from lib.dicomweb import archive

stock, archive.BATCH, archive.KEEP_S = archive.read_header, 20, 0.0
left = [100]

def read_header(path):
    left[0] -= 1
    return stock(path) if left[0] else os._exit(9)

archive.read_header = read_header
archive.Archive(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])).wait()
"""


def test_a_server_that_is_killed_while_it_reads_a_folder_goes_on_where_it_was(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = shutil.copytree(folder, tmp_path / "studies", ignore=shutil.ignore_patterns(".monailabel"))
    places = [str(place), str(tmp_path / "received"), str(tmp_path / "index.sqlite")]
    command = [sys.executable, "-c", KILLED_WHILE_READING, *places]
    environment = {**os.environ, "PYTHONPATH": str(APP)}
    assert subprocess.run(command, env=environment, timeout=600).returncode == 9
    read: list[Path] = []

    def counted(path: Path) -> Header | None:
        read.append(path)
        return read_header(path)

    monkeypatch.setattr("lib.dicomweb.archive.read_header", counted)
    archive = Archive(*map(Path, places))
    assert len(archive.find()) == 40 * len(KINDS)
    archive.close()
    n_files = sum(path.is_file() and path.name != "DICOMDIR" for path in place.rglob("*"))
    assert len(read) == n_files - 80  # of the 99 that were read, four batches of 20 were kept


def test_the_archive_of_a_folder_answers_this_server_alone(folder: Path, tmp_path: Path) -> None:
    server = LocalServer(Archive(folder, tmp_path / "received"))
    try:
        with requests.Session() as http:
            http.trust_env = False
            assert http.get(f"{server.url}/studies", timeout=10).status_code == 401
            assert http.get(f"{server.url}/studies", auth=("sam3d", "guess"), timeout=10).status_code == 401
            http.auth = server.login
            assert len(DICOMwebClient(server.url, session=http).search_for_studies()) == len(KINDS)
    finally:
        server.close()
