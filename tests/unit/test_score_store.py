"""Scores on disk: what survives, what is renewed, and whose they are."""

from __future__ import annotations

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
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[1, 2]",
        lambda text: text.replace('"format": 2', '"format": 9'),
        lambda text: text.replace("3.5", "NaN"),
        lambda text: text.replace('"features": [0.5, -1.0]', '"features": []'),
        lambda text: text.replace('"key"', '"keys"'),
        lambda text: text.replace('"v1"', "7"),
        lambda text: text.replace('"image": "case"', '"image": "other"'),
    ],
)
def test_a_damaged_score_is_none_and_is_renewed(tmp_path: Path, damage) -> None:
    ScoreStore(tmp_path).put(SCORE)
    (path,) = tmp_path.iterdir()
    text = path.read_text()
    assert damage(text) != text
    path.write_text(damage(text))
    store = ScoreStore(tmp_path)
    assert store.all() == {}
    store.put(SCORE)
    assert ScoreStore(tmp_path).get("case") == SCORE


def test_what_a_killed_writer_left_is_not_read(tmp_path: Path) -> None:
    (tmp_path / ".case.json.0123").write_text("{")
    assert ScoreStore(tmp_path).all() == {}


def test_scores_of_another_process_are_found_once(tmp_path: Path) -> None:
    mine, theirs = ScoreStore(tmp_path), ScoreStore(tmp_path)
    theirs.put(SCORE)
    assert mine.refresh() == [SCORE]
    assert mine.refresh() == []
    assert mine.get("case") == SCORE
    mine.put(replace(SCORE, version="v2"))
    assert mine.refresh() == []


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
