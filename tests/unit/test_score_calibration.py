"""From disagreement to clicks: the curve by hand, what it refuses, and the table that comes with the app."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.errors import WeightsError
from lib.scoring.calibration import Calibration, fit, load

PAIRS = st.lists(st.tuples(st.floats(0, 1), st.integers(1, 10)), min_size=1, max_size=30)


def test_pairs_that_rise_are_met_and_those_that_fall_are_pooled() -> None:
    curve = fit([0.1, 0.2, 0.3, 0.5], [1, 5, 3, 8])
    assert curve.disagreements == (0.1, 0.25, 0.5)
    assert curve.clicks == (1, 4, 8)
    assert [curve.expected_clicks(value) for value in (0.0, 0.1, 0.25, 0.375, 0.5, 0.9)] == [1, 1, 4, 6, 8, 8]


@given(PAIRS)
def test_the_curve_never_falls_and_keeps_the_mean(pairs: list[tuple[float, int]]) -> None:
    disagreements, clicks = zip(*pairs, strict=True)
    curve = fit(disagreements, clicks)
    at = [curve.expected_clicks(value) for value in np.linspace(0, 1, 50)]
    assert all(low <= high + 1e-9 for low, high in pairwise(at))
    assert min(clicks) - 1e-3 <= min(at) <= max(at) <= max(clicks) + 1e-3


def test_the_order_of_the_pairs_changes_nothing() -> None:
    assert fit([0.3, 0.1, 0.3], [2, 1, 4]) == fit([0.3, 0.3, 0.1], [4, 2, 1])


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    curve = fit([0.1, 0.4], [2, 6])
    path = tmp_path / "table.json"
    path.write_text(json.dumps({**curve.as_json(), "quality": {}}))
    assert load(path) == curve


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"format": 2}',
        '{"format": 1, "disagreements": [], "clicks": []}',
        '{"format": 1, "disagreements": [0.1, 0.2], "clicks": [3, 2]}',
        '{"format": 1, "disagreements": [0.1], "clicks": [3, 4]}',
    ],
)
def test_a_damaged_table_is_refused_with_the_way_out(tmp_path: Path, content: str) -> None:
    path = tmp_path / "table.json"
    path.write_text(content)
    with pytest.raises(WeightsError, match="calibrate-scores"):
        load(path)


def test_the_table_of_the_app_tells_easy_from_hard() -> None:
    curve = load()
    assert isinstance(curve, Calibration)
    assert 1 <= curve.expected_clicks(0.0) < curve.expected_clicks(1.0) <= 10
