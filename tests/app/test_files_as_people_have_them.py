"""Images and labels as scanners, converters and viewers leave them, put to a running server.

Unless a test says otherwise the image is a bright ball of radius 8 mm around voxel (40, 20, 14). "Where ITK puts it" is
where 3D Slicer, ITK-SNAP and nnU-Net show a voxel.
"""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import requests
import SimpleITK as sitk

from lib.images.volumes import open_volume
from lib.labels.masks import read_label
from serving import Server

pytestmark = [pytest.mark.app, pytest.mark.slow]

SHAPE, CENTRE, SPACING = (64, 56, 40), (40, 20, 14), np.array([1.0, 1.0, 1.5])
PLACE = np.array([[-1.0, 0, 0, 30], [0, -1, 0, 25], [0, 0, 1.5, -20], [0, 0, 0, 1]])
MOVED_MM = {"forms_2mm": (2.0, -1.0, 1.5), "forms_8mm": (8.0, -5.0, 6.0)}
UNITS = {"micron": 1e3, "meter": 1e-3}
LABELS = {"label_info": [{"name": "lesion", "idx": 1}]}
SAME_DICE = 0.9


def truth() -> np.ndarray:
    """The ball as a mask (I, J, K)."""
    where = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), axis=-1)
    return np.linalg.norm((where - CENTRE) * SPACING, axis=-1) < 8


def voxels() -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 10, SHAPE)
    return (np.where(truth(), 150, -50) + noise).astype(np.int16)


def write_forms(
    path: Path, qform: np.ndarray, sform: np.ndarray, codes: tuple[int, int] = (1, 1), unit: str = "mm"
) -> None:
    image = nib.Nifti1Image(voxels(), qform)
    image.set_qform(qform, codes[0])
    image.set_sform(sform, codes[1])
    image.header.set_xyzt_units(unit)
    nib.save(image, path)


def write_studies(folder: Path) -> None:
    folder.mkdir()
    write_forms(folder / "image.nii.gz", PLACE, PLACE)
    for name, shift in MOVED_MM.items():
        moved = PLACE.copy()
        moved[:3, 3] += shift
        write_forms(folder / f"{name}.nii.gz", PLACE, moved, codes=(1, 2))
    for unit, factor in UNITS.items():
        scaled = np.diag([*(SPACING * factor), 1.0])
        write_forms(folder / f"{unit}.nii.gz", scaled, scaled, unit=unit)
    sheared = PLACE.copy()
    sheared[0, 2] = 0.3
    write_forms(folder / "sheared.nii.gz", PLACE, sheared, codes=(0, 1))
    write_forms(folder / "plain.nii", PLACE, PLACE)
    plain = (folder / "plain.nii").read_bytes()
    (folder / "not_packed.nii.gz").write_bytes(plain)
    (folder / "packed.nii").write_bytes(gzip.compress(plain))
    negative = bytearray(plain)
    struct.pack_into("<f", negative, 80, -1.0)  # pixdim[1]
    (folder / "negative.nii").write_bytes(negative)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("people")
    write_studies(folder / "studies")
    with Server(folder / "server", folder / "studies", {"labels": "lesion,organ"}) as running:
        yield running


@pytest.fixture
def image(server: Server) -> sitk.Image:
    return sitk.ReadImage(str(server.studies / "image.nii.gz"))


def click(server: Server, image: str, ending: str = ".nrrd") -> tuple[sitk.Image, dict]:
    """The reply to a click on the ball's middle, as a viewer reads it, and its params."""
    reply = server.infer({"lesion": [list(CENTRE)], "result_extension": ending}, image=image)
    assert reply.status == 200, reply.detail
    path = server.folder / f"reply{ending}"
    path.write_bytes(reply.content)
    return sitk.ReadImage(str(path)), reply.params


def off_mm(first: sitk.Image, second: sitk.Image) -> float:
    """The largest distance between the places of the first and the last voxels of two images."""
    assert first.GetSize() == second.GetSize()
    ends = ((0, 0, 0), tuple(n - 1 for n in first.GetSize()))
    places = [[image.TransformIndexToPhysicalPoint(end) for end in ends] for image in (first, second)]
    return float(np.linalg.norm(np.subtract(*places), axis=1).max())


def dice(mask: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (mask & other).sum() / (mask.sum() + other.sum()))


def drawn_in_slicer(image: sitk.Image) -> sitk.Image:
    label = sitk.GetImageFromArray(truth().T.astype(np.uint8))
    label.CopyInformation(image)
    return label


def submit(server: Server, image: str, label: Path, params: dict | None = None) -> requests.Response:
    with label.open("rb") as file:
        fields = {"params": (None, json.dumps(LABELS if params is None else params)), "label": (label.name, file)}
        return server.http.put(f"{server.url}/datastore/label", params={"image": image}, files=fields, timeout=120)


def trained_on(server: Server, image: str, ending: str) -> np.ndarray:
    """The mask that training would see of what the server stored."""
    (study,) = server.studies.glob(f"{image}.nii*")
    stored = server.studies / "labels" / "final" / f"{image}{ending}"
    return read_label(stored, open_volume(study), ["lesion"]).masks["lesion"]


