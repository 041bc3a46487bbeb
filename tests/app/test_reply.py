"""The mask file of a reply and what is said about it, by eye and by another reader."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lib.boxes import Box
from lib.errors import PromptError
from lib.infers import reply as reply_module
from lib.infers.reply import FORMATS, ReplyFiles, describe, reply_format
from serving import read_mask

AFFINE = np.array([[0.0, -0.7, 0.0, 5.0], [0.0, 0.0, 5.0, -6.5], [2.0, 0.0, 0.0, 7.25], [0.0, 0.0, 0.0, 1.0]])
WHOLE = (slice(0, 3), slice(0, 4), slice(0, 2))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def label_map() -> np.ndarray:
    array = np.zeros((3, 4, 2), np.uint8)
    array[1, 2, 0], array[1, 3, 0], array[2, 0, 1] = 2, 2, 1
    return array


def test_an_nrrd_is_what_a_viewer_reads_byte_by_byte() -> None:
    path = ReplyFiles().write(label_map(), WHOLE, AFFINE, ".nrrd", is_compressed=False)
    head, voxels = path.read_bytes().split(b"\n\n")
    assert head.decode().splitlines() == [
        "NRRD0004",
        "type: unsigned char",
        "dimension: 3",
        "space: left-posterior-superior",
        "sizes: 3 4 2",
        "space directions: (0.0,0.0,2.0) (0.7,0.0,0.0) (0.0,-5.0,0.0)",
        "kinds: domain domain domain",
        "encoding: raw",
        "space origin: (-5.0,6.5,7.25)",
    ]
    # i runs fastest: (1, 2, 0) is byte 1 + 2 * 3, (2, 0, 1) is byte 2 + 12
    assert [index for index, byte in enumerate(voxels) if byte] == [7, 10, 14]


@pytest.mark.parametrize("is_compressed", [False, True])
@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize(
    "box", [WHOLE, (slice(1, 3), slice(1, 3), slice(2, 3)), (slice(0, 0),) * 3], ids=["whole", "part", "nothing"]
)
def test_what_lies_outside_of_the_box_is_zero(folder: Path, box: Box, file_format: str, is_compressed: bool) -> None:
    array = np.zeros((3, 4, 5), np.uint8, order="F")
    array[box] = 3
    path = ReplyFiles().write(array, box, AFFINE, file_format, is_compressed)
    assert np.array_equal(read_mask(path.read_bytes()), array)
    expected = {"a": [float(edge.start + edge.stop - 1) / 2 for edge in box]} if array.any() else {}
    assert describe(array, box, ["", "", "a"])[1] == expected


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("order", ["C", "F"])
def test_another_reader_finds_the_same_voxels_in_the_same_place(file_format: str, order: str) -> None:
    path = ReplyFiles().write(np.array(label_map(), order=order), WHOLE, AFFINE, file_format, is_compressed=False)
    image = sitk.ReadImage(str(path))
    assert np.array_equal(sitk.GetArrayFromImage(image).T, label_map())
    for index in ((0, 0, 0), (2, 3, 1)):
        ras = (AFFINE @ [*index, 1])[:3]
        assert image.TransformIndexToPhysicalPoint(index) == pytest.approx([-ras[0], -ras[1], ras[2]], abs=1e-5)


def test_a_failed_write_leaves_nothing_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(reply_module, "_write_nrrd", fail)
    with pytest.raises(OSError, match="No space"):
        ReplyFiles().write(label_map(), WHOLE, AFFINE, ".nrrd", is_compressed=False)
    assert list(folder.iterdir()) == []


def test_a_reply_that_the_server_forgot_is_removed_later(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replies = ReplyFiles()
    forgotten = replies.write(label_map(), WHOLE, AFFINE, ".nrrd", is_compressed=False)
    replies.write(label_map(), WHOLE, AFFINE, ".nrrd", is_compressed=False).unlink()  # as the server does after sending
    assert forgotten.exists()
    monkeypatch.setattr(reply_module, "FORGOTTEN_AFTER_S", -1.0)
    last = replies.write(label_map(), WHOLE, AFFINE, ".nrrd", is_compressed=False)
    assert list(folder.iterdir()) == [last]


@pytest.mark.parametrize(
    ("asked", "image", "expected"),
    [
        (".nrrd", "a.nii.gz", ".nrrd"),
        ("NRRD", "a.nii.gz", ".nrrd"),
        (".nii.gz", "a.nrrd", ".nii.gz"),
        (None, "a.nii", ".nii"),
        (None, "a.nrrd", ".nrrd"),
        ("", "series", ".nii.gz"),
        (None, "a.mha", ".nii.gz"),
    ],
)
def test_the_format_is_the_one_asked_for_or_the_image_s_own(asked: object, image: str, expected: str) -> None:
    assert reply_format(asked, image) == expected


@pytest.mark.parametrize("asked", [".png", "../x.nrrd", 3, [".nrrd"], ".seg.nrrd"])
def test_an_unknown_format_is_refused(asked: object) -> None:
    with pytest.raises(PromptError, match="must be one of"):
        reply_format(asked, "a.nii.gz")


def test_only_labels_with_voxels_are_named() -> None:
    names, centroids = describe(label_map(), WHOLE, ["aorta", "liver", "spleen"])
    assert names == {"aorta": 1, "liver": 2}
    assert centroids == {"aorta": [2.0, 0.0, 1.0], "liver": [1.0, 2.5, 0.0]}
    assert describe(np.zeros((2, 2, 2), np.uint8), WHOLE, ["aorta"]) == ({}, {})


@given(arrays(np.uint8, st.tuples(*[st.integers(1, 5)] * 3), elements=st.integers(0, 3)), st.sampled_from("CF"))
def test_values_and_centroids_agree_with_the_mask(mask: np.ndarray, order: str) -> None:
    labels = ["a", "b", "c"]
    whole = tuple(slice(0, n) for n in mask.shape)
    names, centroids = describe(np.array(mask, order=order), whole, labels)
    assert set(names.values()) == set(np.unique(mask).tolist()) - {0}
    for name, value in names.items():
        assert labels[value - 1] == name
        assert centroids[name] == pytest.approx(np.argwhere(mask == value).mean(axis=0).tolist(), abs=0.051)


def test_the_tests_own_reader_reads_what_it_should() -> None:
    for file_format in FORMATS:
        path = ReplyFiles().write(label_map(), WHOLE, AFFINE, file_format, is_compressed=file_format == ".nrrd")
        assert np.array_equal(read_mask(path.read_bytes()), label_map())
