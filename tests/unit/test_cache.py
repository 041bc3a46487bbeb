"""The cache by bytes: what is dropped, when, and what several threads see."""

import threading

import pytest

from lib.cache import ByteCache


def cache_of(limit):
    """A cache of texts, a byte a letter."""
    return ByteCache(limit, len)


def test_what_was_made_is_kept():
    cache = cache_of(10)
    made = []

    def make():
        made.append("x")
        return "four"

    assert cache.get("key", make) is cache.get("key", make)
    assert made == ["x"]
    assert cache.used_bytes == 4
    cache.clear()
    assert cache.used_bytes == 0
    cache.get("key", make)
    assert made == ["x", "x"]


def test_the_least_recently_used_goes_first():
    cache = cache_of(10)
    made = []

    def get(key, size=4):
        return cache.get(key, lambda: made.append(key) or key * size)

    get("a"), get("b")
    get("a")  # now b is the older one
    get("c")
    assert cache.used_bytes == 8
    get("a"), get("c")
    assert made == ["a", "b", "c"]
    get("b")
    assert made == ["a", "b", "c", "b"]
    get("d", size=10)  # as large as all
    assert cache.used_bytes == 10
    get("d")
    assert made == ["a", "b", "c", "b", "d"]


def test_what_is_larger_than_the_limit_is_handed_out_and_drops_nothing():
    cache = cache_of(10)
    cache.get("small", lambda: "four")
    assert cache.get("large", lambda: "x" * 11) == "x" * 11
    assert cache.used_bytes == 4
    assert cache.get("small", lambda: pytest.fail("was kept")) == "four"
    assert cache.get("large", lambda: "made anew") == "made anew"


def test_a_limit_of_zero_keeps_nothing():
    cache = cache_of(0)
    assert [cache.get("key", lambda n=n: str(n)) for n in (1, 2)] == ["1", "2"]
    assert cache.used_bytes == 0


def test_used_bytes_never_pass_the_limit():
    cache = cache_of(100)
    for n in range(200):
        cache.get(n, lambda n=n: "x" * (n * 37 % 60))
        assert cache.used_bytes <= 100


def test_errors_pass_through_and_are_not_kept():
    cache = cache_of(10)

    def fail():
        raise ValueError("not today")

    for _ in range(2):
        with pytest.raises(ValueError, match="not today"):
            cache.get("key", fail)
    assert cache.get("key", lambda: "four") == "four"
    assert not cache._makings


def run_all(*functions):
    """Run functions in threads of their own; their results, or errors, in order."""
    results = [None] * len(functions)

    def run(index):
        try:
            results[index] = functions[index]()
        except ValueError as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()
    return results


def wait_for(condition):
    """Until it holds, for the state of other threads cannot be told otherwise."""
    pause = threading.Event()
    for _ in range(3000):
        if condition():
            return
        pause.wait(0.01)
    pytest.fail("waited in vain")


@pytest.mark.parametrize("limit", [10, 0], ids=["kept", "too large to keep"])
def test_threads_that_ask_for_one_key_wait_for_one_making(limit):
    cache = cache_of(limit)
    made = []

    def make():
        wait_for(lambda: cache._makings["key"].waiting == 8)  # until all have asked
        made.append("x")
        return "four"

    results = run_all(*[lambda: cache.get("key", make)] * 8)
    assert made == ["x"]
    assert all(result is results[0] for result in results)
    assert not cache._makings


def test_after_a_failed_making_the_next_thread_tries():
    cache = cache_of(10)
    turns = []

    def make():
        turns.append("x")
        if len(turns) == 1:
            wait_for(lambda: cache._makings["key"].waiting == 3)
            raise ValueError("not today")
        return "four"

    results = run_all(*[lambda: cache.get("key", make)] * 3)
    assert len(turns) == 2
    assert sorted(str(result) for result in results) == ["four", "four", "not today"]


def test_different_keys_do_not_wait_for_each_other():
    cache = cache_of(10)
    both = threading.Barrier(2, timeout=30)

    def make():
        both.wait()  # passes only if both are being made at once
        return "four"

    assert run_all(lambda: cache.get("a", make), lambda: cache.get("b", make)) == ["four", "four"]
