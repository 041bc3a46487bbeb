"""Which files of a folder are cases, under which ids, and what of the rest is said."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from lib.datastore.image_ids import FOLDER_MARK, assign_ids
from lib.datastore.left_out import listed_briefly, shown_left_out
from lib.datastore.listing import find_images
from lib.images.volumes import open_volume
from lib.naming import is_image_id


def put(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def found(root: Path, **asked) -> list[str]:
    return [image.name for image in find_images(root, **asked).images]


def ids(root: Path, known: dict[str, str] | None = None, claims: dict[str, str] | None = None) -> dict[str, str]:
    return {image: file.name for image, file in assign_ids(find_images(root).images, known or {}, claims or {}).items()}


def test_images_at_any_depth_in_any_case_are_found_and_nothing_else(tmp_path: Path) -> None:
    images = ["a.nii", "b.NII.GZ", "c.Mha", "p/q/r/d.nrrd", "imagesTr/e.nii.gz"]
    others = ["x.png", "y.xml", "z", "s.seg.nrrd", "S.SEG.NRRD", "p/readme.txt", ".nii.gz"]
    hidden = [".a.nii", "p/._d.nrrd", ".git/f.nii"]
    own = ["labels/final/a.nii", "label_versions/a/final/0001.nii.gz", "datastore_v2.json", ".lock"]
    labels = ["labelsTr/e.nii.gz", "p/labels/final/d.nii.gz"]
    put(tmp_path, *images, *others, *hidden, *own, *labels)
    listed = find_images(tmp_path)
    assert [image.name for image in listed.images] == sorted(images)
    named = {name for name, _ in listed.left_out}
    assert named == {*others[:6], "labelsTr/", "p/labels/"}
    assert found(tmp_path, is_nested=False) == ["a.nii", "b.NII.GZ", "c.Mha"]
    assert found(tmp_path, only=("*.nii", "*.nii.gz")) == ["a.nii", "b.NII.GZ", "imagesTr/e.nii.gz"]


def test_a_link_that_leads_back_ends_and_one_that_leads_nowhere_is_left_out(tmp_path: Path) -> None:
    put(tmp_path / "studies", "p/a.nii")
    put(tmp_path / "elsewhere", "b.nii")
    (tmp_path / "studies" / "p" / "back").symlink_to(tmp_path / "studies")
    (tmp_path / "studies" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "studies" / "gone.nii").symlink_to(tmp_path / "nowhere.nii")
    assert found(tmp_path / "studies") == ["more/b.nii", "p/a.nii"]
    assert find_images(tmp_path / "studies").left_out == (("gone.nii", "it may not be read, or is gone"),)


def test_a_name_that_is_no_text_is_left_out_in_words(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff.nii")).write_bytes(b"1")
    assert find_images(tmp_path).images == ()
    assert listed_briefly(find_images(tmp_path).left_out).encode()  # what cannot be encoded cannot be logged


@pytest.mark.parametrize("ending", [".mhd", ".nrrd"])
def test_a_header_and_its_voxels_are_one_image(tmp_path: Path, ending: str) -> None:
    array = np.arange(60, dtype=np.int16).reshape(5, 4, 3)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "a.mhd"))
    if ending == ".nrrd":
        (tmp_path / "a.mhd").unlink()
        header = "NRRD0004\ntype: int16\ndimension: 3\nsizes: 3 4 5\nendian: little\nencoding: raw\ndata file: a.raw\n"
        (tmp_path / "a.nrrd").write_text(header)
    assert np.array_equal(open_volume(tmp_path / f"a{ending}").array, array.T)
    put(tmp_path, "other.raw")
    listed = find_images(tmp_path)
    (image,) = listed.images
    assert [path.name for path in image.files] == [f"a{ending}", "a.raw"]
    assert image.n_bytes == sum(path.stat().st_size for path in image.files)
    assert [name for name, _ in listed.left_out] == ["other.raw"]


def test_ids_are_plain_names_and_stay(tmp_path: Path) -> None:
    put(tmp_path, "twin.nii.gz", "twin.nrrd", "p/twin.nii", "p__twin.nii", "back\\slash\x07.nii")
    first = ids(tmp_path)
    assert first["twin"] == "twin.nii.gz"
    assert first["twin.nrrd"] == "twin.nrrd"
    assert first["back_slash_"] == "back\\slash\x07.nii"
    assert {first[f"p{FOLDER_MARK}twin"], first[f"p{FOLDER_MARK}twin.nii"]} == {"p/twin.nii", "p__twin.nii"}
    assert all(is_image_id(image) for image in first)
    # The first of two goes away and comes back: the other keeps the id that it had.
    (tmp_path / "twin.nii.gz").rename(tmp_path / ".away")
    without = ids(tmp_path, first)
    assert without == {image: name for image, name in first.items() if name != "twin.nii.gz"}
    (tmp_path / ".away").rename(tmp_path / "twin.nii.gz")
    assert ids(tmp_path, without) == first


def test_an_id_that_a_label_was_drawn_under_passes_to_no_other_file(tmp_path: Path) -> None:
    put(tmp_path, "twin.nrrd")
    assert ids(tmp_path) == {"twin": "twin.nrrd"}
    assert ids(tmp_path, claims={"twin": "twin.nii.gz"}) == {"twin.nrrd": "twin.nrrd"}


def test_the_name_of_a_segmentation_is_no_id(tmp_path: Path) -> None:
    """`a.seg` with the ending .nrrd would be the file of a label of `a`."""
    put(tmp_path, "a.nii", "a.seg.mha")
    assert ids(tmp_path) == {"a": "a.nii", "a.seg.mha": "a.seg.mha"}


def test_long_names_become_ids_that_differ_and_fit(tmp_path: Path) -> None:
    put(tmp_path, *(f"{'Ü' * 60}/{'ü' * 70}{number}.nii" for number in range(3)))
    made = ids(tmp_path)
    assert len(made) == 3
    assert all(is_image_id(image) for image in made)
    assert all(len(f"{image}.seg.nrrd".encode()) <= 255 for image in made)


def test_an_id_of_the_list_that_is_a_path_is_not_taken(tmp_path: Path) -> None:
    put(tmp_path, "a.nii")
    assert ids(tmp_path, {"../../a": "a.nii"}) == {"a": "a.nii"}


def test_two_ids_of_the_list_are_not_one_file(tmp_path: Path) -> None:
    put(tmp_path, "a.nii", "b.nii")
    assert ids(tmp_path, {"b": "b.nii", "a": "b.nii"}) == {"b": "b.nii", "a": "a.nii"}


def test_many_files_are_counted_and_few_named() -> None:
    left_out = [(f"{number:04}.dcm", "no image of a kind that opens") for number in range(3000)]
    line = listed_briefly(left_out)
    assert line.startswith("3000 of the folder's files or folders are no cases")
    assert "'0004.dcm', ..." in line
    assert len(line) < 300
    shown = shown_left_out(left_out, [])
    assert shown["left_out"]["count"] == 3000
    assert len(shown["left_out"]["names"]) == 20
