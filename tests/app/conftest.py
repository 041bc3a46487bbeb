"""Servers for the tests of this folder: each is started at most once, when the first test asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from monailabel.config import settings

from bad_studies import write_bad_studies
from serving import Server, make_case, write_study
from told_archives import ToldArchive, serving


@pytest.fixture(scope="session")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one good study, `case`, and one of each kind that cannot be used."""
    folder = tmp_path_factory.mktemp("studies")
    write_study(folder / "case.nii.gz", *make_case())
    write_bad_studies(folder)
    return folder


@pytest.fixture(scope="session")
def server(studies: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server that most tests talk to, with the labels of the recorded payloads."""
    conf = {
        "labels": "tumor,liver,Gefäß,background",
        "max_clicks": "2000",
        "max_upload_mib": "8",
        "next_sample": "first",
    }
    with Server(tmp_path_factory.mktemp("server"), studies, conf) as running:
        yield running


@pytest.fixture(scope="session")
def cramped_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without any --conf, that cannot write a file of more than 600 kB: less than a raw mask of `case`."""
    folder = tmp_path_factory.mktemp("few")
    write_study(folder / "case.nii.gz", *make_case())
    with Server(tmp_path_factory.mktemp("cramped"), folder, file_limit=600_000) as running:
        yield running


@pytest.fixture(scope="session")
def weightless_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose checkpoint is a file of noise."""
    folder = tmp_path_factory.mktemp("weightless")
    checkpoint = folder / "damaged.pth.tar"
    checkpoint.write_bytes(bytes(range(256)) * 64)
    (folder / "studies").mkdir()
    write_study(folder / "studies" / "case.nii.gz", *make_case())
    conf = {"checkpoint": str(checkpoint), "variant": "tiny"}
    with Server(folder / "server", folder / "studies", conf) as running:
        yield running


@pytest.fixture
def told_archive() -> Iterator[ToldArchive]:
    """An archive whose answers the test says."""
    with ToldArchive() as running:
        yield running


@pytest.fixture
def proxy(told_archive: ToldArchive, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of our way to that archive, which wants a login."""
    monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_USERNAME", "reader")
    monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_PASSWORD", "s3cret")
    with serving(f"http://{told_archive.address}/dicom-web/", monkeypatch) as url:
        yield f"{url}/proxy/dicom"
