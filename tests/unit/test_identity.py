"""What names studies under any path: kept in the folder where that may be, the path or the URL where it may not."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from lib.datastore import identity
from lib.datastore.dicom_folder import STATE_FOLDER
from lib.datastore.identity import FILE, identity_of
from lib.images.dicom_writing import SeriesInfo
from studies_in_archive import write_image
from unit.test_dicom_writing import affine_of


def test_a_folder_has_one_name_under_all_its_paths_and_another_folder_another(tmp_path: Path) -> None:
    folder, link, other = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    folder.mkdir()
    link.symlink_to(folder)
    name = identity_of(str(folder))
    assert [identity_of(str(path)) for path in (folder, link)] == [name, name]
    folder.rename(tmp_path / "d")
    assert identity_of(str(tmp_path / "d")) == name
    assert identity_of(str(other)) not in (name, str(other))


@pytest.mark.parametrize("content", ["", "../../elsewhere\n", "0" * 31 + "\n", "0" * 32])
def test_a_damaged_name_is_made_anew(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    name = identity_of(str(tmp_path))
    assert (tmp_path / FILE).read_text() == f"{name}\n" != content
    assert identity_of(str(tmp_path)) == name


def test_the_last_of_two_servers_that_begin_at_once_names_the_folder_for_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, others = identity.write_atomically, list[str]()

    def at_once(path: Path, content: bytes) -> None:
        write(path, content)
        if not others:
            others.append(("f" * 32) + "\n")
            path.write_text(others[0])

    monkeypatch.setattr(identity, "write_atomically", at_once)
    assert identity_of(str(tmp_path)) == "f" * 32


def test_of_dicom_files_the_name_lies_where_their_labels_do(tmp_path: Path) -> None:
    write_image(tmp_path, SeriesInfo("P-1", "Doe^1"), affine_of("LPS"), (4, 4, 3))
    name = identity_of(str(tmp_path))
    assert (tmp_path / STATE_FOLDER / FILE).read_text() == f"{name}\n"
    assert not (tmp_path / FILE).exists()


def test_what_may_only_be_read_is_named_by_its_path_and_an_archive_by_its_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    assert identity_of("https://archive.example.org/dicom-web") == "https://archive.example.org/dicom-web"
    with monkeypatch.context() as patched:
        patched.setattr(identity, "write_atomically", refused)
        assert identity_of(str(tmp_path)) == str(tmp_path)
    monkeypatch.setattr(identity.settings, "MONAI_LABEL_DATASTORE_READ_ONLY", True)
    assert identity_of(str(tmp_path)) == str(tmp_path)
    assert not list(tmp_path.iterdir())
