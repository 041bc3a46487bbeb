"""Turns at the network: how many threads get in at once, who is let through, and what a new version changes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import HTTPException

from lib.images.volumes import Volume, make_volume
from lib.infers.model import SharedPredictor
from lib.infers.turns import Turns, answering
from lib.interactive.prompts import ClickRequest, prompts_from_request
from lib.network.weights import save_weights
from lib.settings import Settings
from lib.weights.versions import open_served
from network.small_networks import card_of, small_network

LABELS = ("lesion",)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


class Crowd:
    """Threads that wait inside for a sign, and how many were inside at once at most."""

    def __init__(self) -> None:
        self.inside = self.most = 0
        self.lock, self.may_leave = threading.Lock(), threading.Event()
        self.has_entered = threading.Semaphore(0)

    def visit(self) -> None:
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        self.has_entered.release()
        assert self.may_leave.wait(60)
        with self.lock:
            self.inside -= 1


def test_only_so_many_threads_get_in(threads: ThreadPoolExecutor) -> None:
    turns, crowd = Turns(2), Crowd()

    def visit() -> None:
        with turns:
            crowd.visit()

    visits = [threads.submit(visit) for _ in range(6)]
    assert all(crowd.has_entered.acquire(timeout=60) for _ in range(2))
    assert not crowd.has_entered.acquire(timeout=0.3)
    crowd.may_leave.set()
    assert [each.result(60) for each in visits] == [None] * 6
    assert crowd.most == 2


def test_who_has_gone_is_not_let_in_and_takes_no_turn(threads: ThreadPoolExecutor) -> None:
    turns, crowd, has_gone = Turns(1), Crowd(), threading.Event()

    def visit(event: threading.Event) -> None:
        with answering(event), turns:
            crowd.visit()

    first = threads.submit(visit, threading.Event())
    assert crowd.has_entered.acquire(timeout=60)
    second = threads.submit(visit, has_gone)
    has_gone.set()
    crowd.may_leave.set()
    with pytest.raises(HTTPException) as refusal:
        second.result(60)
    assert refusal.value.status_code == 499
    assert first.result(60) is None
    assert threads.submit(visit, threading.Event()).result(60) is None
    assert crowd.has_entered.acquire(timeout=60)
    assert not crowd.has_entered.acquire(timeout=0.1)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Random weights that may answer, and a folder for versions of them."""
    path = tmp_path / "small.safetensors"
    save_weights(small_network(), card_of(version="1"), path)
    # In single precision the network is the plain one, whose parts can be held up.
    return Settings(checkpoint=path, model_folder=tmp_path / "model", labels=LABELS, precision="fp32")


def volume(seed: int) -> Volume:
    return make_volume(np.random.default_rng(seed).normal(0, 100, (24, 24, 24)).astype(np.int16), np.eye(4))


def clicks() -> ClickRequest:
    return prompts_from_request({"lesion": [[12, 12, 12]]}, LABELS, (24, 24, 24), 10)


def publish(settings: Settings) -> str:
    """Serve another version of the weights, with other numbers in it; its name."""
    served = open_served(settings)
    with_other_numbers = served.network
    for name, parameter in with_other_numbers.named_parameters():
        if "mask_decoder" in name:
            parameter.data += 0.05
    return served.store.publish(with_other_numbers, served.card, settings.training.versions_kept)


def test_a_request_ends_on_the_version_it_began_with(settings: Settings, threads: ThreadPoolExecutor) -> None:
    shared, asked = SharedPredictor(settings), clicks()
    with shared.ready() as old:
        before = old.segment(volume(0), asked)
        publish(settings)

        def ask() -> Any:
            with shared.ready() as new:
                return new.segment(volume(0), asked)

        after = threads.submit(ask).result(60)
        again = old.segment(volume(0), asked)
    assert after.report.weights_version != before.report.weights_version
    assert not np.array_equal(after.label_map, before.label_map)
    assert again.report.weights_version == before.report.weights_version
    assert np.array_equal(again.label_map, before.label_map)
    assert after.report.n_encoded == 1  # nothing of the old version's was used


def test_what_is_encoded_is_answered_while_another_encodes(settings: Settings, threads: ThreadPoolExecutor) -> None:
    """The encoder is held up by a real hook of torch, until the other's cached click has been answered."""
    shared, asked = SharedPredictor(settings), clicks()
    with shared.ready() as predictor:
        n_patches = predictor.segment(volume(1), asked).report.n_encoded
        crowd = Crowd()
        encoder = predictor._network._network.network.image_encoder
        hook = encoder.register_forward_pre_hook(lambda *_: crowd.visit())

    def ask(seed: int) -> Any:
        with shared.ready() as same:
            return same.segment(volume(seed), asked)

    slow: list[Future[Any]] = [threads.submit(ask, seed) for seed in (2, 3)]
    assert crowd.has_entered.acquire(timeout=60)
    assert threads.submit(ask, 1).result(60).report.n_encoded == 0
    assert not crowd.has_entered.acquire(timeout=0.3)
    assert not any(each.done() for each in slow)
    crowd.may_leave.set()
    assert [each.result(60).report.n_encoded for each in slow] == [n_patches] * 2
    assert crowd.most == 1
    hook.remove()
