"""Whom Next Sample gives which case, by a clock of the test's own, and how often it asks the datastore."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi import HTTPException
from monailabel.datastore.local import LocalDatastore

from lib.activelearning.leases import SAVED_S, Leases
from lib.activelearning.strategies import AGAIN, First, LeasedStrategy, Random, Scored, next_case
from lib.activelearning.unopened import Unopened
from lib.scoring.selection import METHODS, Choice, Known, Pool

CASES = ["a", "b", "c"]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def leases(clock: Clock) -> Leases:
    return Leases(60.0, clock)


def given(leases: Leases, client: str, unlabelled: list[str] | None = None) -> str | None:
    return leases.give(CASES if unlabelled is None else unlabelled, client, min)


def test_clients_get_different_cases(leases: Leases) -> None:
    assert [given(leases, client) for client in ("x", "y", "z")] == ["a", "b", "c"]


def test_a_hundred_clients_at_once_get_a_hundred_cases() -> None:
    images = [f"case{number:03}" for number in range(100)]
    leases, together = Leases(60.0), threading.Barrier(100)

    def ask(number: int) -> str | None:
        together.wait(60)
        return leases.give(images, str(number), slowly)

    def slowly(free: Sequence[str]) -> str:
        time.sleep(0.001)  # long enough for all others to choose the same
        return min(free)

    with ThreadPoolExecutor(100) as pool:
        assert sorted(pool.map(ask, range(100))) == images


def test_a_lease_runs_out(leases: Leases, clock: Clock) -> None:
    assert given(leases, "x") == "a"
    clock.now += 59.0
    assert given(leases, "y") == "b"
    clock.now += 1.0
    assert given(leases, "z") == "a"


def test_a_click_renews_it_and_takes_a_case_that_nobody_has(leases: Leases, clock: Clock) -> None:
    assert given(leases, "x") == "a"
    clock.now += 50.0
    leases.renew("a", "x")
    leases.renew("b", "y")
    clock.now += 50.0
    assert given(leases, "z") == "c"
    clock.now += 10.0
    assert given(leases, "w") == "a"


def test_a_click_of_another_does_not_take_a_case_away(leases: Leases) -> None:
    given(leases, "x", ["a"])
    leases.renew("a", "y")
    assert given(leases, "x", ["a"]) == "a"
    with pytest.raises(HTTPException):
        given(leases, "y", ["a"])


def test_a_saved_case_is_nobody_s_and_not_offered_while_the_list_may_be_old(leases: Leases, clock: Clock) -> None:
    assert given(leases, "x") == "a"
    leases.end("a")
    assert given(leases, "x") == "b"
    assert given(leases, "y") == "c"
    assert given(leases, "x") == "b"  # her own again, not the one just saved
    clock.now += SAVED_S - 1
    assert given(leases, "x", ["a"]) is None
    clock.now += 1
    assert given(leases, "y", ["a"]) == "a"  # what was saved was no final label


def test_saving_ends_a_lease_that_would_last_longer(clock: Clock) -> None:
    leases = Leases(3600.0, clock)
    assert given(leases, "x", ["a"]) == "a"
    leases.end("a")
    clock.now += SAVED_S
    assert given(leases, "y", ["a"]) == "a"


def test_who_has_all_that_is_left_goes_round(leases: Leases, clock: Clock) -> None:
    seen = []
    for _ in range(7):
        seen.append(given(leases, "x"))
        clock.now += 1.0
    assert seen == ["a", "b", "c", "a", "b", "c", "a"]


def test_when_others_have_all_that_is_left_it_says_how_long(leases: Leases, clock: Clock) -> None:
    for client in ("x", "y", "z"):
        given(leases, client)
        clock.now += 5.0
    with pytest.raises(HTTPException) as refusal:
        given(leases, "w")
    assert refusal.value.status_code == 409
    assert "last 3 cases" in refusal.value.detail
    assert "in 45 s" in refusal.value.detail


def test_none_is_left_when_all_are_labelled(leases: Leases) -> None:
    assert given(leases, "x", []) is None


@pytest.mark.parametrize(("images", "said"), [([], "there is no case here at all"), (["a"], "every case has a label")])
def test_that_none_is_left_is_said_as_what_it_is(leases: Leases, images: list[str], said: str) -> None:
    datastore = _Listing(images)
    datastore.unlabelled = []
    sample = next_case({"first": First(leases)}, {"strategy": "first"}, datastore, all_open())
    assert list(sample) == ["detail"]
    assert said in sample["detail"]


def all_open() -> Unopened:
    """Of images that need not exist, each opens."""
    return Unopened(lambda path: None)


class _Listing(LocalDatastore):
    """A local datastore whose images need not exist; counts what it is asked."""

    def __init__(self, images: list[str]) -> None:
        self.images, self.unlabelled, self.asked = images, images, Counter[str]()

    def __getattribute__(self, name: str) -> Any:
        if name.startswith(("get_", "list_", "update_", "status", "datalist", "json")):
            object.__getattribute__(self, "asked")[name] += 1
        return object.__getattribute__(self, name)

    def get_unlabeled_images(self, *_: object) -> list[str]:
        return self.unlabelled

    def list_images(self) -> list[str]:
        return self.images

    def get_labeled_images(self, *_: object) -> list[str]:
        return []

    def get_image_uri(self, image_id: str) -> str:
        return f"/studies/{image_id}.nii.gz"


def test_a_skipped_case_comes_back_last(leases: Leases, clock: Clock) -> None:
    """Also when its lease has run out, and then the one skipped first before the others."""
    assert [given(leases, "x") for _ in range(3)] == ["a", "b", "c"]
    assert leases.skipped() == ["a", "b"]
    clock.now += 61.0
    assert [given(leases, client) for client in "yzw"] == ["c", "a", "b"]


def test_who_goes_back_to_a_case_has_not_skipped_it(leases: Leases) -> None:
    given(leases, "x")
    given(leases, "x")
    leases.renew("a", "y")
    assert leases.skipped() == ["a"]
    leases.renew("a", "x")
    assert leases.skipped() == []


def test_a_case_with_a_label_is_not_skipped(leases: Leases) -> None:
    given(leases, "x")
    given(leases, "x")
    leases.end("a")
    assert leases.skipped() == []


def test_the_answer_says_why() -> None:
    images = [f"case{number}" for number in range(3)]
    pool = Pool({"case1": Known((0.0,), 6.2), "case2": Known((1.0,), 2.0)})
    strategies = {"uncertainty": Scored("uncertainty", Leases(60.0), pool)}
    asked = {"strategy": "uncertainty", "client_id": "x"}
    reasons = [next_case(strategies, asked, _Listing(images), all_open())["reason"] for _ in range(4)]
    assert reasons == [
        "expected 6 clicks, the most of 2 images",
        "expected 2 clicks, the most of 1 image",
        "any of 1, none of which is scored yet",
        AGAIN,
    ]


@pytest.mark.parametrize("method", METHODS)
def test_ten_thousand_scored_images_take_one_question_more(method: str) -> None:
    images = [f"case{number:05}" for number in range(10_000)]
    pool = Pool({image: Known((float(number % 7), float(number % 5)), 1.0) for number, image in enumerate(images)})
    datastore, leases = _Listing(images), Leases(60.0)
    strategies = {"some": Scored(method, leases, pool)}
    found = {
        next_case(strategies, {"strategy": "some", "client_id": str(n)}, datastore, all_open())["id"] for n in range(5)
    }
    assert len(found) == 5
    assert datastore.asked.total() == 5 * 4


@pytest.mark.parametrize("strategy", [First, Random])
def test_ten_thousand_images_take_as_many_questions_as_two(strategy: type[LeasedStrategy]) -> None:
    counts = []
    for n_images in (2, 10_000):
        datastore = _Listing([f"case{number:05}" for number in range(n_images)])
        strategies = {"some": strategy(Leases(60.0))}
        found = [next_case(strategies, {"strategy": "some", "client_id": "x"}, datastore, all_open()) for _ in range(2)]
        assert found[0]["id"] != found[1]["id"]
        assert found[0]["path"] == f"/studies/{found[0]['id']}.nii.gz"
        counts.append(datastore.asked)
    assert counts[0] == counts[1]
    assert counts[1].total() == 2 * 3


def test_first_goes_by_name_and_random_reaches_every_case() -> None:
    images = ["c", "a", "b"]
    first, by_chance = (each(Leases(60.0)).chooser(_Listing(images), images) for each in (First, Random))
    assert first(images) == Choice("a", "the first of 3 by name")
    assert {by_chance(images).image for _ in range(200)} == set(images)


@pytest.mark.parametrize("name", ["nobody", ["first"], {"a": 1}])
def test_an_unknown_strategy_is_refused(name: Any) -> None:
    with pytest.raises(HTTPException) as refusal:
        next_case({"first": First(Leases(60.0))}, {"strategy": name}, _Listing([]), all_open())
    assert refusal.value.status_code == 404
    assert "['first']" in refusal.value.detail


class Studies:
    """Images, of which some do not open; counts what is opened."""

    def __init__(self, bad: dict[str, HTTPException]) -> None:
        self.bad, self.opened = bad, Counter[str]()

    def open(self, path: str) -> None:
        self.opened[path] += 1
        image = Path(path).name.removesuffix(".nii.gz")
        if image in self.bad:
            raise self.bad[image]


def broken(image: str, status: int = 422) -> HTTPException:
    return HTTPException(status, f"{image} is damaged")


@pytest.mark.parametrize("strategy", [First, Random])
def test_cases_that_do_not_open_are_passed_over_and_named(strategy: type[LeasedStrategy]) -> None:
    images = [f"case{number}" for number in range(6)]
    studies = Studies({image: broken(image) for image in images[:5]})
    unopened, datastore = Unopened(studies.open), _Listing(images)
    strategies = {"some": strategy(Leases(60.0))}
    samples = [next_case(strategies, {"strategy": "some", "client_id": "x"}, datastore, unopened) for _ in range(20)]
    assert {sample["id"] for sample in samples} == {"case5"}
    assert set(unopened.known(datastore)) <= set(images[:5])
    assert all(count == 1 for path, count in studies.opened.items() if "case5" not in path)
    if strategy is First:
        assert (
            "5 cases do not open and are passed over: case0, case1, case2"
            in samples[0]["reason"] + samples[1]["reason"]
        )


def test_when_none_opens_it_says_so_and_why() -> None:
    studies, images = Studies({image: broken(image) for image in CASES}), list(CASES)
    unopened = Unopened(studies.open)
    sample = next_case({"first": First(Leases(60.0))}, {"strategy": "first"}, _Listing(images), unopened)
    assert list(sample) == ["detail"]
    said = "no case opens: 3 cases do not open and are passed over: a, b, c (a is damaged; b is damaged"
    assert sample["detail"].startswith(said)


def test_an_archive_that_is_away_is_no_fault_of_the_case() -> None:
    unopened, leases = Unopened(Studies({"a": broken("a", 503)}).open), Leases(60.0)
    asked = ({"first": First(leases)}, {"strategy": "first", "client_id": "x"}, _Listing(list(CASES)), unopened)
    with pytest.raises(HTTPException) as refusal:
        next_case(*asked)
    assert refusal.value.status_code == 503
    assert unopened.known(asked[2]) == {}
    assert next_case(*asked)["id"] == "b"
