"""Input as it should not be: one clear sentence each, the next request answered, no file left behind."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from bad_studies import ACCEPTED, REFUSED
from serving import CASE_SHAPE, TUMOR, Reply, Server

pytestmark = pytest.mark.app


def check_refused(server: Server, reply: Reply, statuses: tuple[int, ...], *words: str) -> None:
    """One sentence with these words, no path of the server's in it, a server that goes on, and nothing left behind."""
    assert reply.status in statuses, f"{reply.status}: {reply.detail}"
    assert reply.detail.strip() == reply.detail
    assert 20 < len(reply.detail) < 500
    assert "\n" not in reply.detail
    assert str(server.folder) not in reply.detail
    assert str(server.studies) not in reply.detail
    for word in words:
        assert word in reply.detail
    assert server.files_left() == []
    following = server.infer({}, output="image")
    assert following.status == 200, following.detail
    assert server.files_left() == []


@pytest.mark.parametrize("study", REFUSED)
def test_an_unusable_image_is_refused(server: Server, study: str) -> None:
    check_refused(server, server.infer({"tumor": [[5, 5, 5]]}, image=study), (422,), REFUSED[study], study)


@pytest.mark.parametrize("study", ACCEPTED)
def test_an_unusual_image_is_answered(server: Server, study: str) -> None:
    click = ACCEPTED[study]
    reply = server.infer({"tumor": [list(click)]}, image=study)
    assert reply.status == 200, reply.detail
    assert reply.mask is not None
    assert reply.mask[click] == reply.params["label_names"]["tumor"]
    assert server.files_left() == []


def test_mended_voxels_are_mentioned(server: Server) -> None:
    assert "not finite" in " ".join(server.infer({}, image="some_nan").params["notes"])


def test_a_dicom_series_without_one_slice_is_refused(server: Server, tmp_path: Path) -> None:
    session = open_session(server, write_series(tmp_path, missing=4))
    reply = server.infer({"tumor": [[3, 3, 3]]}, image="", query={"session_id": session})
    check_refused(server, reply, (422,), "slice")


def test_a_whole_dicom_series_is_answered(server: Server, tmp_path: Path) -> None:
    session = open_session(server, write_series(tmp_path, missing=None))
    reply = server.infer({"tumor": [[3, 4, 5]]}, image="", query={"session_id": session})
    assert reply.status == 200, reply.detail
    assert reply.mask is not None
    assert reply.mask.shape == (24, 20, 10)
    assert reply.mask[3, 4, 5] == reply.params["label_names"]["tumor"]


@pytest.mark.parametrize(
    "clicks",
    ["[[5, 5, 5]]", "all", 7, {"i": 5}, [5, 5, 5], [["a", "b", "c"]], [[None, 1, 2]], [[[5, 5, 5]]], [[True, 1, 2]]],
    ids=str,
)
def test_what_is_no_list_of_clicks_is_refused(server: Server, clicks: Any) -> None:
    check_refused(server, server.infer({"tumor": clicks}), (422,), "tumor")


@pytest.mark.parametrize("clicks", [[[1, 2]], [[1, 2, 3, 4]], [[math.nan, 1, 2]], [[math.inf, 1, 2]], [[1e300, 1, 2]]])
def test_clicks_that_are_no_voxels_are_left_out_and_noted(server: Server, clicks: Any) -> None:
    reply = server.infer({"tumor": clicks})
    assert reply.status == 200, reply.detail
    assert reply.mask is not None
    assert not reply.mask.any()
    assert "left out" in " ".join(reply.params["notes"])


def test_ten_thousand_clicks_are_refused(server: Server) -> None:
    clicks = np.random.default_rng(0).integers(0, 70, (10_000, 3)).tolist()
    check_refused(server, server.infer({"tumor": clicks}), (422,), "10000 clicks", "2000")


def test_unknown_labels_are_named(server: Server) -> None:
    grown = server.infer({"label": "spleen", "foreground": [list(TUMOR)], "background": []})
    check_refused(server, grown, (422,), "spleen", "tumor")
    check_refused(server, server.infer({"tumour": [list(TUMOR)]}), (422,), "no label 'tumour'", "'tumor'")
    noted = server.infer({"spleen": [list(TUMOR)], "tumor": [list(TUMOR)]})
    assert noted.status == 200
    assert "spleen" in " ".join(noted.params["notes"])