def saved(label: sitk.Image, path: Path) -> Path:
    sitk.WriteImage(label, str(path))
    return path


# ------------------------------------------------------------------ geometry


@pytest.mark.parametrize("name", [*MOVED_MM, *UNITS])
@pytest.mark.parametrize("ending", [".nrrd", ".nii.gz"])
def test_a_reply_lies_where_itk_puts_the_image(server: Server, name: str, ending: str) -> None:
    shown = sitk.ReadImage(str(server.studies / f"{name}.nii.gz"))
    reply, params = click(server, name, ending)
    assert off_mm(reply, shown) <= 0.01
    mask = sitk.GetArrayFromImage(reply).T > 0
    assert dice(mask, sitk.GetArrayFromImage(click(server, "image")[0]).T > 0) > SAME_DICE
    noted = [note for note in params["notes"] if "places it twice" in note]
    assert len(noted) == (name in MOVED_MM)


@pytest.mark.parametrize("name", [*MOVED_MM, *UNITS])
@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd"])
def test_what_slicer_sends_back_is_read_voxel_for_voxel(server: Server, tmp_path: Path, name: str, ending: str) -> None:
    shown = sitk.ReadImage(str(server.studies / f"{name}.nii.gz"))
    answer = submit(server, name, saved(drawn_in_slicer(shown), tmp_path / f"{name}{ending}"))
    assert answer.status_code == 200, answer.text
    assert answer.json()["remarks"] == []
    assert np.array_equal(trained_on(server, name, ending), truth())


def test_a_session_s_reply_lies_where_itk_puts_its_image(server: Server, tmp_path: Path) -> None:
    moved = PLACE.copy()
    moved[:3, 3] += MOVED_MM["forms_8mm"]
    write_forms(tmp_path / "my scan.nii.gz", np.diag([1e3, 1e3, 1e3, 1]) @ PLACE, moved, codes=(1, 2), unit="micron")
    with (tmp_path / "my scan.nii.gz").open("rb") as file:
        sent = server.http.put(f"{server.url}/session/", files={"files": ("my scan.nii.gz", file)}, timeout=60)
    query = {"session_id": sent.json()["session_id"]}
    reply = server.infer({"lesion": [list(CENTRE)], "result_extension": ".nrrd"}, image="", query=query)
    assert reply.status == 200, reply.detail
    (tmp_path / "reply.nrrd").write_bytes(reply.content)
    shown = sitk.ReadImage(str(tmp_path / "my scan.nii.gz"))
    assert off_mm(sitk.ReadImage(str(tmp_path / "reply.nrrd")), shown) <= 0.01
    assert reply.mask[CENTRE]


def test_axes_that_slicer_does_not_open_are_answered_with_a_note(server: Server) -> None:
    reply = server.infer({"lesion": [list(CENTRE)], "result_extension": ".nii.gz"}, image="sheared")
    assert reply.status == 200, reply.detail
    assert reply.mask[CENTRE]
    (note,) = [note for note in reply.params["notes"] if "right angles" in note]
    assert "3D Slicer and ITK-SNAP do not open it" in note


# --------------------------------------------------------------------- files


@pytest.mark.parametrize("name", ["not_packed", "packed"])
def test_an_image_is_opened_by_its_content(server: Server, name: str) -> None:
    assert off_mm(click(server, name)[0], sitk.ReadImage(str(server.studies / "plain.nii"))) <= 0.01


def test_a_negative_spacing_is_refused_with_the_line_that_mends_it(server: Server, tmp_path: Path) -> None:
    reply = server.infer({"lesion": [list(CENTRE)]}, image="negative")
    assert reply.status == 422
    assert "negative.nii has pixdim[1] = -1 in its header" in reply.detail
    line = reply.detail.partition("python -c ")[2].strip('"')
    mended = tmp_path / "mended.nii.gz"
    exec(line.replace("negative.nii", str(server.studies / "negative.nii")).replace("mended.nii.gz", str(mended)))
    assert off_mm(sitk.ReadImage(str(mended)), sitk.ReadImage(str(server.studies / "plain.nii"))) <= 0.01


def test_a_label_is_opened_by_its_content(server: Server, image: sitk.Image, tmp_path: Path) -> None:
    plain = saved(drawn_in_slicer(image), tmp_path / "label.nii").read_bytes()
    for name, content, ending in (("a.nii.gz", plain, ".nii"), ("b.nii", gzip.compress(plain), ".nii.gz")):
        (tmp_path / name).write_bytes(content)
        answer = submit(server, "image", tmp_path / name)
        assert answer.status_code == 200, answer.text
        assert np.array_equal(trained_on(server, "image", ending), truth())


# -------------------------------------------------------------------- labels


