"""Labels to an archive and back: what is drawn is what is trained on, voxel for voxel and name for name.

Against the demo server always, against Orthanc where it is installed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import pydicom
import pytest
import requests
from dicomweb_client import DICOMwebClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from archives import DemoArchive
from lib.demo import free_port
from lib.dicom_writing import SeriesInfo, on_dicom_grid, write_series
from lib.labels import read_label
from lib.volumes import open_volume
from studies_in_archive import LABELS, datastore_at
from unit.test_dicom_writing import ORIENTATIONS, affine_of

pytestmark = [pytest.mark.app, pytest.mark.slow]

ORTHANC_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
EXAMPLES = 24
SPACINGS = [(1.5, 2.25, 4.0), (0.7, 0.7, 5.0), (1.0, 1.0, 1.0), (2.5, 1.25, 0.625)]


class Archive(Protocol):
    url: str


class Orthanc:
    """Orthanc with its DICOMweb plugin, over a folder of its own."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.url = f"http://127.0.0.1:{port}/dicom-web"

    def __enter__(self) -> Orthanc:
        self.folder.mkdir()
        wanted = {
            "StorageDirectory": str(self.folder),
            "IndexDirectory": str(self.folder),
            "Plugins": [str(ORTHANC_PLUGIN)],
            "HttpPort": self.port,
            "RemoteAccessAllowed": False,
            "DicomServerEnabled": False,
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        configuration = self.folder / "orthanc.json"
        configuration.write_text(json.dumps(wanted))
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(["Orthanc", str(configuration)], stdout=log, stderr=subprocess.STDOUT)
        limit = time.monotonic() + 60
        while time.monotonic() < limit:
            try:
                if requests.get(f"{self.url}/studies", timeout=5).ok:
                    return self
            except requests.RequestException:
                time.sleep(0.1)
        raise AssertionError((self.folder / "log").read_text())

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(20)


@pytest.fixture(scope="module", params=["demo", "orthanc"])
def archive(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    folder = tmp_path_factory.mktemp("archive") / "files"
    if request.param == "orthanc":
        if shutil.which("Orthanc") is None or not ORTHANC_PLUGIN.exists():
            pytest.skip("Orthanc with its DICOMweb plugin is not installed (Debian: orthanc orthanc-dicomweb)")
        with Orthanc(folder, free_port(0)) as running:
            yield running
    else:
        with DemoArchive(folder, free_port(0)) as demo:
            yield demo


@st.composite
def drawings(draw: st.DrawFn) -> tuple[str, tuple[int, int, int], tuple[float, float, float], float, np.ndarray]:
    """Orientation, shape, spacing, a turn in radians, and a label map with up to five values."""
    codes = draw(st.sampled_from(ORIENTATIONS))
    shape = (draw(st.integers(2, 13)), draw(st.integers(2, 11)), draw(st.integers(1, 7)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(1, len(LABELS)))
    label = np.zeros(shape, np.uint8)
    extent = draw(st.sampled_from(["one plane", "some", "all"]))
    first, last = {"one plane": (shape[2] // 2,) * 2, "some": (shape[2] // 3, shape[2] - 1), "all": (0, shape[2] - 1)}[
        extent
    ]
    for k in range(first, last + 1):
        label[:, :, k] = rng.integers(1 if extent == "all" else 0, count + 1, shape[:2])
    label[0, 0, first] = count  # never empty
    return codes, shape, draw(st.sampled_from(SPACINGS)), draw(st.sampled_from([0.0, 0.31, -0.83])), label


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(drawing=drawings())
def test_a_label_comes_back_as_it_was_drawn(archive: Archive, drawing, tmp_path_factory, monkeypatch) -> None:
    codes, shape, spacing, turn, label = drawing
    place = tmp_path_factory.mktemp("trip")
    info = SeriesInfo(f"P-{place.name}", "Müller^Jörg", description=place.name)
    rng = np.random.default_rng(1)
    array, affine = on_dicom_grid(rng.integers(-500, 900, shape).astype(np.int16), affine_of(codes, spacing, turn))
    order = [int(k) for k in rng.permutation(shape[2])]
    stow(archive.url, write_series(place / "series", array, affine, info, order))

    values = [int(value) for value in np.unique(label) if value]
    # As the viewer sends it: values without gaps, and names in their order.
    compact = np.searchsorted([0, *values], label).astype(np.uint8)
    names = [LABELS[value - 1] for value in values]
    (place / "label.bin").write_bytes(compact.tobytes(order="F"))
    writer = datastore_at(archive.url, place / "writer", monkeypatch)
    params = {"label_info": [{"name": name} for name in names], "client_id": "ann"}
    writer.save_label(info.uid(), str(place / "label.bin"), "final", params)
    wait_until(lambda: not writer.waiting())

    reader = datastore_at(archive.url, place / "reader", monkeypatch)
    case = reader.newest_case(info.uid())
    assert case is not None
    assert case.label.suffix == ".dcm"  # from the archive, not from the writer's folder
    masks = read_label(case.label, open_volume(case.image), LABELS, case.value_names).masks
    assert sorted(masks) == sorted(names)
    different = {name: int((masks[name] != (label == LABELS.index(name) + 1)).sum()) for name in names}
    assert different == dict.fromkeys(names, 0)
    for store in (writer, reader):
        store.close()


def stow(url: str, paths: list[Path]) -> None:
    DICOMwebClient(url).store_instances([pydicom.dcmread(path) for path in paths])


def wait_until(is_so, limit_s: float = 60.0) -> None:
    limit = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < limit, f"not within {limit_s} s"
        time.sleep(0.05)