def test_a_wrong_box_is_refused(server: Server) -> None:
    check_refused(server, server.infer({"tumor": [list(TUMOR)], "roi": [1, 2, 3]}), (422,), "roi")


@pytest.mark.parametrize("model", ["sam4d", "deepedit", "null"])
def test_an_unknown_model_is_refused(server: Server, model: str) -> None:
    check_refused(server, server.infer({}, model=model), (404,), model, "sam3d", "sam3d_auto")


@pytest.mark.parametrize("image", ["nobody", "../case", "case.nii.gz", "/etc/hostname", "case\0", "."])
def test_an_unknown_image_is_refused(server: Server, image: str) -> None:
    check_refused(server, server.infer({}, image=image), (404,), "no image")


def test_no_path_of_the_server_is_opened(server: Server) -> None:
    path = str(server.studies / "case.nii.gz")
    for reply in (server.infer({}, image=path), server.infer({"image": path}), server.infer({"image": [path]})):
        assert reply.status == 404
    spoof = {"image": path, "session": {"image": path, "path": path}}
    assert server.infer(spoof).status == 404
    assert (server.studies / "case.nii.gz").exists()


def test_an_unknown_session_is_refused(server: Server) -> None:
    reply = server.infer({}, image="", query={"session_id": "00000000-0000-0000-0000-000000000000"})
    check_refused(server, reply, (404,), "no image")


def test_keys_that_name_files_or_devices_mean_nothing(server: Server) -> None:
    plain = server.infer({"tumor": [list(TUMOR)]})
    keys = {
        "model_filename": "/etc/passwd",
        "train_ds": "/etc/passwd",
        "result_write_to_file": False,
        "skip_writer": True,
        "device": "cuda:7",
        "logging": "NOISE",
        "result_dtype": "float64",
        "description": ["x"],
    }
    reply = server.infer({"tumor": [list(TUMOR)], **keys})
    assert reply.status == 200, reply.detail
    assert np.array_equal(reply.mask, plain.mask)
    assert server.files_left() == []


@pytest.mark.parametrize("extension", [".png", ".seg.nrrd", "/../../x.nrrd", 7, {"a": 1}], ids=str)
def test_an_unknown_format_is_refused(server: Server, extension: Any) -> None:
    reply = server.infer({"tumor": [list(TUMOR)], "result_extension": extension})
    check_refused(server, reply, (422,), "result_extension", ".nrrd")


def test_a_tag_cannot_leave_its_folder(server: Server) -> None:
    reply = server.infer({"save_label": True, "label_tag": "../../elsewhere"})
    check_refused(server, reply, (422,), "label_tag")


def test_a_mask_can_be_kept_under_a_tag(server: Server) -> None:
    reply = server.infer({"tumor": [list(TUMOR)], "save_label": True, "label_tag": "draft"})
    assert reply.status == 200, reply.detail
    kept = server.studies / "labels" / "draft" / "case.nii.gz"
    assert kept.is_file()
    kept.unlink()
    assert server.files_left() == []


def test_a_file_sent_along_is_read_and_removed(server: Server) -> None:
    content = (server.studies / "small_20mm.nii.gz").read_bytes()
    reply = server.infer({"tumor": [[10, 10, 10]]}, image="", files={"file": ("mine.nii.gz", content)})
    assert reply.status == 200, reply.detail
    assert reply.mask is not None
    assert reply.mask.shape == (20, 20, 20)
    assert server.files_left() == []


def test_a_damaged_file_sent_along_is_removed(server: Server) -> None:
    reply = server.infer({"tumor": [[1, 1, 1]]}, image="", files={"file": ("mine.nii.gz", b"no image")})
    check_refused(server, reply, (422,), "damaged")
    reply = server.infer({"tumor": "x"}, files={"label": ("scribbles.nii.gz", b"no image")})
    check_refused(server, reply, (422,), "tumor")


