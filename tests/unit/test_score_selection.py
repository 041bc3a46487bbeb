"""Which image comes next: pools so small that the answer can be seen, and large ones for what a choice may not do."""

from __future__ import annotations

import builtins
import re
from pathlib import Path

import numpy as np
import pytest

from lib.scoring.clusters import Clusters, first_centres, typicality
from lib.scoring.selection import METHODS, Known, Pool


def cloud(name: str, centre: tuple[float, float], count: int, clicks: float, seed: int = 0) -> dict[str, Known]:
    rng = np.random.default_rng([seed, *name.encode()])
    points = np.array(centre) + rng.normal(0, 0.1, (count, 2))
    return {f"{name}{n:03}": Known((float(x), float(y)), clicks) for n, (x, y) in enumerate(points)}


# Three kinds: common and easy, less common, rare and hard.
THREE = {**cloud("a", (0, 0), 20, 1), **cloud("b", (9, 0), 8, 2), **cloud("c", (0, 9), 5, 9)}


def ordered(pool: Pool, count: int, method: str) -> list[str]:
    """The first `count` choices, each labelled before the next."""
    labelled: list[str] = []
    while len(labelled) < count:
        choice = pool.choose(sorted(set(THREE) - set(labelled)), set(labelled), set(), method)
        assert choice is not None
        labelled.append(choice.image)
    return labelled


def test_first_centres_are_where_the_images_are_and_not_where_a_stray_one_is() -> None:
    crowds = [[0, 0], [0, 1], [1, 0], [0, 0.5], [20, 0], [20, 1], [21, 0], [20, 0.5]]
    points = np.array([*crowds, [10, 12]], np.float32)
    rows = first_centres(points, 3)
    assert {rows[0], rows[1]} <= set(range(8))
    assert (rows[0] < 4) != (rows[1] < 4)
    assert rows[2] == 8
    assert first_centres(np.zeros((3, 2), np.float32), 2) == [0]


def test_clusters_are_those_one_sees() -> None:
    features = np.array([[0, 0], [0, 1], [10, 9], [10, 10]], np.float32)
    found = Clusters.of(features, 2)
    one, two, three, four = found.nearest(found.standardised(features))
    assert one == two != three == four


def test_what_has_near_neighbours_is_typical() -> None:
    members = np.array([[0.0], [1.0], [2.0], [9.0]], np.float32)
    values = typicality(members, members)
    assert values.argmax() == 1
    assert values.argmin() == 3


def test_diversity_takes_a_kind_without_a_label_the_largest_first() -> None:
    """Four kinds are told apart of what looks like three: the common one counts as two, the larger part of it first."""
    assert [image[0] for image in ordered(Pool(THREE), 4, "diversity")] == ["a", "b", "a", "c"]


def test_uncertainty_takes_what_costs_most() -> None:
    assert [image[0] for image in ordered(Pool(THREE), 4, "uncertainty")] == ["c"] * 4


def test_hybrid_begins_with_the_common_and_spends_its_labels_where_clicks_are_saved() -> None:
    order = [image[0] for image in ordered(Pool(THREE), 10, "hybrid")]
    assert order[0] == "a"
    assert set(order[:4]) == {"a", "b", "c"}
    # A ninth of the images, but most of the clicks: more labels than chance would give them.
    assert order.count("c") >= 3


@pytest.mark.parametrize("method", METHODS)
def test_the_order_in_which_images_were_scored_changes_nothing(method: str) -> None:
    """Also where nothing settles by itself which centres come first."""
    rng = np.random.default_rng(3)
    known = {f"case{n:02}": Known((float(n % 6), float(n // 6)), float(rng.integers(1, 4))) for n in range(36)}
    chosen = []
    for scored in (known, dict(sorted(known.items(), reverse=True))):
        pool, labelled = Pool(scored), dict[str, None]()
        while len(labelled) < 12:
            choice = pool.choose([name for name in known if name not in labelled], set(labelled), set(), method)
            assert choice is not None
            labelled[choice.image] = None
        chosen.append(list(labelled))
    assert chosen[0] == chosen[1]


def test_images_with_other_annotators_count_as_covered() -> None:
    pool, first = Pool(THREE), ordered(Pool(THREE), 1, "diversity")[0]
    choice = pool.choose(sorted(set(THREE) - {first}), set(), {first}, "diversity")
    assert choice is not None
    assert choice.image[0] == "b"


def test_the_reason_says_what_is_expected_and_what_it_stands_for() -> None:
    pool = Pool(THREE)
    first = pool.choose(sorted(THREE), set(), set(), "hybrid")
    assert first is not None
    assert re.fullmatch(r"expected 1 click; typical of the \d+ images of the largest kind", first.reason)
    later = pool.choose([name for name in THREE if name[0] == "c"], {first.image}, set(), "hybrid")
    assert later is not None
    assert later.reason == "expected 9 clicks; stands for 5 images unlike the 1 labelled"
    hard = pool.choose(sorted(THREE), set(), set(), "uncertainty")
    assert hard is not None
    assert hard.reason == "expected 9 clicks, the most of 33 images"


def test_images_without_a_score_are_left_out_and_of_none_there_is_no_choice() -> None:
    pool = Pool({"a": Known((0.0, 0.0), 2)})
    choice = pool.choose(["a", "new"], set(), set(), "hybrid")
    assert choice is not None
    assert choice.image == "a"
    assert pool.choose(["new"], set(), set(), "hybrid") is None
    assert Pool({}).choose(["new"], set(), set(), "diversity") is None


def test_an_image_that_comes_later_is_of_the_nearest_kind() -> None:
    pool = Pool(THREE)
    pool.settle(0)
    pool.put({"late": Known((0.0, 9.0), 9.5)})
    assert len(pool) == len(THREE) + 1
    choice = pool.choose(["late"], {"c000", "c001"}, set(), "hybrid")
    assert choice is not None
    assert choice.reason.endswith("typical of 1 image of a kind with 2 labelled or in work")


def test_features_of_another_network_begin_a_new_pool() -> None:
    pool = Pool(THREE)
    pool.put({"new": Known((1.0, 2.0, 3.0), 1)})
    assert len(pool) == 1


def test_ten_thousand_images_are_chosen_from_without_opening_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    names = [f"case{number:05}" for number in range(10_000)]
    known = {
        name: Known(tuple(row), float(row[0] % 9 + 1))
        for name, row in zip(names, rng.random((10_000, 64)), strict=True)
    }
    pool = Pool(known)

    def refuse(*values: object, **named: object) -> None:
        raise AssertionError(f"{values[0]} was opened")

    monkeypatch.setattr(builtins, "open", refuse)
    monkeypatch.setattr(Path, "open", refuse)
    labelled: set[str] = set()
    for _ in range(20):
        choice = pool.choose([name for name in names if name not in labelled], labelled, set(), "hybrid")
        assert choice is not None
        labelled |= {choice.image}
    assert len(labelled) == 20
