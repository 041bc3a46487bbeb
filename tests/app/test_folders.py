"""Folders as people have them, asked of running servers: what is a case, what is not, and which labels count."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from archives import DemoArchive
from folder_cases import CENTRE, SHAPE, ball, get, listed, next_sample, submit, trained_on, write_image, write_label
from lib.demo import free_port
from lib.images.dicom_writing import SeriesInfo, write_series
from lib.labels.files import read_layers
from serving import Server
from unit.test_dicom_writing import affine_of

pytestmark = [pytest.mark.app, pytest.mark.slow]

CONF = {"labels": "lesion", "score_share": "0", "next_sample": "first"}
OTHER_SHAPE, OTHER_CENTRE = (50, 60, 30), (15, 30, 15)


def until(is_so: Callable[[], bool], limit_s: float = 60.0) -> None:
    limit = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < limit, f"not within {limit_s} s"
        time.sleep(0.1)


# ------------------------------------------------------------------ what is a case

CASES = {
    "scan": "scan.nii.gz",
    "meta": "meta.mha",
    "UPPER": "UPPER.NII.GZ",
    "patient1__below": "patient1/below.nii.gz",
    "imagesTr__hip_001": "imagesTr/hip_001.nii.gz",
    "a . b # 100% ü_": "a . b # 100% ü?.nii.gz",
    "twin": "twin.nii.gz",
    "twin.nrrd": "twin.nrrd",
}
NO_CASES = {
    "preview.png": "no image of a kind that opens",
    "notes.xml": "no image of a kind that opens",
    "dataset.json": "no image of a kind that opens",
    "drawn.seg.nrrd": "a segmentation, not an image",
    "labelsTr/": "a folder of labels, not of images",
}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("mixed")
    for number, name in enumerate(CASES.values()):
        shape, centre = (OTHER_SHAPE, OTHER_CENTRE) if name == "twin.nrrd" else (SHAPE, CENTRE)
        write_image(folder / name, shape, centre, seed=number)
    write_label(folder / "drawn.seg.nrrd")
    (folder / "labelsTr").mkdir()
    write_label(folder / "labelsTr" / "hip_001.nii.gz")
    (folder / "imagesTr" / "._hip_001.nii.gz").write_bytes(b"what a Mac leaves behind")
    (folder / "preview.png").write_bytes(b"\x89PNG")
    (folder / "notes.xml").write_text("<notes/>")
    (folder / "dataset.json").write_text("{}")
    (folder / "pair.hdr").write_bytes(bytes(348))
    with Server(tmp_path_factory.mktemp("server"), folder, CONF) as running:
        yield running


def test_what_opens_is_listed_under_plain_ids(mixed: Server) -> None:
    found = {image: each["image"]["info"]["name"] for image, each in listed(mixed).items()}
    assert found == CASES


def test_what_is_no_case_is_counted_and_named_in_info_and_once_in_the_log(mixed: Server) -> None:
    left_out = mixed.info()["datastore"]["left_out"]
    assert left_out["count"] == len(NO_CASES) + 1
    assert {f"{name}: {reason}" for name, reason in NO_CASES.items()} <= set(left_out["names"])
    assert any(name.startswith("pair.hdr: ") for name in left_out["names"])  # a header without its voxels
    lines = [line for line in mixed.log.read_text().splitlines() if "are left out" in line]
    assert len(lines) == 1
    assert "6 of the folder's files or folders are no cases" in lines[0]
    assert "'preview.png'" in lines[0]


@pytest.mark.parametrize("image", CASES)
def test_every_case_can_be_clicked_on_and_downloaded(mixed: Server, image: str) -> None:
    centre = OTHER_CENTRE if image == "twin.nrrd" else CENTRE
    reply = mixed.infer({"lesion": [list(centre)]}, image=image)
    assert reply.status == 200
    assert reply.mask is not None
    assert reply.mask.shape == (OTHER_SHAPE if image == "twin.nrrd" else SHAPE)
    assert reply.mask[centre]
    content = mixed.http.get(f"{mixed.url}/datastore/image", params={"image": image}, timeout=60).content
    assert content == (mixed.studies / CASES[image]).read_bytes()


@pytest.mark.parametrize("image", ["patient1/below", "../mixed/scan", "patient1/below.nii.gz", "labels/final/scan"])
def test_no_path_is_an_id(mixed: Server, image: str) -> None:
    assert mixed.infer({"lesion": [list(CENTRE)]}, image=image).status == 404
    assert submit(mixed, image, write_label(mixed.folder / "l.nii.gz")).status_code == 404
    assert mixed.http.get(f"{mixed.url}/datastore/image", params={"image": image}, timeout=60).status_code == 404


def test_no_path_is_taken_for_a_new_image(mixed: Server) -> None:
    scan = (mixed.studies / "scan.nii.gz").read_bytes()
    for image in ("../outside", "/tmp/outside", "a/b", ".hidden"):
        reply = mixed.http.put(
            f"{mixed.url}/datastore/image", params={"image": image}, files={"file": ("n.nii.gz", scan)}, timeout=60
        )
        assert reply.status_code == 422, image
        assert "an id has up to" in reply.json()["detail"]
    assert not (mixed.studies.parent / "outside.nii.gz").exists()


def test_both_twins_are_annotated_each_with_its_own_label(mixed: Server) -> None:
    first = write_label(mixed.folder / "first.nii.gz")
    second = write_label(mixed.folder / "second.seg.nrrd", OTHER_SHAPE, OTHER_CENTRE)
    assert submit(mixed, "twin", first).ok
    assert submit(mixed, "twin.nrrd", second).ok
    found = trained_on(mixed)
    assert found["twin.nii.gz"] == first.read_bytes()
    assert found["twin.nrrd"] == second.read_bytes()


def test_a_data_set_is_packed_by_ids(mixed: Server) -> None:
    assert submit(mixed, "patient1__below", write_label(mixed.folder / "below.mha")).ok
    packed = mixed.http.get(f"{mixed.url}/datastore/dataset", timeout=60)
    assert packed.ok
    with zipfile.ZipFile(io.BytesIO(packed.content)) as archive:
        assert {"image/patient1__below.nii.gz", "label/patient1__below.mha"} <= set(archive.namelist())
        assert archive.read("image/patient1__below.nii.gz") == (mixed.studies / "patient1/below.nii.gz").read_bytes()


# ---------------------------------------------------------- labels that go on counting

LABELS = {"slicer": ".seg.nrrd", "meta": ".mha", "nifti": ".nii.gz"}


def what_counts(server: Server) -> dict[str, tuple[object, ...]]:
    """Each image with a final label: its values' names, version, annotator, and the bytes that training gets."""
    trained = trained_on(server)
    found: dict[str, tuple[object, ...]] = {}
    for each in listed(server).values():
        if label := each["labels"].get("final"):
            info = label["info"]
            names = [named["name"] for named in info["label_info"]]
            found[each["image"]["info"]["name"]] = (
                names,
                info["version"],
                info["annotator"],
                trained.get(each["image"]["info"]["name"]),
            )
    return found


