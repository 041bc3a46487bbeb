"""What is drawn in a viewer goes along with the clicks: a mask so far, strokes, and 3D Slicer's scribbles."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from requests_toolbelt.multipart.decoder import MultipartDecoder

from lib.synthesis.phantoms import make_phantom
from serving import Server

pytestmark = [pytest.mark.app, pytest.mark.slow]

TURN = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NDArray[Any], NDArray[np.bool_]]:
    """An oblique phantom in a folder of studies, its affine, and its largest lesion."""
    folder = tmp_path_factory.mktemp("drawing") / "studies"
    folder.mkdir()
    phantom = make_phantom(3, (96, 96, 40), (1.5, 1.5, 3.0), "LAS", rotation=TURN, scene="parenchyma")
    nibabel.save(nibabel.Nifti1Image(phantom.array, phantom.affine), folder / "case.nii.gz")
    return folder, phantom.affine, phantom.lesions()[0]


@pytest.fixture(scope="module")
def server(case: tuple[Path, Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("drawing_server") / "server", case[0], {"labels": "lesion,organ"}) as running:
        yield running


def post(server: Server, params: dict[str, Any], **files: tuple[str, bytes]) -> tuple[int, Any, dict[str, Any]]:
    """Status, mask (I, J, K) or the sentence, and the reply's params."""
    parts = {"params": (None, json.dumps({"result_extension": ".nii", **params})), **files}
    reply = server.http.post(f"{server.url}/infer/sam3d?image=case", files=parts, timeout=300)
    if reply.status_code != 200:
        return reply.status_code, reply.json()["detail"], {}
    answered, mask = MultipartDecoder.from_response(reply).parts
    image = nibabel.Nifti1Image.from_bytes(mask.content)
    return 200, np.asarray(image.dataobj), json.loads(answered.content)


def raw(array: NDArray[Any]) -> tuple[str, bytes]:
    return "label.bin", array.astype(np.uint8).tobytes(order="F")


def nifti(array: NDArray[Any], affine: NDArray[Any]) -> tuple[str, bytes]:
    return "label.nii", nibabel.Nifti1Image(array.astype(np.uint8), affine).to_bytes()


def dice(one: NDArray[Any], other: NDArray[Any]) -> float:
    return float(2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other)))


def test_a_mask_sent_along_comes_back_and_clicks_carry_on_from_it(server: Server, case: tuple[Path, Any, Any]) -> None:
    _, affine, lesion = case
    for file in (raw(2 * lesion), nifti(2 * lesion, affine)):
        status, mask, _ = post(server, {}, label=file)
        assert status == 200
        assert np.array_equal(mask == 2, lesion)
    half = lesion.copy()
    half[np.argwhere(lesion)[:, 0].mean().astype(int) :] = False
    missed = np.argwhere(lesion & ~half)
    click = missed[np.square(missed - missed.mean(axis=0)).sum(axis=1).argmin()].tolist()
    _, mask, _ = post(server, {"lesion": [click]}, label=raw(half))
    assert dice(mask == 1, lesion) > dice(half, lesion)
    _, fresh, _ = post(server, {"lesion": [click]})
    assert not np.array_equal(mask, fresh)


def test_slicers_scribbles_are_strokes_for_the_selected_label(server: Server, case: tuple[Path, Any, Any]) -> None:
    _, affine, lesion = case
    middle = np.rint(np.argwhere(lesion).mean(axis=0)).astype(int)
    scribbles = np.zeros(lesion.shape, np.uint8)
    scribbles[middle[0] - 1 : middle[0] + 2, middle[1] - 1 : middle[1] + 2, middle[2]] = 5
    scribbles[2:6, 2:6, 2] = 4
    params = {
        "label_info": [{"name": "background_scribbles", "id": 4}, {"name": "foreground_scribbles", "id": 5}],
        "selected_label_name": "organ",
    }
    status, mask, answered = post(server, params, label=nifti(scribbles, affine))
    assert status == 200, mask
    assert (mask[scribbles == 5] == 2).all()
    assert not mask[scribbles == 4].any()
    assert np.count_nonzero(mask == 2) > 9
    assert answered["n_patches"] >= 1


def test_strokes_beside_a_mask_are_answered_and_kept(server: Server, case: tuple[Path, Any, Any]) -> None:
    _, _, lesion = case
    _, first, _ = post(server, {"lesion": [np.rint(np.argwhere(lesion).mean(axis=0)).astype(int).tolist()]})
    strokes = np.zeros(lesion.shape, np.uint8)
    strokes[40:44, 40:44, 3] = 1
    taken = np.argwhere(first == 1)[0]
    strokes[tuple(taken)] = 255
    _, mask, answered = post(server, {}, label=raw(first == 1), strokes=raw(strokes))
    assert (mask[strokes == 1] == 1).all()
    assert mask[tuple(taken)] == 0
    assert answered["n_decoded"] >= 1


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"label": ("label.bin", b"123")}, "the label has 3 bytes, but image of this request has shape (96, 96, 40)"),
        ({"label": ("label.exe", b"123")}, "the file sent along is 'label.exe': its name must end in"),
        ({"strokes": ("s.nii", b"123")}, "s.nii"),
    ],
)
def test_what_does_not_belong_to_the_image_is_refused(server: Server, files: dict[str, Any], sentence: str) -> None:
    status, detail, _ = post(server, {"lesion": [[40, 40, 20]]}, **files)
    assert status == 422
    assert sentence.split("s.nii")[0] in detail


def test_no_path_of_the_clients_is_opened(server: Server, case: tuple[Path, Any, Any]) -> None:
    path = str(case[0] / "case.nii.gz")
    status, mask, _ = post(server, {"drawn": path, "label": path, "strokes": path})
    assert status == 200
    assert not mask.any()
