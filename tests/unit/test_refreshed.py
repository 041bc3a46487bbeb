"""Values that are fetched in the background: how old they may be, and what a failure or a slow server does to them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from lib.datastore.refreshed import Refreshed


def until(is_so: Callable[[], bool], limit_s: float = 60.0) -> None:
    limit = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < limit, f"not within {limit_s} s"
        time.sleep(0.01)


def test_a_value_is_fetched_once_while_it_is_new_and_again_when_it_expired() -> None:
    fetched = iter(range(100))
    value = Refreshed(lambda: next(fetched), -1, ttl_s=1000.0, patience_s=60.0, first_patience_s=60.0)
    assert [value.get(), value.get()] == [0, 0]
    value.expire()
    assert [value.get(), value.get()] == [1, 1]


def test_a_failure_is_logged_and_what_was_known_stays(caplog) -> None:
    is_broken = threading.Event()

    def fetch() -> list[str]:
        if is_broken.is_set():
            raise RuntimeError("no such luck")
        return ["known"]

    value = Refreshed(fetch, [], ttl_s=0.0, patience_s=60.0, first_patience_s=60.0)
    assert value.get() == ["known"]
    is_broken.set()
    assert value.get() == ["known"]
    assert "no such luck" in caplog.text
    assert value.known == ["known"]


def test_nobody_waits_for_a_slow_fetch_and_its_value_arrives_later() -> None:
    answered = threading.Event()
    calls = []

    def fetch() -> str:
        calls.append(1)
        if len(calls) > 1:
            assert answered.wait(60)
        return f"value {len(calls)}"

    value = Refreshed(fetch, "", ttl_s=0.0, patience_s=0.01, first_patience_s=60.0)
    assert value.get() == "value 1"
    assert [value.get() for _ in range(3)] == ["value 1"] * 3
    answered.set()
    until(lambda: value.known == "value 2")
    assert len(calls) == 2  # the three that came meanwhile waited for one fetch