@pytest.mark.parametrize("kind", ["slope", "below", "above"])
def test_values_near_whole_numbers_count_as_these(server: Server, tmp_path: Path, kind: str) -> None:
    if kind == "slope":
        label = nib.Nifti1Image((truth() * 255).astype(np.uint8), PLACE)
        label.header.set_slope_inter(np.float32(1 / 255), 0)
    else:
        one = np.nextafter(np.float32(1), np.float32(0 if kind == "below" else 2))
        label = nib.Nifti1Image(np.where(truth(), one, np.float32(0)), PLACE)
    nib.save(label, tmp_path / "label.nii.gz")
    answer = submit(server, "image", tmp_path / "label.nii.gz")
    assert answer.status_code == 200, answer.text
    assert np.array_equal(trained_on(server, "image", ".nii.gz"), truth())


def test_a_part_that_slicer_cropped_is_placed(server: Server, image: sitk.Image, tmp_path: Path) -> None:
    part = sitk.RegionOfInterest(drawn_in_slicer(image), [20, 20, 20], [30, 10, 5])
    for key, value in (("Name", "lesion"), ("LabelValue", "1"), ("Layer", "0"), ("ID", "Segment_1")):
        part.SetMetaData(f"Segment0_{key}", value)
    answer = submit(server, "image", saved(part, tmp_path / "cropped.seg.nrrd"), {})
    assert answer.status_code == 200, answer.text
    assert "cropped.seg.nrrd has a grid of its own (20 x 20 x 20 voxels of 1 x 1 x 1.5 mm)" in answer.json()[
        "note"
    ].replace("Cropped", "cropped")
    assert np.array_equal(trained_on(server, "image", ".seg.nrrd"), truth())


@pytest.mark.parametrize("orientation", ["PIL", "RAS", "SLA"])
def test_a_label_with_its_axes_in_another_order_is_placed(
    server: Server, image: sitk.Image, tmp_path: Path, orientation: str
) -> None:
    turned = sitk.DICOMOrient(drawn_in_slicer(image), orientation)
    answer = submit(server, "image", saved(turned, tmp_path / "turned.nrrd"))
    assert answer.status_code == 200, answer.text
    assert np.array_equal(trained_on(server, "image", ".nrrd"), truth())


def test_a_label_on_a_finer_grid_is_placed(server: Server, image: sitk.Image, tmp_path: Path) -> None:
    fine = sitk.Expand(drawn_in_slicer(image), [2, 2, 3], sitk.sitkNearestNeighbor)
    answer = submit(server, "image", saved(fine, tmp_path / "fine.nii.gz"))
    assert answer.status_code == 200, answer.text
    assert "grid of its own (128 x 112 x 120 voxels" in answer.json()["note"]
    assert dice(trained_on(server, "image", ".nii.gz"), truth()) > 0.99


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("shifted", ((2.0, 0, 0), (1, 1, 1)), "lies 2 mm off it"),
        ("mirrored", ((0, 0, 0), (-1, 1, 1)), "mm off it"),
        ("headless", None, "mm off it"),
    ],
)
def test_a_label_beside_its_image_is_refused_with_the_millimetres(
    server: Server, tmp_path: Path, name: str, change: tuple | None, said: str
) -> None:
    place = np.diag([*SPACING, 1.0])
    if change:
        place = np.diag([*change[1], 1.0]) @ PLACE
        place[:3, 3] += change[0]
    nib.save(nib.Nifti1Image(truth().astype(np.uint8), place), tmp_path / f"{name}.nii.gz")
    before = server.info()["datastore"]
    answer = submit(server, "image", tmp_path / f"{name}.nii.gz")
    assert answer.status_code == 422
    assert said in answer.json()["detail"]
    assert answer.json()["detail"].startswith(f"{name}.nii.gz covers as much as its image")
    assert server.info()["datastore"]["completed"] == before["completed"]


def test_names_that_the_server_lacks_are_told_of(server: Server, image: sitk.Image, tmp_path: Path) -> None:
    path = saved(drawn_in_slicer(image), tmp_path / "label.nii.gz")
    answer = submit(server, "image", path, {"label_info": [{"name": "spleen", "idx": 1}]})
    assert answer.status_code == 200, answer.text
    assert (
        "raining leaves label.nii.gz out: it holds only spleen, and this server's labels are lesion, organ"
        in (answer.json()["note"])
    )
    assert submit(server, "image", path).json()["remarks"] == []
    both = drawn_in_slicer(image)
    both[0:3, 0:3, 0:3] = 2
    names = {"label_info": [{"name": "lesion", "idx": 1}, {"name": "spleen", "idx": 2}]}
    answer = submit(server, "image", saved(both, tmp_path / "label.nii.gz"), names)
    assert "raining leaves spleen of label.nii.gz out" in answer.json()["note"]


def test_sentences_name_the_users_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / "meine Läsion.nii.gz").write_bytes(b"what")
    answer = submit(server, "image", tmp_path / "meine Läsion.nii.gz")
    assert answer.status_code == 422
    assert "meine Läsion.nii.gz is damaged" in answer.json()["detail"]
    assert "tmp" not in answer.json()["detail"]
    reply = server.infer({"lesion": [list(CENTRE)]}, image="", files={"file": ("Scan 1.nii.gz", b"what")})
    assert reply.status == 422
    assert reply.detail.startswith("Scan 1.nii.gz is damaged")
    assert server.files_left() == []
