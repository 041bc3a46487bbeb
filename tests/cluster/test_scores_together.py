"""Scores over two workers: the same as here, each once, whoever dies meanwhile."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import cloudpickle
import numpy as np
import pytest

from conftest import N_IMAGES, NAMES
from lib.activelearning import background
from lib.cluster import dask_client, link
from lib.cluster.orders import LIMIT_BYTES, Order
from lib.cluster.travelling import Weights
from lib.images.volumes import VolumeCache
from lib.infers.reply import ReplyFiles
from lib.infers.sam3d import Sam3DInfer
from nodes import Node, Nodes, until
from scoring_bench import ScoringBench
from serving import write_study

Make = Callable[..., ScoringBench]


@pytest.fixture
def bench(tmp_path: Path, weights: Path, studies: Path) -> Iterator[Make]:
    made = list[ScoringBench]()

    def make(address: str = "", name: str = "server", at: Path = studies, wait_s: float = 30.0) -> ScoringBench:
        made.append(ScoringBench(tmp_path / name, at, weights, address, wait_s))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def no_engine_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process scores nothing."""

    def refuse(*_: object) -> None:
        raise AssertionError("an image was opened here")

    monkeypatch.setattr(background, "open_volume", refuse)


def test_two_workers_come_to_the_very_scores_of_this_process_each_once(
    bench: Make, scheduler: Node, workers: list[Node], no_engine_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = bench(scheduler.address, "together")
    progress = together.run()
    assert (progress.scored, progress.total, progress.problems) == (N_IMAGES, N_IMAGES, {})
    assert sorted(together.stored) == NAMES
    assert len(together.files) == N_IMAGES
    monkeypatch.undo()
    alone = bench("", "alone")
    assert alone.run().scored == N_IMAGES
    assert together.store.all() == alone.store.all()
    assert len({score.key for score in alone.store.all().values()}) == N_IMAGES
    sent = list[Order]()
    monkeypatch.setattr(dask_client.DaskCluster, "submit", lambda _, order, *__: sent.append(order))
    again = bench(scheduler.address, "together")
    assert again.run().scored == N_IMAGES
    assert (sent, again.stored) == ([], [])
    print(f"\n{N_IMAGES} images, {len(together.files)} files, 0 orders at the second pass")


def test_weights_are_built_once_a_process_and_orders_are_small(
    bench: Make, scheduler: Node, workers: list[Node], weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bench(scheduler.address)
    cluster = made.link.awaited(lambda: False)
    assert cluster is not None
    # By value: workers know nothing of these tests.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    before = cluster._client.run(_n_built)
    longest = 0
    submit = dask_client.DaskCluster.submit

    def measured(self: object, order: Order, *rest: object) -> object:
        nonlocal longest
        longest = max(longest, len(order.as_text().encode()))
        return submit(self, order, *rest)

    monkeypatch.setattr(dask_client.DaskCluster, "submit", measured)
    sent = sent_bytes(scheduler)
    assert made.run().scored == N_IMAGES
    beside = sent_bytes(scheduler) - sent - len(Weights.served(made.settings).data)
    built = {address: count - before[address] for address, count in cluster._client.run(_n_built).items()}
    assert all(count <= 1 for count in built.values()), built
    assert 0 < longest <= LIMIT_BYTES
    assert 0 < beside <= 64 * 1024
    print(f"\nlongest order {longest} bytes; {beside} bytes to the scheduler beside the weights; built {built}")


def _n_built() -> int:
    from lib.cluster import carrying

    return carrying._place.networks.n_built


def sent_bytes(scheduler: Node) -> int:
    """What this process sent to the scheduler on the connections that it has."""
    port = scheduler.address.rpartition(":")[2]
    told = subprocess.run(["ss", "-tinp", f"dport = :{port}"], capture_output=True, text=True, check=True).stdout
    blocks = re.split(r"\n(?=ESTAB)", told)
    mine = [block for block in blocks if f"pid={os.getpid()}," in block]
    assert mine, told
    return sum(int(number) for block in mine for number in re.findall(r"bytes_sent:(\d+)", block))


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_no_score_and_doubles_none(
    bench: Make, nodes: Nodes, scheduler: Node, workers: list[Node], studies: Path
) -> None:
    made, victim = bench(scheduler.address), nodes.worker(scheduler.address, studies)
    assert victim.address
    until(lambda: made.link.now() is not None and made.link.now().width == 3)
    made.on_stored = lambda count: victim.kill() if count == 8 else None
    progress = made.run()
    assert (progress.scored, progress.problems) == (N_IMAGES, {})
    assert sorted(made.stored) == NAMES
    assert len(made.files) == N_IMAGES
    print(f"\nlongest gap {max(b - a for a, b in pairwise(made.ends)):.2f} s after kill -9 of one of three workers")


@pytest.mark.slow
def test_without_workers_and_without_a_scheduler_the_pass_ends_here_beside_clicks_and_goes_back(
    bench: Make, tmp_path: Path, studies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "RETRY_S", 0.2)
    with Nodes(tmp_path / "own") as own:
        scheduler = own.scheduler()
        address = scheduler.address
        made, first = bench(address, wait_s=1.0), own.worker(address, studies)
        assert first.address
        opened = counted_here(monkeypatch)
        clicks = ThreadPoolExecutor(1)
        answers = list[Future[int]]()

        def die(count: int) -> None:
            if count == 4:
                first.kill()
            if count == 8:
                scheduler.kill()
                answers.append(clicks.submit(click, made))

        made.on_stored = die
        progress = made.run()
        clicks.shutdown()
        assert answers[0].result() < N_IMAGES  # scores were left to be made when the click was answered
        assert (progress.scored, progress.problems) == (N_IMAGES, {})
        assert sorted(made.stored) == NAMES
        assert len(opened) == N_IMAGES - 4  # 4 by the worker
        # The scheduler is started again at its address, and a worker: a new pass goes there.
        again = own.scheduler(int(address.rpartition(":")[2]))
        assert again.address == address
        assert own.worker(address, studies).address
        opened.clear()
        for path in made.files:
            path.unlink()
        back = bench(address)
        assert back.run().scored == N_IMAGES
        assert opened == []


def click(made: ScoringBench) -> int:
    """Click as a viewer does; how many scores were stored when it was answered."""
    task = Sam3DInfer(made.model, VolumeCache(2**24), ReplyFiles())
    file, params = task({"image": made.datastore.get_image_uri(NAMES[0]), "lesion": [[9, 9, 9]]})
    n_stored = len(made.stored)
    Path(file).unlink()
    assert params["n_clicks"] == 1
    assert params["measurements"]["lesion"]["voxels"] > 0
    return n_stored


def counted_here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The images that this process opens."""
    opened, original = list[str](), background.open_volume

    def counting(path: str, limit: int) -> object:
        opened.append(Path(path).name)
        return original(path, limit)

    monkeypatch.setattr(background, "open_volume", counting)
    return opened


@pytest.mark.slow
def test_a_worker_finds_its_scheduler_again(tmp_path: Path, bench: Make, studies: Path, no_engine_here: None) -> None:
    with Nodes(tmp_path / "own") as own:
        scheduler = own.scheduler()
        address = scheduler.address
        worker = own.worker(address, studies)
        assert worker.address
        scheduler.kill()
        until(lambda: "waiting for the scheduler" in worker.told())
        own.scheduler(int(address.rpartition(":")[2]))
        until(lambda: len(worker.lines) == 2)
        assert bench(address).run().scored == N_IMAGES


def test_what_a_worker_cannot_score_is_named_and_the_others_go_on(
    bench: Make, scheduler: Node, workers: list[Node], studies: Path, mounted_elsewhere: Path
) -> None:
    bad, missing = studies / "bad.nii.gz", studies / "missing.nii.gz"
    bad.write_bytes(b"no image")
    write_study(missing, np.zeros((24, 22, 20), np.int16))
    (mounted_elsewhere / bad.name).write_bytes(b"no image")
    try:
        made = bench(scheduler.address)
        progress = made.run()
        assert "bad" in progress.problems
        assert progress.problems["bad"] == background.score_key(
            background.image_reference("bad", made.datastore),
            made.model.in_background(threading.Event()).card,
            made.scoring._settings,
        )
        # One of the workers has not got it: that may pass, so it is tried again at another pass.
        assert progress.problems.get("missing", "") == ""
        assert set(NAMES) <= set(made.stored)
    finally:
        for path in (bad, missing, mounted_elsewhere / bad.name):
            path.unlink()
