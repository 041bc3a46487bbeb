"""The demonstration writes studies once, keeps out of the user's own, and names clicks that can be posted."""

import json
import shlex
import socket
from pathlib import Path

from lib import demo
from lib.synthesis.phantoms import DemoStudy


def test_an_empty_folder_gets_studies_and_keeps_them(tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "studies"

    def write_one(target: Path) -> list[DemoStudy]:
        target.mkdir()
        target.joinpath("demo_ct_1.nii.gz").write_bytes(b"first")
        return [DemoStudy(target / "demo_ct_1.nii.gz", (3, 4, 5))]

    monkeypatch.setattr(demo, "write_studies", write_one)
    expected = [DemoStudy(folder / "demo_ct_1.nii.gz", (3, 4, 5))]
    assert demo.prepare(folder) == expected
    # A second call would fail at mkdir if it wrote again.
    assert demo.prepare(folder) == expected


def test_images_of_the_user_are_left_alone(tmp_path: Path) -> None:
    tmp_path.joinpath("mine.nii.gz").write_bytes(b"")
    assert demo.prepare(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["mine.nii.gz"]


def test_a_study_that_was_removed_is_not_named(tmp_path: Path) -> None:
    tmp_path.joinpath("b.nii.gz").write_bytes(b"")
    tmp_path.joinpath(demo.CLICKS_FILE).write_text(json.dumps({"a.nii.gz": [1, 2, 3], "b.nii.gz": [4, 5, 6]}))
    assert demo.prepare(tmp_path) == [DemoStudy(tmp_path / "b.nii.gz", (4, 5, 6))]


def test_a_taken_port_is_replaced_by_a_free_one() -> None:
    with socket.socket() as taken:
        taken.bind((demo.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        other = demo.free_port(port)
        assert other != port
        assert demo.free_port(other) == other


def test_the_command_named_posts_the_click_of_the_first_study(tmp_path: Path) -> None:
    text = demo.instructions("http://127.0.0.1:8123", tmp_path, [DemoStudy(tmp_path / "demo_ct_1.nii.gz", (3, 4, 5))])
    (command,) = [line for line in text.splitlines() if "curl" in line]
    words = shlex.split(command)
    field, params = words[2].split("=", 1)
    assert (words[:2], field) == (["curl", "-F"], "params")
    assert json.loads(params) == {"lesion": [[3, 4, 5]], "background": [], "result_extension": ".nii.gz"}
    assert words[3] == "http://127.0.0.1:8123/infer/sam3d?image=demo_ct_1&output=image"


def test_without_demo_studies_no_click_is_named(tmp_path: Path) -> None:
    text = demo.instructions("http://127.0.0.1:8123", tmp_path, [])
    assert "http://127.0.0.1:8123/info/" in text
    assert "curl" not in text
