"""Versions: what is served after every kind of accident, and the way back."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lib.errors import WeightsError
from lib.network.deltas import load_delta, tuned_state
from lib.network.sam3d import Sam3D
from lib.weights.versions import BASE, VersionStore, open_served, roll_back, versions_folder
from small_runs import small_card, small_network, small_settings

PARENT = small_card(sha256="c" * 64)
CARD = small_card()


@pytest.fixture
def store(tmp_path: Path) -> VersionStore:
    return VersionStore(tmp_path / "versions", PARENT)


def served_values(store: VersionStore) -> tuple[str, dict[str, torch.Tensor]]:
    network = small_network(0)
    name, _, _ = store.load_served(network)
    return name, tuned_state(network)


def is_same(first: dict[str, torch.Tensor], network: Sam3D) -> bool:
    return all(torch.equal(first[name], tensor) for name, tensor in tuned_state(network).items())


def test_the_last_published_version_is_served(store: VersionStore) -> None:
    assert served_values(store)[0] == BASE
    assert store.publish(small_network(1), CARD, kept=5) == "v1"
    assert store.publish(small_network(2), CARD, kept=5) == "v2"
    name, values = served_values(store)
    assert name == "v2"
    assert is_same(values, small_network(2))
    card = store.served()[1]
    assert (card.version, card.parent_sha256) == ("small+v2", PARENT.sha256)


def test_a_candidate_is_kept_and_not_served(store: VersionStore) -> None:
    store.publish(small_network(1), CARD, kept=5)
    stamp = store.stamp()
    assert store.keep_candidate(small_network(2), small_card(description="why not"), kept=5) == "v2"
    assert served_values(store)[0] == "v1"
    assert store.stamp() == stamp
    assert {name: card.description for name, card in store.candidates().items()} == {"v2": "why not"}
    assert store.publish(small_network(3), CARD, kept=5) == "v3"


def test_rolling_back_goes_one_version_at_a_time_to_the_base(store: VersionStore) -> None:
    stamps = [store.stamp()]
    for seed in (1, 2):
        store.publish(small_network(seed), CARD, kept=5)
        stamps.append(store.stamp())
    assert store.rollback() == "v1"
    assert is_same(served_values(store)[1], small_network(1))
    stamps.append(store.stamp())
    assert store.rollback() == BASE
    assert is_same(served_values(store)[1], small_network(0))
    stamps.append(store.stamp())
    assert len(set(stamps)) == 5, "the server would not notice"
    with pytest.raises(WeightsError, match="the base weights are served: there is no version to roll back"):
        store.rollback()
    assert store.publish(small_network(4), CARD, kept=5) == "v3", "a number is never used twice"
    assert store.published() == ["v3"]


def test_old_versions_go_but_never_the_served_one_nor_the_one_before(store: VersionStore) -> None:
    for seed in range(1, 5):
        store.publish(small_network(seed), CARD, kept=2)
    for seed in range(5, 9):
        store.keep_candidate(small_network(seed), CARD, kept=2)
    assert store.published() == ["v3", "v4"]
    assert sorted(path.name for path in store.folder.glob("v*")) == [
        f"{name}{end}" for name in ("v3", "v4", "v7", "v8") for end in (".json", ".safetensors")
    ]
    assert store.rollback() == "v3"


def damage_tensors(store: VersionStore) -> None:
    path = store.path("v2")
    path.write_bytes(path.read_bytes()[:-9])


def drop_card(store: VersionStore) -> None:
    store.path("v2").with_suffix(".json").unlink()


def drop_tensors(store: VersionStore) -> None:
    store.path("v2").unlink()


@pytest.mark.parametrize("accident", [damage_tensors, drop_card, drop_tensors])
def test_a_damaged_version_is_never_served(store: VersionStore, accident: Callable[[VersionStore], None]) -> None:
    for seed in (1, 2):
        store.publish(small_network(seed), CARD, kept=5)
    accident(store)
    network = small_network(0)
    name, card, notes = store.load_served(network)
    assert (name, card.version) == ("v1", "small+v1")
    assert is_same(tuned_state(network), small_network(1))
    assert len(notes) == 1
    assert notes[0].startswith("version v2 is not served: v2.")
    assert store.served()[0] == "v1"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 1, "published": ["../../etc"]}', b'{"format": 9}'])
def test_a_damaged_list_serves_the_base_and_says_so(store: VersionStore, content: bytes) -> None:
    store.publish(small_network(1), CARD, kept=5)
    (store.folder / "served.json").write_bytes(content)
    name, _, notes = store.load_served(small_network(0))
    assert name == BASE
    assert "served.json is damaged" in notes[0]
    assert store.publish(small_network(2), CARD, kept=5) == "v2"
    assert store.load_served(small_network(0))[::2] == ("v2", ())


def test_versions_of_other_weights_are_out_of_sight(store: VersionStore) -> None:
    store.publish(small_network(1), CARD, kept=5)
    other = VersionStore(store.folder.parent, small_card(sha256="d" * 64))
    assert other.served()[0] == BASE
    with pytest.raises(WeightsError, match="was trained on weights cccccccccccc"):
        load_delta(small_network(0), other.parent, store.path("v1"))


class Killed(BaseException):
    """What a test does to a process."""


class Killer:
    """Counts operations on files and makes the one with number `at`, and all after it, fail: nothing runs after a kill,
    not even what cleans up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.at = 0, -1
        for owner, name in [
            *((Path, name) for name in ("open", "replace", "unlink", "mkdir")),
            *((os, name) for name in ("fsync", "replace", "rename")),
        ]:
            monkeypatch.setattr(owner, name, self.watched(getattr(owner, name)))

    def watched(self, function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            if self.at >= 0:
                self.count += 1
                if self.count > self.at:
                    raise Killed
            return function(*arguments, **options)

        return call

    def kill_at(self, step: int, work: Callable[[], Any]) -> bool:
        """Whether `work` was killed at its step number `step`."""
        self.count, self.at = 0, step
        try:
            work()
        except Killed:
            return True
        finally:
            self.at = -1
        return False


def test_a_kill_at_any_step_leaves_the_old_version_served_or_the_new(
    store: VersionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = {BASE: small_network(0), "v1": small_network(1)}
    store.publish(networks["v1"], CARD, kept=2)
    killer, outcomes, expected = Killer(monkeypatch), [], "v1"
    for step in range(100):
        new = small_network(10 + step)
        was_killed = killer.kill_at(step, lambda new=new: store.publish(new, CARD, kept=2))
        name, values = served_values(store)
        outcomes.append(name != expected)
        networks.setdefault(name, new)
        assert is_same(values, networks[name]), f"killed at step {step}, {name} is served with other values"
        assert store.load_served(small_network(0))[2] == (), "what is served needed no excuse"
        store.clean_leftovers()
        files = {path.name for path in store.folder.iterdir()}
        assert all(f"{file.split('.')[0]}.json" in files for file in files if file.endswith(".safetensors"))
        assert not [file for file in files if file.startswith(".") and file != ".lock"]
        expected = name
        if not was_killed:
            break
    assert step >= 8, "each file is opened, synchronised and renamed"
    assert outcomes[0] is False
    assert outcomes[-1] is True


def test_a_kill_while_rolling_back_leaves_either(store: VersionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in (1, 2):
        store.publish(small_network(seed), CARD, kept=5)
    killer, seen = Killer(monkeypatch), set()
    for step in range(20):
        was_killed = killer.kill_at(step, store.rollback)
        seen.add(served_values(store)[0])
        if seen == {"v2", "v1"}:
            break
        assert was_killed
    assert seen == {"v1", "v2"}


def test_a_full_disk_changes_nothing(store: VersionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.publish(small_network(1), CARD, kept=5)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.publish(small_network(2), CARD, kept=5)
    assert served_values(store)[0] == "v1"
    assert sorted(path.name for path in store.folder.iterdir()) == [".lock", "served.json", "v1.json", "v1.safetensors"]


def test_the_settings_open_what_is_served_and_the_way_back(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    base = open_served(settings)
    assert (base.name, base.card.version) == (BASE, "small")
    store = VersionStore(versions_folder(settings), base.base)
    store.publish(small_network(1), CARD, kept=5)
    served = open_served(settings)
    assert (served.name, served.card.version, served.base.version) == ("v1", "small+v1", "small")
    assert is_same(tuned_state(served.network), small_network(1))
    assert served.stamp == store.stamp()
    assert roll_back(settings) == "rolled back: small is served from the next click on"
    assert open_served(settings).name == BASE
    with pytest.raises(WeightsError, match="there is no version to roll back"):
        roll_back(settings)