def test_a_drawing_that_is_none_is_refused_and_leaves_nothing(server: Server) -> None:
    files = {"label": ("scribbles.nii.gz", b"no image")}
    reply = server.infer({"foreground": [list(TUMOR)], "roi": [60, 120, 50, 110, 20, 60]}, files=files)
    assert reply.status == 422, reply.detail
    assert "scribbles.nii.gz" in reply.detail
    assert server.files_left() == []


def test_batch_inference_skips_what_it_cannot_read(server: Server) -> None:
    response = server.http.post(
        f"{server.url}/batch/infer/sam3d_auto",
        params={"images": "all", "run_sync": "true"},
        json={"images": ["case", "empty_file", "small_20mm"], "max_workers": 1, "label_tag": "batch"},
        timeout=600,
    )
    assert response.status_code == 200, server.log_tail()
    results = response.json()
    assert "empty file" in results["empty_file"]["error"]
    for image in ("case", "small_20mm"):
        kept = server.studies / "labels" / "batch" / f"{image}.nii.gz"
        assert kept.is_file()
        kept.unlink()
    assert server.files_left() == []


def test_a_full_disk_is_told(cramped_server: Server) -> None:
    reply = cramped_server.infer({"lesion": [list(TUMOR)], "result_extension": ".nrrd"}, output="image")
    assert reply.status == 507, reply.detail
    assert "disk space" in reply.detail
    assert cramped_server.files_left() == []
    following = cramped_server.infer({"lesion": [list(TUMOR)], "result_extension": ".nii.gz"}, output="image")
    assert following.status == 200, following.detail
    assert following.mask is not None
    assert following.mask.shape == CASE_SHAPE
    assert following.mask[TUMOR] == 1
    assert cramped_server.files_left() == []


def test_an_unreadable_checkpoint_is_told(weightless_server: Server) -> None:
    for _ in range(2):
        reply = weightless_server.infer({"lesion": [list(TUMOR)]})
        assert reply.status == 503
        assert "damaged.pth.tar" in reply.detail
        assert "\n" not in reply.detail
        assert str(weightless_server.folder) not in reply.detail
    assert "not ready" in weightless_server.info()["models"]["sam3d"]["description"]
    assert weightless_server.files_left() == []


def open_session(server: Server, files: list[Path]) -> str:
    """The id of a session with these files, as Slicer opens one for a local image."""
    parts = [("files", (path.name, path.read_bytes())) for path in files]
    response: requests.Response = server.http.put(f"{server.url}/session/", files=parts, timeout=60)
    assert response.status_code == 200, response.text
    return str(response.json()["session_id"])


def write_series(folder: Path, missing: int | None) -> list[Path]:
    """The slices of a small CT series, 24 columns, 20 rows and 10 slices 2 mm apart, one of them left out."""
    pydicom = pytest.importorskip("pydicom")
    uids = [pydicom.uid.generate_uid() for _ in range(3)]
    paths = []
    for number in range(10):
        meta = pydicom.dataset.FileMetaDataset()
        meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
        meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        slice_ = pydicom.dataset.FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        slice_.SOPClassUID, slice_.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        slice_.StudyInstanceUID, slice_.SeriesInstanceUID, slice_.FrameOfReferenceUID = uids
        slice_.Modality, slice_.InstanceNumber = "CT", number + 1
        slice_.Rows, slice_.Columns, slice_.SamplesPerPixel = 20, 24, 1
        slice_.PhotometricInterpretation = "MONOCHROME2"
        slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit, slice_.PixelRepresentation = 16, 16, 15, 1
        slice_.RescaleSlope, slice_.RescaleIntercept = 1, 0
        slice_.PixelSpacing, slice_.SliceThickness = [1.0, 1.0], 2.0
        slice_.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        slice_.ImagePositionPatient = [0, 0, 2.0 * number]
        slice_.PixelData = np.random.default_rng(number).integers(0, 90, (20, 24)).astype(np.int16).tobytes()
        slice_.is_little_endian, slice_.is_implicit_VR = True, False
        path = folder / f"slice{number:02d}.dcm"
        if number != missing:
            pydicom.dcmwrite(path, slice_, write_like_original=False)
            paths.append(path)
    return paths