def test_labels_count_after_the_drive_was_away_and_after_the_list_was_deleted(tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    labels = {}
    for number, (image, ending) in enumerate(LABELS.items()):
        write_image(studies / f"{image}.nii.gz", seed=number)
        labels[image] = write_label(tmp_path / f"{image}{ending}")
    with Server(tmp_path / "first", studies, CONF) as server:
        for image, label in labels.items():
            assert submit(server, image, label, client=f"who drew {image}").json()["version"] == 1
        expected = {
            f"{image}.nii.gz": (["lesion"], 1, f"who drew {image}", label.read_bytes())
            for image, label in labels.items()
        }
        assert what_counts(server) == expected
        (tmp_path / "away").mkdir()
        for image in LABELS:
            (studies / f"{image}.nii.gz").rename(tmp_path / "away" / f"{image}.nii.gz")
        until(lambda: listed(server) == {})
        assert server.info()["datastore"]["labels_without_image"]["count"] == 3
        time.sleep(1)
        for image in LABELS:
            (tmp_path / "away" / f"{image}.nii.gz").rename(studies / f"{image}.nii.gz")
        until(lambda: len(listed(server)) == 3)
        assert what_counts(server) == expected
        # The labels' folder alone, too: it is only a copy.
        (studies / "labels").rename(tmp_path / "labels")
        time.sleep(3)
        (tmp_path / "labels").rename(studies / "labels")
        assert what_counts(server) == expected
        # The whole folder: what is submitted meanwhile is refused, and nothing is put in its place.
        studies.rename(tmp_path / "elsewhere")
        refused = submit(server, "slicer", labels["slicer"])
        assert (refused.status_code, "cannot be reached" in refused.json()["detail"]) == (503, True)
        time.sleep(3)
        assert not studies.exists()
        (tmp_path / "elsewhere").rename(studies)
        until(lambda: what_counts(server) == expected)

        # While it runs: another patient under the same name, and the first one under another name.
        (studies / "slicer.nii.gz").rename(studies / "renamed.nii.gz")
        write_image(studies / "slicer.nii.gz", seed=77)
        moved = {**expected, "renamed.nii.gz": expected["slicer.nii.gz"]}
        del moved["slicer.nii.gz"]
        until(lambda: what_counts(server) == moved)
        assert server.info()["datastore"]["completed"] == 3
        assert not list((studies / "labels" / "final").glob("slicer.*"))
    (studies / "datastore_v2.json").unlink()
    # Another patient's file, with the name of a labelled one.
    write_image(studies / "nifti.nrrd", OTHER_SHAPE, OTHER_CENTRE)
    with Server(tmp_path / "second", studies, CONF) as server:
        assert what_counts(server) == moved
        assert server.info()["datastore"]["completed"] == 3
        found = {image: each["image"]["info"]["name"] for image, each in listed(server).items()}
        assert found["nifti"] == "nifti.nii.gz"
        assert found["nifti.nrrd"] == "nifti.nrrd"
        (layer,) = read_layers(Path(get(server, "/datastore/", output="train")[-1]["label"]), 2**30)
        assert layer.names == {1: "lesion"}


# ------------------------------------------------------------------------- read-only


class ReadOnlyServer(Server):
    """A server that sees its studies through a mount that may only be read."""

    def _command(self) -> list[str]:
        mount = 'mount -o bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
        return ["unshare", "-m", "sh", "-c", mount, str(self.studies), *super()._command()]


class MarkedServer(Server):
    """A server that was told not to write into its studies."""

    def _environment(self) -> dict[str, str]:
        return {**super()._environment(), "MONAI_LABEL_DATASTORE_READ_ONLY": "true"}


class PlainUserServer(Server):
    """A server of a user whom the folder's rights let read and not write: root does not go by rights, without its
    capabilities it does."""

    def _command(self) -> list[str]:
        self.studies.chmod(0o555)
        drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
        return [*drop, *super()._command()]


def may_mount(folder: Path) -> bool:
    tried = 'mount -o bind "$0" "$0" && mount -o remount,ro,bind "$0"'
    return (
        shutil.which("unshare") is not None
        and subprocess.run(["unshare", "-m", "sh", "-c", tried, str(folder)], capture_output=True).returncode == 0
    )


@pytest.mark.parametrize("kind", [ReadOnlyServer, MarkedServer, PlainUserServer])
def test_read_only_studies_answer_clicks_and_say_that_labels_cannot_be_stored(
    kind: type[Server], tmp_path: Path
) -> None:
    studies = tmp_path / "studies"
    write_image(studies / "case.nii.gz")
    if kind is ReadOnlyServer and not may_mount(studies):
        pytest.skip("this user may not mount a folder read-only")
    if kind is PlainUserServer and os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("root needs setpriv to go by a folder's rights")
    before = sorted(path.name for path in studies.rglob("*"))
    with kind(tmp_path / "server", studies, CONF) as server:
        assert next_sample(server).json()["id"] == "case"
        assert server.infer({"lesion": [list(CENTRE)]}).status == 200
        reply = submit(server, "case", write_label(tmp_path / "label.nii.gz"))
        assert reply.status_code == 403
        assert "labels cannot be stored: the folder studies may only be read" in reply.json()["detail"]
        kept = server.infer({"lesion": [list(CENTRE)], "save_label": True, "label_tag": "final"})
        assert (kept.status, "labels cannot be stored" in kept.detail) == (403, True)
        removed = server.http.delete(f"{server.url}/datastore/image", params={"id": "case"}, timeout=60)
        assert removed.status_code == 403
        assert "labels cannot be stored" in server.info()["datastore"]["refusal"]
        assert server.infer({"lesion": [list(CENTRE)]}).status == 200
        assert "Traceback" not in server.log.read_text()
    assert sorted(path.name for path in studies.rglob("*")) == before


def test_labels_on_a_read_only_share_count(tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    write_image(studies / "case.nii.gz")
    label = write_label(tmp_path / "label.seg.nrrd")
    with Server(tmp_path / "first", studies, CONF) as server:
        assert submit(server, "case", label).ok
    (studies / "datastore_v2.json").unlink()
    shutil.rmtree(studies / "labels")
    with MarkedServer(tmp_path / "second", studies, CONF) as server:
        assert what_counts(server) == {"case.nii.gz": (["lesion"], 1, "ann", label.read_bytes())}
    stays = [".identity", ".lock", ".serving", "case.nii.gz", "label_versions"]
    assert sorted(path.name for path in studies.iterdir()) == stays


def test_no_case_at_all_is_said_as_that(tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "notes.xml").write_text("<notes/>")
    (tmp_path / "studies" / "datastore_v2.json").write_text("{ half a list")
    with Server(tmp_path / "server", tmp_path / "studies", CONF) as server:
        sample = next_sample(server).json()
        assert list(sample) == ["detail"]
        assert (
            "there is no case here at all: add images that open; 1 other files, folders or series" in sample["detail"]
        )
        assert "Traceback" not in server.log.read_text()


# ------------------------------------------------------------------ cases that open


def test_next_sample_gives_the_files_that_open(tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    write_image(studies / "z_good.nii.gz")
    whole = (studies / "z_good.nii.gz").read_bytes()
    for number in range(3):
        (studies / f"cut{number}.nii.gz").write_bytes(whole[: 1000 + number])
    with Server(tmp_path / "server", studies, CONF) as server:
        samples = [next_sample(server, f"client {number % 2}") for number in range(3)]
        assert [reply.status_code for reply in samples] == [200, 409, 200]
        assert {reply.json()["id"] for reply in samples if reply.ok} == {"z_good"}
        assert "3 cases do not open and are passed over: cut0, cut1, cut2" in samples[2].json()["reason"]
        unopened = server.info()["datastore"]["unopened"]
        assert unopened["count"] == 3
        assert "cut short" in unopened["reasons"]["cut0"]
        assert "cut1 is passed over" in server.log.read_text()
        # Mended, it is given.
        write_image(studies / "cut0.nii.gz", seed=5)
        until(lambda: server.info()["datastore"]["unopened"]["count"] == 2)
        assert next_sample(server, "client 3").json()["id"] == "cut0"
        assert submit(server, "cut0", write_label(tmp_path / "l.nii.gz")).ok
        assert submit(server, "z_good", write_label(tmp_path / "l.nii.gz")).ok
        none = next_sample(server, "client 3").json()
        assert "every case that opens has a label, and 2 cases do not open" in none["detail"]


def test_next_sample_gives_the_series_that_opens(tmp_path: Path) -> None:
    files = tmp_path / "archive"
    infos = {name: SeriesInfo(name, name) for name in ("good", "gap0", "gap1", "gap2")}
    array, _ = ball()
    for name, info in infos.items():
        paths = write_series(files / name, array, affine_of("LPS"), info)
        for path in paths[12:15] if name != "good" else ():
            path.unlink()
    with (
        DemoArchive(files, free_port(0)) as archive,
        Server(tmp_path / "server", archive.url, {**CONF, "next_sample": "random"}) as server,
    ):
        for _ in range(7):
            reply = next_sample(server)
            assert reply.status_code == 200
            assert reply.json()["id"] == infos["good"].uid()
        unopened = server.info()["datastore"]["unopened"]
        assert set(unopened["reasons"]) <= {info.uid() for name, info in infos.items() if name != "good"}
        assert unopened["count"] == len(unopened["reasons"])
        assert submit(server, infos["good"].uid(), label_of(tmp_path)).ok
        none = next_sample(server).json()
        assert "every case that opens has a label, and 3 cases do not open" in none["detail"]


def label_of(folder: Path) -> Path:
    """The ball as the bytes of a viewer's labelmap."""
    path = folder / "label.bin"
    path.write_bytes(ball()[1].astype(np.uint8).tobytes(order="F"))
    return path
