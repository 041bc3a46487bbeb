"""Who has which case open, by a clock of the test's own."""

from __future__ import annotations

from lib.activelearning.presence import Presence


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_two_at_one_case_are_told_of_each_other_and_nobody_else() -> None:
    presence = Presence(Clock())
    presence.note("a", "client 1", "anna", 45.0)
    presence.note("a", "client 2", "emil", 45.0)
    presence.note("b", "client 3", "dora", 45.0)
    assert presence.others("a", "client 1") == ["emil"]
    assert presence.others("a", "client 2") == ["anna"]
    assert presence.others("b", "client 3") == []
    assert presence.others("a", "client 3") == ["anna", "emil"]
    presence.leave("a", "client 2")
    assert presence.others("a", "client 1") == []


def test_who_is_not_heard_of_has_left() -> None:
    clock = Clock()
    presence = Presence(clock)
    presence.note("a", "client 1", "anna", 45.0)
    clock.now += 44.0
    assert presence.others("a", "client 2") == ["anna"]
    presence.note("a", "client 1", "anna", 45.0)
    clock.now += 44.0
    assert presence.others("a", "client 2") == ["anna"]
    clock.now += 1.0
    assert presence.others("a", "client 2") == []
    assert presence.name_of("client 1") == "anna"  # a lease of hers goes on
    assert presence.name_of("host 10.0.0.7") == "10.0.0.7"
