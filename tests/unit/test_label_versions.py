"""A folder's labels: checked at the door, kept in versions, whole or not at all, and the newest is trained on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from fastapi import HTTPException

from lib.datastore import contents, versioned
from lib.datastore.history import LabelHistory, digest
from lib.datastore.versioned import VersionedDatastore
from lib.images.uploads import uploaded_as
from lib.images.volumes import open_volume
from lib.labels.masks import read_label
from lib.trainers.annotated import annotated_cases
from unit.labels_on_disk import write_seg_nrrd

AFFINE = np.array([[-2.0, 0, 0, 10], [0, -1.5, 0, -20], [0, 0, 3.0, 5], [0, 0, 0, 1]])
SHAPE = (7, 6, 5)
NAMES = {"label_info": [{"name": "liver", "idx": 2}, {"name": "Gefäß", "idx": 5}]}
APP = Path(__file__).parents[2] / "apps" / "sam3d"
EXTENSIONS = ("*.nii.gz", "*.nii", "*.nrrd")


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def label_map(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, shape).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "studies").mkdir()
    for number, name in enumerate("ab"):
        save(tmp_path / "studies" / f"{name}.nii.gz", number + np.arange(210, dtype=np.int16).reshape(SHAPE))
    return tmp_path / "studies"


@pytest.fixture
def store(folder: Path) -> VersionedDatastore:
    return VersionedDatastore(str(folder), extensions=EXTENSIONS, served=lambda: "v0007")


def trained_on(store: VersionedDatastore, image: str) -> np.ndarray:
    """The label map that training would see."""
    (case,) = [case for case in annotated_cases(store) if case.id == image]
    masks = read_label(case.label, open_volume(case.image), ["liver", "Gefäß"], case.value_names).masks
    found = np.zeros(SHAPE, np.uint8)
    for value, name in ((1, "liver"), (2, "Gefäß")):
        found[masks.get(name, np.zeros(SHAPE, bool))] = value
    return found


def test_earlier_labels_stay_with_who_when_and_what(store: VersionedDatastore, tmp_path: Path) -> None:
    before = time.time()
    for seed, client in enumerate(("ann", "bob")):
        info = {**NAMES, "client_id": client, "model": "sam3d", "clicks": {"liver": [[seed, 2, 3]]}}
        store.save_label("a", str(save(tmp_path / "l.nii.gz", label_map(seed))), "final", info)
    first, second = store.history.versions("a", "final")
    assert [(each.number, each.client, each.clicks) for each in (first, second)] == [
        (1, "ann", {"liver": [[0, 2, 3]]}),
        (2, "bob", {"liver": [[1, 2, 3]]}),
    ]
    assert (second.model, second.model_version) == ("sam3d", "v0007")
    assert before - 1 < np.datetime64(second.when[:19]).astype(float) < time.time() + 1
    assert np.array_equal(nibabel.load(first.file).dataobj, label_map(0))
    assert np.array_equal(trained_on(store, "a"), label_map(1))
    assert np.array_equal(nibabel.load(store.get_label_uri("a", "final")).dataobj, label_map(1))
    assert store.saved_note("a")["version"] == 2


def test_labels_of_images_and_tags_keep_apart(store: VersionedDatastore, tmp_path: Path) -> None:
    for image, tag, seed in (("a", "final", 1), ("b", "final", 2), ("a", "draft", 3)):
        store.save_label(image, str(save(tmp_path / "l.nii.gz", label_map(seed))), tag, dict(NAMES))
    assert [len(store.history.versions(*of)) for of in (("a", "final"), ("b", "final"), ("a", "draft"))] == [1, 1, 1]
    assert np.array_equal(trained_on(store, "a"), label_map(1))
    assert np.array_equal(trained_on(store, "b"), label_map(2))


def test_a_label_cropped_to_a_part_is_placed_and_the_reply_says_so(store: VersionedDatastore, tmp_path: Path) -> None:
    part = AFFINE.copy()
    part[:3, 3] += AFFINE[:3, 2]
    store.save_label("a", str(save(tmp_path / "l.nii.gz", label_map(0)[:, :, 1:], part)), "final", dict(NAMES))
    expected = label_map(0)
    expected[:, :, 0] = 0
    assert np.array_equal(trained_on(store, "a"), expected)
    assert "L.nii.gz has a grid of its own (7 x 6 x 4 voxels" in store.saved_note("a")["note"]


def test_names_that_the_server_lacks_are_told_of(folder: Path, tmp_path: Path) -> None:
    store = VersionedDatastore(str(folder), extensions=EXTENSIONS, labels=["liver"])
    store.save_label("a", str(save(tmp_path / "l.nii.gz", label_map(0))), "final", dict(NAMES))
    assert "Training leaves Gefäß of l.nii.gz out" in store.saved_note("a")["note"]
    assert store.saved_note("a")["remarks"][0].startswith("training leaves Gefäß")


@pytest.mark.parametrize(("sent", "kept"), [("l.nii.gz", ".nii"), ("l.nii", ".nii.gz"), ("l.mha", ".nii")])
def test_a_label_is_kept_under_the_ending_of_its_content(
    store: VersionedDatastore, tmp_path: Path, sent: str, kept: str
) -> None:
    content = save(tmp_path / f"plain{kept}", label_map(3)).read_bytes()
    (tmp_path / sent).write_bytes(content)
    store.save_label("a", str(tmp_path / sent), "final", dict(NAMES))
    assert np.array_equal(trained_on(store, "a"), label_map(3))
    assert [path.name for path in (Path(store.get_label_uri("a", "final")),)] == [f"a{kept}"]
    assert nibabel.load(store.get_label_uri("a", "final")).shape == SHAPE


def test_messages_call_a_temporary_file_by_its_users_name(store: VersionedDatastore) -> None:
    with tempfile.NamedTemporaryFile(suffix=".nii.gz") as file:
        save(Path(file.name), label_map(0) * 0.3)
        with uploaded_as(r"C:\\Users\\anna\\meine Läsion.nii.gz"):
            assert refused(store, Path(file.name), NAMES).startswith("meine Läsion.nii.gz holds the value 0.6")
        assert refused(store, Path(file.name), NAMES).startswith("the file sent along holds")


def refused(store: VersionedDatastore, label: Path, info: dict, image: str = "a", tag: str = "final") -> str:
    with pytest.raises(HTTPException) as refusal:
        store.save_label(image, str(label), tag, info)
    assert refusal.value.status_code in (404, 422)
    assert store.history.versions("a", "final") == []
    return refusal.value.detail


def test_what_is_no_label_of_the_image_is_refused(store: VersionedDatastore, tmp_path: Path) -> None:
    good = save(tmp_path / "l.nii.gz", label_map(0))
    far = AFFINE.copy()
    far[:3, 3] += 500
    assert "lies 866 mm off it" in refused(store, save(tmp_path / "far.nii.gz", label_map(0), far), NAMES)
    assert "value 2, which has no name" in refused(store, good, {"label_info": [{"name": "liver"}]})
    assert "no label; save it as whole" in refused(store, save(tmp_path / "f.nii.gz", label_map(0) * 0.3), NAMES)
    (tmp_path / "cut.nii.gz").write_bytes(good.read_bytes()[:60])
    assert "damaged, cut short" in refused(store, tmp_path / "cut.nii.gz", NAMES)
    (tmp_path / "short.bin").write_bytes(bytes(209))
    assert "209 bytes, but image a has shape (7, 6, 5)" in refused(store, tmp_path / "short.bin", NAMES)
    (tmp_path / "l.txt").write_bytes(b"1")
    assert "of no known format" in refused(store, tmp_path / "l.txt", NAMES)
    assert "there is no image '../a'" in refused(store, good, NAMES, image="../a")
    assert "the tag is '../../x'" in refused(store, good, NAMES, tag="../../x")
    assert "does not fit into a DICOM SEG" in refused(store, good, {"label_info": [{"name": "a\\b"}, {"name": "c"}]})


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_bytes_of_a_viewers_labelmap_become_a_label_on_the_images_grid(
    store: VersionedDatastore, tmp_path: Path, dtype: type
) -> None:
    (tmp_path / "label.bin").write_bytes(label_map(4).astype(dtype).tobytes(order="F"))
    store.save_label("a", str(tmp_path / "label.bin"), "final", dict(NAMES))
    assert np.array_equal(trained_on(store, "a"), label_map(4))


def test_a_slicer_segmentation_with_overlaps_is_kept_as_it_is(store: VersionedDatastore, tmp_path: Path) -> None:
    layers = np.stack([label_map(5) > 0, label_map(6) > 0]).astype(np.uint8)
    path = write_seg_nrrd(tmp_path / "l.seg.nrrd", layers, AFFINE, [("liver", 1, 0), ("Gefäß", 1, 1)])
    store.save_label("a", str(path), "final", {})
    (case,) = annotated_cases(store)
    masks = read_label(case.label, open_volume(case.image), ["liver", "Gefäß"], case.value_names).masks
    assert np.array_equal(masks["liver"], layers[0] > 0)
    assert np.array_equal(masks["Gefäß"], layers[1] > 0)


def test_a_label_in_another_format_replaces_the_one_before(folder: Path, tmp_path: Path) -> None:
    store = VersionedDatastore(str(folder), extensions=EXTENSIONS)
    store.save_label("a", str(save(tmp_path / "l.nii.gz", label_map(0))), "final", dict(NAMES))
    image = sitk.GetImageFromArray(label_map(1).T)
    image.SetSpacing([2.0, 1.5, 3.0])
    image.SetDirection([1, 0, 0, 0, 1, 0, 0, 0, 1])
    image.SetOrigin([-10.0, 20.0, 5.0])
    sitk.WriteImage(image, str(tmp_path / "l.nrrd"))
    store.save_label("a", str(tmp_path / "l.nrrd"), "final", dict(NAMES))
    for reopened in (store, VersionedDatastore(str(folder), extensions=EXTENSIONS)):
        assert Path(reopened.get_label_uri("a", "final")).name == "a.nrrd"
        assert np.array_equal(trained_on(reopened, "a"), label_map(1))


def test_a_label_that_somebody_put_into_the_folder_counts_and_is_kept(folder: Path, tmp_path: Path) -> None:
    (folder / "labels" / "final").mkdir(parents=True)
    save(folder / "labels" / "final" / "a.nii.gz", label_map(7))
    store = VersionedDatastore(str(folder), extensions=EXTENSIONS)
    assert np.array_equal(trained_on(store, "a"), label_map(7))
    store.save_label("a", str(save(tmp_path / "l.nii.gz", label_map(8))), "final", dict(NAMES))
    found, submitted = store.history.versions("a", "final")
    assert (found.source, submitted.source) == ("found", "client")
    assert np.array_equal(nibabel.load(found.file).dataobj, label_map(7))
    # Replaced by hand once more, what lies there counts again.
    save(folder / "labels" / "final" / "a.nii.gz", label_map(9))
    assert np.array_equal(trained_on(store, "a"), label_map(9))


def test_a_removed_label_is_not_trained_on_and_its_versions_stay(store: VersionedDatastore, tmp_path: Path) -> None:
    store.save_label("a", str(save(tmp_path / "l.nii.gz", label_map(0))), "final", dict(NAMES))
    store.remove_label("a", "final")
    store.refresh()
    assert annotated_cases(store) == []
    assert len(store.history.versions("a", "final")) == 1


def test_labels_of_many_threads_are_all_kept(store: VersionedDatastore, tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{seed}.nii.gz", label_map(seed)) for seed in range(12)]

    def submit(seed: int) -> None:
        store.save_label("ab"[seed % 2], str(paths[seed]), "final", {**NAMES, "client_id": f"c{seed}"})

    threads = [threading.Thread(target=submit, args=(seed,)) for seed in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for image, seeds in (("a", range(0, 12, 2)), ("b", range(1, 12, 2))):
        versions = store.history.versions(image, "final")
        assert {each.client for each in versions} == {f"c{seed}" for seed in seeds}
        assert sorted(each.number for each in versions) == [1, 2, 3, 4, 5, 6]
        for each in versions:
            assert np.array_equal(nibabel.load(each.file).dataobj, label_map(int(each.client[1:])))


@pytest.fixture
def watching(folder: Path) -> Iterator[VersionedDatastore]:
    opened = VersionedDatastore(str(folder), extensions=EXTENSIONS, auto_reload=True)
    yield opened
    opened.close()


def until(is_so: Callable[[], bool], limit_s: float = 60.0) -> None:
    limit = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < limit, f"not within {limit_s} s"
        time.sleep(0.05)


def test_images_and_labels_that_come_and_go_are_seen_within_seconds(watching, folder: Path, tmp_path: Path) -> None:
    save(tmp_path / "c.nii.gz", np.zeros(SHAPE, np.int16)).rename(folder / "c.nii.gz")
    until(lambda: sorted(watching.list_images()) == ["a", "b", "c"])
    save(folder / "labels" / "final" / "c.nii.gz", label_map(0))
    until(lambda: watching.get_labeled_images() == ["c"])
    (folder / "labels" / "other").mkdir()
    save(folder / "labels" / "other" / "b.nii.gz", label_map(0))
    until(lambda: "other" in watching.get_labels_by_image_id("b"))
    (folder / "c.nii.gz").unlink()
    until(lambda: sorted(watching.list_images()) == ["a", "b"])
    assert watching.get_labeled_images() == []


def test_a_label_that_another_process_stored_is_seen_within_seconds(watching, folder: Path, tmp_path: Path) -> None:
    other = VersionedDatastore(str(folder), extensions=EXTENSIONS)
    other.save_label("a", str(save(tmp_path / "l.nii.gz", label_map(3))), "final", dict(NAMES))
    until(lambda: watching.get_labeled_images() == ["a"])
    other.update_label_info("a", "final", {"seen": "yes"})
    until(lambda: watching.get_label_info("a", "final").get("seen") == "yes")
    assert np.array_equal(trained_on(watching, "a"), label_map(3))


def test_a_folder_that_is_away_for_a_while_costs_nothing(watching, folder: Path, caplog) -> None:
    labels = folder / "labels"
    labels.rename(folder / "away")
    until(lambda: "new files of the datastore are not seen" in caplog.text)
    assert sorted(watching.list_images()) == ["a", "b"]
    (folder / "away").rename(labels)
    save(folder / "c.nii.gz", np.zeros(SHAPE, np.int16))
    until(lambda: "c" in watching.list_images())


# Submits in a child of its own, for as long as that lives, whenever it is told to.
SUBMITTER = """
import os, sys
from lib.datastore.versioned import VersionedDatastore
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        store = VersionedDatastore(sys.argv[1], extensions=("*.nii.gz",))
        print(f"pid {os.getpid()}", flush=True)
        for number in range(100000):
            info = {"label_info": [{"name": "liver"}, {"name": "Gefäß"}]}
            store.save_label("a", sys.argv[2], "final", info)
            print("stored", flush=True)
    os.waitpid(child, 0)
    print("ended", flush=True)
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_loses_no_label_that_was_said_to_be_stored(folder: Path, tmp_path: Path) -> None:
    rng, said = np.random.default_rng(0), 0
    label = save(tmp_path / "l.nii.gz", label_map(1))
    with subprocess.Popen(
        [sys.executable, "-c", SUBMITTER, str(folder), str(label)],
        env={**os.environ, "PYTHONPATH": str(APP), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        bufsize=1,
    ) as submitter:
        for kills in range(1, 21):
            submitter.stdin.write("go\n")
            child = int(submitter.stdout.readline().split()[1])
            time.sleep(float(rng.uniform(0.01, 0.8)))
            os.kill(child, signal.SIGKILL)
            said += sum(1 for _ in iter(submitter.stdout.readline, "ended\n"))
            versions = LabelHistory(folder / "label_versions").versions("a", "final")
            assert said <= len(versions) <= said + kills  # at most one of each kill is stored, but was not yet said
            json.loads((folder / "datastore_v2.json").read_text())
        submitter.stdin.close()
    assert said > 5
    assert all(np.array_equal(nibabel.load(each.file).dataobj, label_map(1)) for each in versions)
    store = VersionedDatastore(str(folder), extensions=EXTENSIONS)
    assert np.array_equal(trained_on(store, "a"), label_map(1))


# ------------------------------------------------------------ what a label was drawn on


def test_images_are_read_once_for_their_digests(folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(contents, "COARSE_S", 0.05)
    for number in range(20):
        save(folder / f"other{number}.nii", np.full(SHAPE, number, np.int16))
    save(tmp_path / "l.nii.gz", label_map(0))
    time.sleep(0.1)
    store = VersionedDatastore(str(folder))
    assert store.digests.n_read == 0  # no label yet, so that no image can have one
    store.save_label("a", str(tmp_path / "l.nii.gz"), "final", dict(NAMES))
    # The image, and what is of the same size: the new copy of the label is still fresh, and read again.
    same_size = [path for path in folder.glob("*.nii*") if path.stat().st_size == (folder / "a.nii.gz").stat().st_size]
    time.sleep(0.1)
    store.refresh()
    read = store.digests.n_read
    assert read <= 2 + 2 * len(same_size)
    for _ in range(3):
        save(folder / "new.nii", np.zeros(SHAPE, np.int16))
        store.refresh()
        assert [case.id for case in annotated_cases(store)] == ["a"]
    assert store.digests.n_read == read
    again = VersionedDatastore(str(folder))
    assert again.get_labeled_images() == ["a"]
    assert again.digests.n_read == 0


def test_a_card_from_before_digests_counts_for_the_image_of_its_name_and_is_bound_to_it(
    folder: Path, tmp_path: Path
) -> None:
    store = VersionedDatastore(str(folder))
    store.save_label("a", str(save(tmp_path / "l.nii.gz", label_map(3))), "final", dict(NAMES))
    (card,) = (folder / "label_versions").rglob("0001.json")
    old = {key: value for key, value in json.loads(card.read_text()).items() if not key.startswith("image_")}
    card.write_text(json.dumps(old))
    (folder / "datastore_v2.json").unlink()
    reopened = VersionedDatastore(str(folder))
    assert np.array_equal(trained_on(reopened, "a"), label_map(3))
    reopened.refresh()
    assert json.loads(card.read_text())["image_digest"] == digest(folder / "a.nii.gz")
    save(folder / "a.nii.gz", np.zeros(SHAPE, np.int16))
    reopened.refresh()
    assert reopened.get_labeled_images() == []


def test_a_label_found_in_the_folder_becomes_one_of_its_image_and_of_no_other(
    folder: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(contents, "COARSE_S", 0.05)
    (folder / "labels" / "final").mkdir(parents=True)
    save(folder / "labels" / "final" / "a.nii.gz", label_map(7))
    store = VersionedDatastore(str(folder))
    time.sleep(0.1)
    store.refresh()
    (version,) = store.history.versions("a", "final")
    assert (version.source, version.image_digest) == ("found", digest(folder / "a.nii.gz"))
    (folder / "a.nii.gz").rename(folder / "c.nii.gz")
    save(folder / "a.nii.gz", np.zeros(SHAPE, np.int16))
    store.refresh()
    assert [case.id for case in annotated_cases(store)] == ["c"]
    assert np.array_equal(trained_on(store, "c"), label_map(7))


def test_a_draft_that_somebody_moves_to_the_final_labels_counts(store: VersionedDatastore, tmp_path: Path) -> None:
    store.save_label("a", str(save(tmp_path / "l.nii.gz", label_map(2))), "original", dict(NAMES))
    labels = Path(store.get_label_uri("a", "original")).parents[1]
    (labels / "original" / "a.nii.gz").rename(labels / "final" / "a.nii.gz")
    store.refresh()
    assert store.get_labeled_images() == ["a"]
    assert np.array_equal(trained_on(store, "a"), label_map(2))


def test_a_removed_label_that_somebody_puts_back_counts_again(store: VersionedDatastore, tmp_path: Path) -> None:
    label = save(tmp_path / "l.nii.gz", label_map(2))
    store.save_label("a", str(label), "final", dict(NAMES))
    store.remove_label("a", "final")
    assert store.get_labeled_images() == []
    time.sleep(0.05)
    save(Path(store.current.folder) / "final" / "a.nii.gz", label_map(2))
    store.refresh()
    assert store.get_labeled_images() == ["a"]


def test_what_a_client_added_to_a_labels_entry_stays_and_what_is_damaged_is_made_anew(
    folder: Path, tmp_path: Path, caplog
) -> None:
    store = VersionedDatastore(str(folder))
    for image, seed in (("a", 0), ("b", 1)):
        store.save_label(image, str(save(tmp_path / "l.nii.gz", label_map(seed))), "final", dict(NAMES))
    store.update_label_info("a", "final", {"seen": "yes"})
    assert VersionedDatastore(str(folder)).get_label_info("a", "final")["seen"] == "yes"
    (folder / "datastore_v2.json").write_text('{"objects": [')
    (folder / "label_versions" / "digests.json").write_text("[[")
    (folder / "label_versions" / "b" / "final" / "0001.json").write_text('{"image": "b"')
    reopened = VersionedDatastore(str(folder))
    assert reopened.get_label_info("a", "final")["label_info"] == NAMES["label_info"]
    assert (folder / "datastore_v2.json.damaged").exists()
    assert "the card b/final/0001.json is damaged" in caplog.text
    json.loads((folder / "datastore_v2.json").read_text())


def test_long_names_in_any_script_can_be_annotated(folder: Path, tmp_path: Path) -> None:
    name = "影像" * 30
    save(folder / f"{name}.nii.gz", np.zeros(SHAPE, np.int16))
    store = VersionedDatastore(str(folder))
    store.save_label(name, str(save(tmp_path / "l.nii.gz", label_map(1))), "final", dict(NAMES))
    (folder / "datastore_v2.json").unlink()
    assert np.array_equal(trained_on(VersionedDatastore(str(folder)), name), label_map(1))


def test_an_image_that_is_replaced_while_its_label_comes_in_gets_none(
    store: VersionedDatastore, folder: Path, tmp_path: Path, monkeypatch
) -> None:
    def replaced(path: Path):
        volume = open_volume(path)
        save(folder / "a.nii.gz", np.ones(SHAPE, np.int16))
        return volume

    monkeypatch.setattr(versioned, "open_volume", replaced)
    with pytest.raises(HTTPException) as refusal:
        store.save_label("a", str(save(tmp_path / "l.nii.gz", label_map(1))), "final", dict(NAMES))
    assert refusal.value.status_code == 409
    assert "was replaced while its label came in" in refusal.value.detail
    assert store.history.versions("a", "final") == []


def test_where_the_folder_is_away_nothing_is_put_in_its_place(
    store: VersionedDatastore, folder: Path, tmp_path: Path
) -> None:
    store.save_label("a", str(save(tmp_path / "l.nii.gz", label_map(1))), "final", dict(NAMES))
    folder.rename(tmp_path / "elsewhere")
    for change in (
        lambda: store.update_image_info("a", {"seen": "yes"}),
        lambda: store.remove_label("a", "final"),
        lambda: store.add_image("c", str(tmp_path / "l.nii.gz"), {}),
    ):
        with pytest.raises(HTTPException) as refusal:
            change()
        assert refusal.value.status_code == 503
        assert "cannot be reached (No such file or directory): try again later" in refusal.value.detail
    with pytest.raises(FileNotFoundError):
        store.refresh()
    assert not folder.exists()
    (tmp_path / "elsewhere").rename(folder)
    store.refresh()
    assert np.array_equal(trained_on(store, "a"), label_map(1))


def test_a_client_does_not_say_which_file_an_image_is(store: VersionedDatastore, folder: Path) -> None:
    store.update_image_info("a", {"name": "b.nii.gz", "seen": "yes"})
    for opened in (store, VersionedDatastore(str(folder))):
        opened.refresh()
        assert Path(opened.get_image_uri("a")).name == "a.nii.gz"
        assert opened.get_image_info("a")["seen"] == "yes"


def test_a_history_that_is_away_is_not_taken_for_an_empty_one(watching, folder: Path, tmp_path: Path, caplog) -> None:
    watching.save_label("a", str(save(tmp_path / "l.nii.gz", label_map(1))), "final", dict(NAMES))
    (folder / "label_versions").rename(tmp_path / "versions")
    save(folder / "c.nii.gz", np.zeros(SHAPE, np.int16))
    until(lambda: "the history of the labels, label_versions, is away" in caplog.text)
    assert watching.get_labeled_images() == ["a"]
    (tmp_path / "versions").rename(folder / "label_versions")
    until(lambda: "c" in watching.list_images())
    assert np.array_equal(trained_on(watching, "a"), label_map(1))


def test_what_is_stored_last_counts_though_the_clock_was_set_back(store: VersionedDatastore, tmp_path: Path) -> None:
    early = save(tmp_path / "l.nii.gz", label_map(0))
    store.history.add("a", "final", early, ".nii.gz", NAMES, when="2999-01-01T00:00:00.000000+00:00")
    for seed in (1, 2):
        store.save_label("a", str(save(tmp_path / "l.nii.gz", label_map(seed))), "final", dict(NAMES))
        assert np.array_equal(trained_on(store, "a"), label_map(seed))
    assert [each.number for each in store.history.versions("a", "final")] == [1, 2, 3]


def test_a_version_that_somebody_damaged_or_deleted_stops_nothing(store: VersionedDatastore, tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        store.save_label("a", str(save(tmp_path / "l.nii.gz", label_map(seed))), "final", dict(NAMES))
    versions = store.history.versions("a", "final")
    versions[0].file.with_name("0001.json").write_text('{"image": "a", ')
    versions[1].file.with_name("0002.json").write_text("[]")
    versions[2].file.unlink()
    assert np.array_equal(trained_on(store, "a"), label_map(3)), "what lies in labels/final is the same label"
    store.save_label("a", str(save(tmp_path / "l.nii.gz", label_map(4))), "final", dict(NAMES))
    assert [each.number for each in store.history.versions("a", "final")] == [3, 4]
    assert np.array_equal(trained_on(store, "a"), label_map(4))
