"""Scores on disk: what survives, what is renewed, and whose they are."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from lib.network.weights import Card
from lib.scoring.image_score import ScoreSettings
from lib.scoring.store import ScoreStore, StoredScore, score_key
from lib.settings import PRESETS, NetworkSettings

SCORE = StoredScore("case", "key", "v1", (0.5, -1.0), 0.25, 3.5)


def test_a_score_survives_a_restart(tmp_path: Path) -> None:
    ScoreStore(tmp_path).put(SCORE)
    assert ScoreStore(tmp_path).get("case") == SCORE
    assert ScoreStore(tmp_path / "elsewhere").get("case") is None


def test_the_last_score_of_an_image_counts(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path)
    for score in (SCORE, replace(SCORE, version="v2", expected_clicks=2.0)):
        store.put(score)
    assert {score.version for score in (*store.all().values(), *ScoreStore(tmp_path).all().values())} == {"v2"}


@pytest.mark.parametrize("image", ["../up", "a/b", "Gefäß ×", "x" * 300, "\udcff"])
def test_any_id_has_a_file(tmp_path: Path, image: str) -> None:
    ScoreStore(tmp_path).put(replace(SCORE, image=image))
    assert ScoreStore(tmp_path).get(image) is not None
    assert len(list(tmp_path.rglob("*.json"))) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[1, 2]",
        lambda text: text.replace('"format": 3', '"format": 2'),
        lambda text: text.replace("3.5", "NaN"),
        lambda text: text.replace('"features": [0.5, -1.0]', '"features": []'),
        lambda text: text.replace('"key"', '"keys"'),
        lambda text: text.replace('"v1"', "7"),
        lambda text: text.replace('"image": "case"', '"image": "other"'),
    ],
)
def test_a_damaged_score_is_none_and_is_renewed(tmp_path: Path, damage) -> None:
    ScoreStore(tmp_path).put(SCORE)
    (path,) = tmp_path.rglob("*.json")
    text = path.read_text()
    assert damage(text) != text
    path.write_text(damage(text))
    store = ScoreStore(tmp_path)
    assert store.all() == {}
    store.put(SCORE)
    assert ScoreStore(tmp_path).get("case") == SCORE


def test_what_a_killed_writer_left_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "ab").mkdir()
    (tmp_path / "ab" / ".case.json.0123").write_text("{")
    assert ScoreStore(tmp_path).all() == {}


def test_scores_of_another_process_are_found_once(tmp_path: Path) -> None:
    mine, theirs = ScoreStore(tmp_path), ScoreStore(tmp_path)
    theirs.put(SCORE)
    assert mine.refresh() == [SCORE]
    assert mine.refresh() == []
    assert mine.get("case") == SCORE
    mine.put(replace(SCORE, version="v2"))
    assert mine.refresh() == []


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What the file system is asked the state of, by path."""
    paths, stat = list[Path](), Path.stat

    def counted(self: Path, **values: bool) -> os.stat_result:
        paths.append(self)
        return stat(self, **values)

    monkeypatch.setattr(Path, "stat", counted)
    return paths


def test_a_look_asks_for_folders_and_only_for_the_files_of_those_that_changed(
    tmp_path: Path, asked: list[Path]
) -> None:
    theirs = ScoreStore(tmp_path)
    for number in range(600):
        theirs.put(replace(SCORE, image=f"case {number}"))
    folders = settled(tmp_path)
    mine = ScoreStore(tmp_path)
    assert len(mine.all()) == 600
    asked.clear()
    assert mine.refresh() == []
    print(f"a look at {600} scores that nobody changed asks for {len(asked)} states, of {len(folders)} folders")
    assert len(asked) <= len(folders) + 1  # and the store's own, perhaps
    assert set(asked) <= {*folders, tmp_path}
    theirs.put(replace(SCORE, image="case 7", version="v2"))
    asked.clear()
    assert [score.image for score in mine.refresh()] == ["case 7"]
    assert len(asked) <= len(folders) + 1 + max(len(list(folder.iterdir())) for folder in folders)


def test_a_score_is_found_that_left_its_folders_time_as_it_was(tmp_path: Path) -> None:
    mine, theirs = ScoreStore(tmp_path), ScoreStore(tmp_path)
    theirs.put(SCORE)
    (folder,) = tmp_path.iterdir()
    assert mine.refresh() == [SCORE]
    before = folder.stat()
    theirs.put(replace(SCORE, version="v2"))
    os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))  # as where times are counted in seconds
    assert [score.version for score in mine.refresh()] == ["v2"]


def settled(store: Path) -> list[Path]:
    """The store's folders, as if they had been written a minute ago."""
    for folder in store.iterdir():
        os.utime(folder, (time.time() - 60,) * 2)
    return sorted(store.iterdir())


def test_the_key_changes_with_image_weights_and_settings_and_with_nothing_else() -> None:
    card = Card("tiny", NetworkSettings(), PRESETS["ct"], 1.0, sha256="a", version="demo")
    key = score_key("file 1", card, ScoreSettings())
    assert score_key("file 1", replace(card, version="other", description="x"), ScoreSettings()) == key
    others = {
        score_key("file 2", card, ScoreSettings()),
        score_key("file 1", replace(card, sha256="b"), ScoreSettings()),
        score_key("file 1", replace(card, parent_sha256="c"), ScoreSettings()),
        score_key("file 1", replace(card, intensity=PRESETS["mr"]), ScoreSettings()),
        score_key("file 1", replace(card, spacing_mm=2.0), ScoreSettings()),
        score_key("file 1", card, ScoreSettings(max_patches=4)),
    }
    assert len(others | {key}) == 7
