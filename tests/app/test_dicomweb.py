"""The demo DICOMweb server, in a process of its own, asked as OHIF and MONAI Label ask."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
import requests
from dicomweb_client import DICOMwebClient

from archives import DemoArchive
from lib.demo import free_port
from lib.images.dicom_writing import SeriesInfo, write_series

pytestmark = pytest.mark.app

CT = SeriesInfo("P-1", "Müller^Jörg", description="abdomen", date="20260105")
MR = SeriesInfo("P-1", "Müller^Jörg", series="2", description="head", modality="MR", date="20260105")
OTHER = SeriesInfo("P-2", "Smith^Ann", description="chest", date="20251230")
SHAPE = (6, 5, 4)
# As the bundled OHIF sends it with every request for pixels.
OHIF_FRAMES = {"Accept": "multipart/related; type=application/octet-stream; transfer-syntax=*"}


def voxels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-500, 500, SHAPE).astype(np.int16)


def fill(folder: Path) -> Path:
    """Three series of two patients, with a note and a cut file among them."""
    affine = np.diag([-2.0, -2.0, 3.0, 1.0])
    for seed, info in enumerate((CT, MR, OTHER)):
        write_series(folder / f"{seed}", voxels(seed), affine, info, [3, 1, 0, 2])
    folder.joinpath("notes.txt").write_text("not DICOM")
    folder.joinpath("cut.dcm").write_bytes(folder.joinpath("0", "0001.dcm").read_bytes()[:300])
    return folder


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoArchive]:
    """A server that tests do not store to."""
    with DemoArchive(fill(tmp_path_factory.mktemp("archive") / "files"), free_port(0)) as running:
        yield running


@pytest.fixture
def writable(tmp_path: Path) -> Iterator[DemoArchive]:
    with DemoArchive(fill(tmp_path / "files"), free_port(0)) as running:
        yield running


def ask(archive: DemoArchive, path: str, **headers: str) -> requests.Response:
    return archive.http.get(f"{archive.url}{path}", headers=headers, timeout=30)


def values(answer: requests.Response, tag: str) -> list[object]:
    assert answer.status_code == 200, answer.text
    return [entry[tag]["Value"][0] for entry in answer.json()]


def test_studies_say_what_viewers_list(archive: DemoArchive) -> None:
    study = next(entry for entry in ask(archive, "/studies").json() if entry["00100020"]["Value"] == ["P-1"])
    assert study["00100010"] == {"vr": "PN", "Value": [{"Alphabetic": "Müller^Jörg"}]}
    assert study["00080061"]["Value"] == ["CT", "MR"]
    assert (study["00201206"]["Value"], study["00201208"]["Value"]) == ([2], [8])
    assert study["00081190"]["Value"] == [f"{archive.url}/studies/{CT.study_uid}"]


@pytest.mark.parametrize(
    ("query", "patients"),
    [
        ("PatientID=P-2", ["P-2"]),
        ("00100020=P-1", ["P-1"]),
        ("PatientName=*müller*", ["P-1"]),
        ("PatientName=Sm?th*", ["P-2"]),
        ("PatientName=Smith", []),
        ("StudyDate=20260101-", ["P-1"]),
        ("StudyDate=-20251231", ["P-2"]),
        ("StudyDate=20251230-20260105", ["P-1", "P-2"]),
        ("StudyDate=20260105", ["P-1"]),
        ("ModalitiesInStudy=MR", ["P-1"]),
        ("00080061=PT", []),
        (f"StudyInstanceUID={OTHER.study_uid},1.2.3", ["P-2"]),
        ("PatientID=P-1&StudyDate=-20251231", []),
        ("AccessionNumber=&fuzzymatching=false", ["P-1", "P-2"]),
    ],
)
def test_filters_keep_what_matches(archive: DemoArchive, query: str, patients: list[str]) -> None:
    assert sorted(values(ask(archive, f"/studies?{query}"), "00100020")) == patients


def test_series_are_found_as_monai_label_looks_for_them(archive: DemoArchive) -> None:
    client = DICOMwebClient(archive.url)
    found = client.search_for_series(search_filters={"Modality": "CT"})
    assert {entry["0020000E"]["Value"][0] for entry in found} == {CT.uid(), OTHER.uid()}
    assert values(ask(archive, f"/studies/{CT.study_uid}/series?Modality=MR"), "0020000E") == [MR.uid()]


def test_pages_follow_each_other_without_gap_or_repeat(archive: DemoArchive) -> None:
    whole = values(ask(archive, "/instances"), "00080018")
    pages = [values(ask(archive, f"/instances?limit=5&offset={start}"), "00080018") for start in (0, 5, 10)]
    assert [len(page) for page in pages] == [5, 5, 2]
    assert [uid for page in pages for uid in page] == whole
    assert len(set(whole)) == 12


def test_fields_beside_the_usual_are_told_when_asked_for(archive: DemoArchive) -> None:
    place = f"/studies/{CT.study_uid}/series/{CT.uid()}/instances"
    assert "00280030" not in ask(archive, place).json()[0]
    assert ask(archive, f"{place}?includefield=PixelSpacing,00180050").json()[0]["00280030"]["Value"] == [2.0, 2.0]
    assert ask(archive, f"{place}?includefield=all").json()[0]["00281053"]["Value"] == [0.5]


@pytest.mark.parametrize(
    ("path", "status", "sentence"),
    [
        ("/studies?PatientNmae=x", 400, "'PatientNmae' is no attribute"),
        ("/studies?limit=-1", 400, "limit is '-1'; it must be a whole number from 0 up"),
        ("/studies/1.2.3", 404, "there is nothing here of 1.2.3"),
        ("/studies/..%2f..%2fetc/metadata", 404, "Not Found"),
    ],
)
def test_what_cannot_be_answered_is_refused(archive: DemoArchive, path: str, status: int, sentence: str) -> None:
    answer = ask(archive, path)
    assert (answer.status_code, sentence in answer.text) == (status, True)


def test_metadata_is_the_header_of_every_instance(archive: DemoArchive) -> None:
    metadata = DICOMwebClient(archive.url).retrieve_series_metadata(CT.study_uid, CT.uid())
    assert [entry["00200013"]["Value"] for entry in metadata] == [[1], [2], [3], [4]]
    # InstanceNumber 1 is the plane 3, the topmost.
    assert metadata[0]["00200032"]["Value"] == [0.0, 0.0, 9.0]
    assert metadata[0]["00281052"]["Value"] == [-1024.0]
    assert not any("7FE00010" in entry for entry in metadata)


def test_frames_come_as_ohif_asks_for_them(archive: DemoArchive) -> None:
    series = f"/studies/{CT.study_uid}/series/{CT.uid()}"
    uid = ask(archive, f"{series}/instances?InstanceNumber=1").json()[0]["00080018"]["Value"][0]
    answer = ask(archive, f"{series}/instances/{uid}/frames/1", **OHIF_FRAMES)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith('multipart/related; type="application/octet-stream"; boundary=')
    boundary = answer.headers["content-type"].rpartition("=")[2].encode()
    head, _, rest = answer.content.partition(b"\r\n\r\n")
    assert b"transfer-syntax=1.2.840.10008.1.2.1" in head
    pixels, end = rest.split(b"\r\n--" + boundary)
    assert end == b"--\r\n"
    plane = np.frombuffer(pixels, "<u2").reshape(SHAPE[1], SHAPE[0]).T * 0.5 - 1024
    assert np.array_equal(plane, voxels(0)[:, :, 3])
    assert ask(archive, f"{series}/instances/{uid}/frames/2", **OHIF_FRAMES).status_code == 404
    refused = ask(archive, f"{series}/instances/{uid}/frames/1", Accept="image/jpeg")
    assert (refused.status_code, "'image/jpeg' is not to be had" in refused.text) == (406, True)


def test_a_series_comes_whole(archive: DemoArchive) -> None:
    instances = DICOMwebClient(archive.url).retrieve_series(OTHER.study_uid, OTHER.uid())
    assert sorted(int(each.InstanceNumber) for each in instances) == [1, 2, 3, 4]
    planes = {int(each.InstanceNumber): each.pixel_array.T * 0.5 - 1024 for each in instances}
    assert np.array_equal(planes[1], voxels(2)[:, :, 3])


def test_a_page_of_another_site_cannot_ask_by_a_name_of_its_own(archive: DemoArchive) -> None:
    assert ask(archive, "/studies", Host="evil.example").status_code == 400
    assert "access-control-allow-origin" not in ask(archive, "/studies", Origin="http://evil.example").headers


def test_the_server_listens_on_this_machine_alone(archive: DemoArchive) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; tells this machine's own address
            address = probe.getsockname()[0]
        except OSError:
            pytest.skip("this machine has no address beside loopback")
    with socket.socket() as other:
        other.settimeout(3)
        assert other.connect_ex((address, archive.port)) != 0


def changed(data: pydicom.Dataset, **elements: object) -> pydicom.Dataset:
    for keyword, value in elements.items():
        setattr(data, keyword, value)
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    return data


def one_of(archive: DemoArchive, info: SeriesInfo) -> pydicom.Dataset:
    return DICOMwebClient(archive.url).retrieve_series(info.study_uid, info.uid())[0]


def test_what_is_stored_is_served_at_once_and_after_a_restart(writable: DemoArchive) -> None:
    data = changed(one_of(writable, CT), SOPInstanceUID="1.2.3.4", SeriesInstanceUID="1.2.3")
    client = DICOMwebClient(writable.url)
    client.store_instances([data])
    assert values(ask(writable, "/series?SeriesInstanceUID=1.2.3"), "00081190") == [
        f"{writable.url}/studies/{CT.study_uid}/series/1.2.3"
    ]
    writable.kill()
    writable.start()
    (back,) = client.retrieve_series(CT.study_uid, "1.2.3")
    assert back.PixelData == data.PixelData


def stow(archive: DemoArchive, body: bytes, boundary: str = "b", study: str = "") -> requests.Response:
    kind = f'multipart/related; type="application/dicom"; boundary="{boundary}"'
    return archive.http.post(f"{archive.url}/studies{study}", data=body, headers={"Content-Type": kind}, timeout=30)


def part(content: bytes) -> bytes:
    return b"\r\n--b\r\nContent-Type: application/dicom\r\n\r\n" + content


def file_of(data: pydicom.Dataset) -> bytes:
    with pydicom.filebase.DicomBytesIO() as buffer:
        data.save_as(buffer, write_like_original=False)
        return buffer.getvalue()


def failures(answer: requests.Response) -> list[int]:
    return [entry["00081197"]["Value"][0] for entry in answer.json()["00081198"]["Value"]]


def files(archive: DemoArchive) -> list[Path]:
    return sorted(path for path in archive.folder.rglob("*") if path.is_file())


def test_the_same_instance_again_is_fine_and_another_of_its_uid_is_not(writable: DemoArchive) -> None:
    data = one_of(writable, CT)
    before = files(writable)
    same = next(path for path in before if path.name == "0001.dcm" and path.parent.name == "0").read_bytes()
    assert stow(writable, part(same) + b"\r\n--b--").status_code == 200
    refused = stow(writable, part(file_of(changed(data, WindowWidth="7"))) + b"\r\n--b--")
    assert (refused.status_code, failures(refused)) == (409, [0x0111])
    assert files(writable) == before


def test_one_bad_part_does_not_cost_the_others(writable: DemoArchive) -> None:
    good = file_of(changed(one_of(writable, CT), SOPInstanceUID="1.2.3.4", SeriesInstanceUID="1.2.3"))
    stranger = file_of(changed(one_of(writable, CT), SOPInstanceUID="1.2.3.6", PatientID="P-2"))
    nowhere = file_of(changed(one_of(writable, CT), SOPInstanceUID="1.1.1.1.2.3.7")).replace(b"1.1.1.", b"../../")
    parts = [b"no DICOM", good, stranger, nowhere]
    answer = stow(writable, b"".join(map(part, parts)) + b"\r\n--b--")
    assert answer.status_code == 202
    assert failures(answer) == [0xC000, 0xA900, 0xC000]
    assert [entry["00081155"]["Value"] for entry in answer.json()["00081199"]["Value"]] == [["1.2.3.4"]]
    assert values(ask(writable, "/instances?SeriesInstanceUID=1.2.3"), "00080018") == ["1.2.3.4"]


def test_an_instance_of_another_study_than_the_address_says_is_refused(writable: DemoArchive) -> None:
    data = file_of(changed(one_of(writable, CT), SOPInstanceUID="1.2.3.4"))
    answer = stow(writable, part(data) + b"\r\n--b--", study=f"/{OTHER.study_uid}")
    assert (answer.status_code, failures(answer)) == (409, [0xA900])


@pytest.mark.parametrize("body", [part(b"DICM"), b"garbage", b""])
def test_a_body_that_ends_early_leaves_nothing(writable: DemoArchive, body: bytes) -> None:
    before = files(writable)
    assert stow(writable, body).status_code == 400
    assert files(writable) == before
