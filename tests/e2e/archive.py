"""The DICOMweb servers of the specs: Orthanc where it is installed, else the app's own demo server."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pydicom
import requests
from dicomweb_client.api import DICOMwebClient

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
START_LIMIT_S = 60.0


def orthanc_program() -> str | None:
    """Orthanc's program; None where it or its DICOMweb plugin is not installed."""
    found = shutil.which("Orthanc", path="/usr/sbin:/usr/bin:/usr/local/bin")
    return found if PLUGIN.exists() else None


class Orthanc:
    """Orthanc with its DICOMweb plugin, on loopback and with a folder of its own."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.url = f"http://127.0.0.1:{port}/dicom-web"

    def __enter__(self) -> Orthanc:
        self.folder.mkdir(parents=True)
        settings, log = self.folder / "orthanc.json", self.folder / "orthanc.log"
        settings.write_text(json.dumps(self._settings()))
        with log.open("wb") as output:
            command = [str(orthanc_program()), str(settings)]
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=self.folder)
        limit = time.monotonic() + START_LIMIT_S
        while time.monotonic() < limit and self.process.poll() is None:
            try:
                with requests.Session() as http:
                    http.trust_env = False
                    http.get(f"{self.url}/studies", timeout=5).raise_for_status()
                return self
            except requests.RequestException:
                time.sleep(0.1)
        self.__exit__()
        raise AssertionError(f"Orthanc did not start:\n{log.read_text()[-2000:]}")

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(30)

    def _settings(self) -> dict[str, Any]:
        return {
            "StorageDirectory": str(self.folder / "db"),
            "IndexDirectory": str(self.folder / "db"),
            "Plugins": [str(PLUGIN)],
            "HttpPort": self.port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomServerEnabled": False,
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "StudiesMetadata": "Full", "SeriesMetadata": "Full"},
        }


def store(url: str, folder: Path) -> None:
    """Send every instance below a folder to a DICOMweb server."""
    client = _client(url)
    for path in sorted(folder.rglob("*.dcm")):
        client.store_instances([pydicom.dcmread(path)])


def segmentations(url: str, study: str) -> list[Any]:
    """The DICOM SEG data sets of a study, in the order of their series' numbers."""
    client = _client(url)
    found = client.search_for_series(study, search_filters={"Modality": "SEG"})
    series = [entry["0020000E"]["Value"][0] for entry in found]
    return sorted((client.retrieve_series(study, uid)[0] for uid in series), key=lambda seg: int(seg.SeriesNumber))


def _client(url: str) -> DICOMwebClient:
    session = requests.Session()
    session.trust_env = False
    return DICOMwebClient(url, session=session)
