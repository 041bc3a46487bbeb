"""Series that are not plain slices of uncompressed pixels, from Orthanc and from our own server: read as they are, or
refused with a sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import requests
import SimpleITK as sitk
from dicomweb_client import DICOMwebClient
from fastapi import HTTPException
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import JPEG2000Lossless, RLELossless, generate_uid

from archives import DemoArchive
from e2e.archive import Orthanc, orthanc_program
from lib.datastore.archive import ArchiveDatastore
from lib.demo import free_port
from lib.images.dicom_writing import SeriesInfo, on_dicom_grid, write_series
from lib.images.volumes import open_volume
from studies_in_archive import datastore_at
from unit.test_dicom_writing import affine_of

pytestmark = pytest.mark.app

SHAPE = (24, 20, 5)
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
Archive = Orthanc | DemoArchive


@pytest.fixture(scope="module", params=["orthanc", "ours"])
def archive(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    folder = tmp_path_factory.mktemp("archive") / "files"
    if request.param == "ours":
        folder.mkdir()
        with DemoArchive(folder, free_port(0)) as ours:
            yield ours
        return
    if orthanc_program() is None:
        pytest.skip("Orthanc with its DICOMweb plugin is not installed (Debian: orthanc orthanc-dicomweb)")
    with Orthanc(folder, free_port(0)) as running:
        yield running


@pytest.fixture
def store(archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ArchiveDatastore]:
    opened = datastore_at(archive.url, tmp_path / "cache", monkeypatch)
    yield opened
    opened.close()


def series(folder: Path, name: str) -> tuple[SeriesInfo, np.ndarray, list[Any]]:
    """A series of noise by a name of its own: what viewers show of it, and its instances."""
    info = SeriesInfo(f"P-{name}", "Doe^Ann", description=name)
    noise = np.random.default_rng(3).integers(-900, 900, SHAPE).astype(np.int16)
    array, affine = on_dicom_grid(noise, affine_of("LPS"))
    paths = write_series(folder / name, array, affine, info, list(range(SHAPE[2]))[::-1])
    return info, array, [pydicom.dcmread(path) for path in paths]


def stow(archive: Archive, instances: list[Any]) -> None:
    DICOMwebClient(archive.url).store_instances(instances)


def run_length(instance: Any, _: Path) -> None:
    instance.compress(RLELossless)


def wavelets(instance: Any, folder: Path) -> None:
    """JPEG 2000, as the DICOM library of SimpleITK packs it."""
    stored = sitk.GetImageFromArray(instance.pixel_array[None])
    path = str(folder / "packed.dcm")
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.SetFileName(path)
    writer.UseCompressionOn()
    writer.SetCompressor("JPEG2000")
    writer.Execute(stored)
    packed = pydicom.dcmread(path)
    assert packed.file_meta.TransferSyntaxUID == JPEG2000Lossless
    instance.file_meta.TransferSyntaxUID = JPEG2000Lossless
    instance.PixelData = packed.PixelData
    instance["PixelData"].is_undefined_length = True
    instance.is_implicit_VR = False


@pytest.mark.parametrize("pack", [run_length, wavelets])
def test_a_compressed_series_has_the_voxels_that_were_packed(
    store: ArchiveDatastore, archive: Archive, tmp_path: Path, pack: Callable[[Any, Path], None]
) -> None:
    info, array, instances = series(tmp_path, pack.__name__)
    for instance in instances:
        pack(instance, tmp_path)
    stow(archive, instances)
    assert syntaxes(archive) >= {instances[0].file_meta.TransferSyntaxUID}
    assert np.array_equal(open_volume(Path(store.get_image_uri(info.uid()))).array, array)


def syntaxes(archive: Archive) -> set[str]:
    """The transfer syntaxes that an archive keeps its instances in."""
    if isinstance(archive, DemoArchive):
        return {str(pydicom.dcmread(path).file_meta.TransferSyntaxUID) for path in archive.folder.rglob("*.dcm")}
    root = archive.url.removesuffix("/dicom-web")
    known = requests.get(f"{root}/instances", timeout=60).json()
    asked = (requests.get(f"{root}/instances/{each}/metadata/TransferSyntax", timeout=60) for each in known)
    return {answer.text for answer in asked}


def refusal(store: ArchiveDatastore, info: SeriesInfo) -> str:
    with pytest.raises(HTTPException) as caught:
        store.get_image_uri(info.uid())
    assert caught.value.status_code == 422
    return str(caught.value.detail)


def test_unevenly_spaced_slices_are_refused_with_what_to_do(
    store: ArchiveDatastore, archive: Archive, tmp_path: Path
) -> None:
    info, _, instances = series(tmp_path, "uneven")
    for number, instance in enumerate(instances):
        instance.ImagePositionPatient[2] = float(instance.ImagePositionPatient[2]) + (0.0, 0.9)[number % 2]
    stow(archive, instances)
    sentence = refusal(store, info)
    assert "unevenly spaced slices" in sentence
    assert "resample" in sentence


def test_an_enhanced_multi_frame_ct_is_opened(store: ArchiveDatastore, archive: Archive, tmp_path: Path) -> None:
    info, array, instances = series(tmp_path, "enhanced")
    whole, frames = instances[0], [instance.PixelData for instance in instances]
    whole.SOPClassUID = whole.file_meta.MediaStorageSOPClassUID = ENHANCED_CT
    whole.SOPInstanceUID = whole.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    whole.NumberOfFrames, whole.PixelData = len(frames), b"".join(frames)
    places = [instance.ImagePositionPatient for instance in instances]
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = whole.PixelSpacing, whole.SliceThickness
    orientation.ImageOrientationPatient = whole.ImageOrientationPatient
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Sequence([measures]), Sequence([orientation])
    whole.SharedFunctionalGroupsSequence = Sequence([shared])
    per_frame = []
    for place in places:
        frame, position = Dataset(), Dataset()
        position.ImagePositionPatient = place
        frame.PlanePositionSequence = Sequence([position])
        per_frame.append(frame)
    whole.PerFrameFunctionalGroupsSequence = Sequence(per_frame)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(whole, keyword)
    stow(archive, [whole])
    assert np.array_equal(open_volume(Path(store.get_image_uri(info.uid()))).array, array)
