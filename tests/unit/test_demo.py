"""The demonstration writes studies once, keeps out of the user's own, and names clicks that can be posted."""

from __future__ import annotations

import json
import shlex
import socket
from pathlib import Path

import numpy as np
import pytest

from lib import demo
from lib.demo import Demo, Target
from lib.images.dicom_series import read_series
from lib.synthesis.phantoms import Phantom


def small_phantom(seed: int, orientation: str) -> Phantom:
    """A lesion of 3 x 3 x 3 voxels of 700 HU + its seed in a volume of nothing."""
    array, label_map = np.zeros((8, 7, 9), np.int16), np.zeros((8, 7, 9), np.uint8)
    array[2:5, 3:6, 5:8], label_map[2:5, 3:6, 5:8] = 700 + seed, 1
    affine = np.diag([-2.0, -2.0, 2.0, 1.0]) if orientation == "LPS" else np.diag([2.0, -2.0, 2.0, 1.0])
    return Phantom(array, affine, label_map, ("lesion",))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Phantoms that take no time."""
    monkeypatch.setattr(demo, "make_phantom", small_phantom)


def files(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.usefixtures("quick")
def test_an_empty_folder_gets_dicom_studies_and_keeps_them(tmp_path: Path) -> None:
    folder = tmp_path / "studies"
    first = demo.prepare(folder)
    assert (first.is_dicom, len(first.targets), len({target.study for target in first.targets})) == (True, 3, 3)
    for target, (seed, _, _) in zip(first.targets, demo.DEMO_SERIES, strict=True):
        array, *_ = read_series(folder / target.study / target.image, 2**30)
        assert array[target.click] == 700 + seed
    written = files(folder)
    assert demo.prepare(folder) == first
    assert files(folder) == written
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.usefixtures("quick")
def test_an_interrupted_writing_is_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, calls = tmp_path / "studies", []

    def interrupted(*arguments: object) -> None:
        calls.append(arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(demo, "write_series", interrupted)
        with pytest.raises(KeyboardInterrupt):
            demo.prepare(folder)
    assert len(calls) == 1
    assert list(tmp_path.iterdir()) == []
    assert len(demo.prepare(folder).targets) == 3


@pytest.mark.parametrize(("name", "is_dicom"), [("mine.nii.gz", False), ("mine.nrrd", False), ("a/b/1.dcm", True)])
def test_images_of_the_user_are_left_alone(tmp_path: Path, name: str, is_dicom: bool) -> None:
    tmp_path.joinpath(name).parent.mkdir(parents=True, exist_ok=True)
    tmp_path.joinpath(name).write_bytes(b"")
    assert demo.prepare(tmp_path) == Demo(tmp_path, is_dicom)
    assert list(files(tmp_path)) == [name]


def test_a_study_that_was_removed_is_not_named(tmp_path: Path) -> None:
    tmp_path.joinpath("b.nii.gz").write_bytes(b"")
    tmp_path.joinpath(demo.CLICKS_FILE).write_text(json.dumps({"a.nii.gz": [1, 2, 3], "b.nii.gz": [4, 5, 6]}))
    assert demo.prepare(tmp_path).targets == (Target("b", "b.nii.gz", (4, 5, 6)),)


def test_a_taken_port_is_replaced_by_a_free_one() -> None:
    with socket.socket() as taken:
        taken.bind((demo.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        other = demo.free_port(port)
        assert other != port
        assert demo.free_port(other) == other


def test_the_command_named_posts_the_click_of_the_first_study(tmp_path: Path) -> None:
    served = Demo(tmp_path, False, (Target("demo_ct_1", "demo_ct_1.nii.gz", (3, 4, 5)),))
    text = demo.instructions("http://127.0.0.1:8123", served)
    (command,) = [line for line in text.splitlines() if "curl" in line]
    words = shlex.split(command)
    field, params = words[2].split("=", 1)
    assert (words[:2], field) == (["curl", "-F"], "params")
    assert json.loads(params) == {"lesion": [[3, 4, 5]], "background": [], "result_extension": ".nii.gz"}
    assert words[3] == "http://127.0.0.1:8123/infer/sam3d?image=demo_ct_1&output=image"
    assert "/ohif/" not in text


@pytest.mark.parametrize(
    ("labels", "clicked"), [((), "lesion"), (("liver", "lesion"), "lesion"), (("tumour", "liver"), "tumour")]
)
def test_what_is_clicked_has_a_label_that_is_served(labels: tuple[str, ...], clicked: str, tmp_path: Path) -> None:
    text = demo.instructions("http://127.0.0.1:8123", Demo(tmp_path, False, (Target("a", "a", (3, 4, 5)),)), labels)
    assert f"Click   with label {clicked}, on the lesion" in text
    assert f'"{clicked}": [[3, 4, 5]]' in text


def test_the_first_address_opens_the_first_study_ready_for_a_click(tmp_path: Path) -> None:
    targets = tuple(Target(f"1.2.{number}", "abdomen", (3, 4, 5), f"1.{number}") for number in (7, 8))
    text = demo.instructions("http://127.0.0.1:8123", Demo(tmp_path, True, targets))
    opened = [line.split()[1] for line in text.splitlines() if line.startswith("Open")]
    assert opened[0] == "http://127.0.0.1:8123/ohif/monai-label?StudyInstanceUIDs=1.7"


def test_without_demo_studies_no_click_is_named(tmp_path: Path) -> None:
    text = demo.instructions("http://127.0.0.1:8123", Demo(tmp_path, True))
    assert "http://127.0.0.1:8123/ohif/" in text
    assert "curl" not in text
