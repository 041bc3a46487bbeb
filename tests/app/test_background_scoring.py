"""Scores in the background: what they cost, what is scored again and what first, and who has precedence.

Real volumes on disk, a real network of random weights, and the thread's own functions; only clocks are the tests'.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI, HTTPException
from fastapi.testclient import TestClient

from archives import DemoArchive
from lib.activelearning import background, pace
from lib.activelearning.background import BackgroundScoring, known_pool
from lib.activelearning.leases import Leases
from lib.activelearning.scoring import PoolScoring
from lib.activelearning.strategies import Scored, next_case
from lib.activelearning.unopened import Unopened
from lib.cluster.carrying import Place, Task
from lib.cluster.orders import Order
from lib.cluster.travelling import Weights
from lib.configs.sam3d import Sam3DConfig
from lib.datastore.versioned import VersionedDatastore
from lib.demo import free_port
from lib.errors import ClusterError, SettingsError
from lib.images.dicom_writing import SeriesInfo
from lib.images.volumes import VolumeCache, open_volume
from lib.infers.model import BackgroundNetwork, SharedPredictor
from lib.infers.reply import ReplyFiles
from lib.infers.sam3d import Sam3DInfer
from lib.network.weights import save_weights
from lib.scoring.selection import METHODS
from lib.scoring.store import ScoreStore
from lib.serving.scoring_door import ScoringTasks, progress_door, scoring_door
from lib.settings import ScoringSettings, Settings
from lib.weights.versions import open_served
from lib.works.score import score
from network.small_networks import card_of, small_network
from serving import write_study
from studies_in_archive import datastore_at, write_image
from unit.test_dicom_writing import affine_of

NAMES = ["one", "two", "three"]


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    folder = tmp_path / "studies"
    folder.mkdir()
    for seed, name in enumerate(NAMES):
        write(folder, name, seed)
    return folder


def write(folder: Path, name: str, seed: int) -> None:
    write_study(folder / f"{name}.nii.gz", np.random.default_rng(seed).normal(0, 200, (24, 22, 20)).astype(np.int16))


class Bench:
    """A server's scoring without the server, counting what it opens and what it asks of the network."""

    def __init__(self, studies: Path, monkeypatch: pytest.MonkeyPatch, **scoring: Any) -> None:
        weights = studies.parent / "small.safetensors"
        if not weights.exists():
            save_weights(small_network(), card_of(version="1"), weights)
        self.settings = Settings(
            checkpoint=weights,
            model_folder=studies.parent / "model",
            labels=("lesion",),
            scoring=ScoringSettings(**scoring),
            precision="fp32",  # so that the network is the plain one, whose parts can be watched
        )
        self.opened, self.passes = list[str](), Counter[str]()
        self.datastore = VersionedDatastore(str(studies), extensions=("*.nii.gz",))
        self.folder = studies.parent / "scores"
        self.restart()
        monkeypatch.setattr(background, "open_volume", self._open)
        for name in ("encode", "decode"):
            monkeypatch.setattr(BackgroundNetwork, name, self._counting(name, getattr(BackgroundNetwork, name)))

    def restart(self) -> None:
        self.shared, self.store = SharedPredictor(self.settings), ScoreStore(self.folder)
        self.pool = known_pool(self.store)
        self.scoring = BackgroundScoring(self.shared, self.store, self.pool)

    def run(self) -> background.Progress:
        self.opened.clear()
        self.passes.clear()
        return self.scoring.run(self.datastore)

    def publish(self) -> None:
        served = open_served(self.settings)
        for name, parameter in served.network.named_parameters():
            if "mask_decoder" in name:
                parameter.data += 0.05
        served.store.publish(served.network, served.card, 5)

    def _open(self, path: str, limit: int) -> Any:
        self.opened.append(Path(path).name.removesuffix(".nii.gz"))
        return open_volume(path, limit)

    def _counting(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*values: Any) -> Any:
            self.passes[name] += 1
            return method(*values)

        return call


@pytest.fixture
def bench(studies: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(studies, monkeypatch)


def test_every_image_is_scored_once_and_for_unchanged_weights_never_again(bench: Bench) -> None:
    progress = bench.run()
    assert (progress.scored, progress.total, progress.version) == (3, 3, "base")
    assert progress.sentence == "scored: 3 of 3 images by base"
    assert sorted(bench.opened) == sorted(NAMES)
    assert bench.passes["encode"] == 3  # of one patch each
    for restart in (lambda: None, bench.restart):
        restart()
        assert bench.run().scored == 3
        assert (bench.opened, bench.passes.total()) == ([], 0)


def test_only_what_is_new_or_changed_is_scored(bench: Bench, studies: Path) -> None:
    bench.run()
    before = bench.store.all()
    write(studies, "four", 4)
    bench.datastore.refresh()
    bench.run()
    assert bench.opened == ["four"]
    write(studies, "two", 9)
    bench.datastore.refresh()
    bench.run()
    assert bench.opened == ["two"]
    assert bench.store.get("two").features != before["two"].features
    assert bench.store.get("one") == before["one"]


def test_a_new_version_scores_again_what_costs_most_clicks_first(bench: Bench) -> None:
    bench.run()
    old = bench.store.all()
    clicks = dict(zip(NAMES, (2.0, 9.0, 5.0), strict=True))
    for name, count in clicks.items():
        bench.store.put(background.replace(old[name], expected_clicks=count))
    bench.publish()
    assert bench.run().version == "v1"
    assert bench.opened == ["two", "three", "one"]
    assert {score.version for score in bench.store.all().values()} == {"v1"}
    assert {score.key for score in bench.store.all().values()}.isdisjoint(score.key for score in old.values())


def test_what_was_never_scored_comes_before_what_an_old_version_scored(bench: Bench, studies: Path) -> None:
    bench.run()
    bench.publish()
    write(studies, "four", 4)
    bench.datastore.refresh()
    bench.run()
    assert bench.opened[0] == "four"
    assert len(bench.opened) == 4


def test_a_damaged_score_is_renewed(bench: Bench) -> None:
    bench.run()
    (path, *_) = sorted(bench.folder.rglob("*.json"))
    path.write_text("{")
    bench.restart()
    assert len(bench.pool) == 2
    bench.run()
    assert len(bench.opened) == 1
    assert len(bench.pool) == 3


def test_what_cannot_be_scored_is_named_and_not_tried_again(bench: Bench, studies: Path) -> None:
    (studies / "bad.nii.gz").write_bytes(b"no image")
    bench.datastore.refresh()
    progress = bench.run()
    assert (progress.scored, progress.total, list(progress.problems)) == (3, 4, ["bad"])
    assert progress.sentence.endswith("1 cannot be scored")
    assert bench.run().scored == 3
    assert bench.opened == []
    write(studies, "bad", 7)
    bench.datastore.refresh()
    assert bench.run().scored == 4


def test_what_was_not_to_be_had_is_tried_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    stored_path = background.stored_path

    def away(image: str, *values: Any) -> str:
        if image == "two":
            raise HTTPException(503, "the archive does not deliver it")
        return stored_path(image, *values)

    monkeypatch.setattr(background, "stored_path", away)
    progress = bench.run()
    assert (progress.scored, list(progress.problems), progress.is_complete) == (2, ["two"], True)
    monkeypatch.setattr(background, "stored_path", stored_path)
    assert bench.run().scored == 3
    assert bench.opened == ["two"]


def test_an_image_that_goes_away_during_a_pass_is_said_to_be_gone(
    bench: Bench, studies: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = bench.shared.in_background(threading.Event())
    (studies / "two.nii.gz").unlink()
    bench.datastore.refresh()
    bench.scoring._score("two", "key", bench.datastore, network)
    assert "the image 'two' is there no more" in caplog.text
    assert bench.opened == []


def test_an_image_beyond_the_memory_is_left_out(studies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_study(studies / "large.nii.gz", np.zeros((300, 300, 300), np.int16))
    bench = Bench(studies, monkeypatch, score_memory_mib=16)
    assert list(bench.run().problems) == ["large"]
    assert sorted(bench.store.all()) == sorted(NAMES)


@pytest.mark.parametrize("is_link", [False, True])
def test_scores_are_found_under_another_mount_point_of_the_same_studies(
    bench: Bench, studies: Path, is_link: bool
) -> None:
    Sam3DConfig(bench.settings, str(studies)).background.run(bench.datastore)
    assert sorted(bench.opened) == sorted(NAMES)
    elsewhere = studies.parent / "mnt" / "elsewhere"
    elsewhere.parent.mkdir()
    elsewhere.symlink_to(studies) if is_link else studies.rename(elsewhere)
    bench.opened.clear()
    there = VersionedDatastore(str(elsewhere), extensions=("*.nii.gz",))
    progress = Sam3DConfig(bench.settings, str(elsewhere)).background.run(there)
    print(f"under another path {progress.scored} of {progress.total} scores are found, {len(bench.opened)} made")
    assert (progress.scored, progress.total, bench.opened) == (3, 3, [])


def test_scores_of_other_studies_with_the_same_ids_are_others(bench: Bench, studies: Path) -> None:
    Sam3DConfig(bench.settings, str(studies)).background.run(bench.datastore)
    other = studies.parent / "other"
    other.mkdir()
    write(other, "one", 5)
    config = Sam3DConfig(bench.settings, str(other))
    assert config.background.run(VersionedDatastore(str(other), extensions=("*.nii.gz",))).scored == 1
    bench.opened.clear()
    assert Sam3DConfig(bench.settings, str(studies)).background.run(bench.datastore).scored == 3
    assert bench.opened == []


def listings(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many scores there are at each listing of the images."""
    counts, list_images = list[int](), bench.datastore.list_images

    def counted() -> list[str]:
        counts.append(len(bench.store.all()))
        return list_images()

    monkeypatch.setattr(bench.datastore, "list_images", counted)
    return counts


def test_a_pass_lists_the_images_at_its_start_and_its_end_and_not_after_each_score(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = listings(bench, monkeypatch)
    assert bench.run().scored == 3
    print(f"{len(counts)} listings for 3 scores")
    assert counts == [0, 3]
    counts.clear()
    assert bench.run().scored == 3
    assert counts == [3]


def test_a_long_pass_lists_them_now_and_then(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = listings(bench, monkeypatch)
    ticks = iter(range(0, 1000, 4))
    monkeypatch.setattr(background.time, "monotonic", lambda: float(next(ticks)))  # 12 s go by with each score
    bench.run()
    assert counts == [0, 1, 2, 3, 3]


@pytest.mark.parametrize("look_s", [0.0, background.LOOK_S])
def test_an_image_that_comes_during_a_pass_is_scored_by_it(
    bench: Bench, studies: Path, monkeypatch: pytest.MonkeyPatch, look_s: float
) -> None:
    monkeypatch.setattr(background, "LOOK_S", look_s)
    put = bench.store.put

    def put_and_add(score: Any) -> None:
        put(score)
        if not (studies / "four.nii.gz").exists():
            write(studies, "four", 4)
            bench.datastore.refresh()

    monkeypatch.setattr(bench.store, "put", put_and_add)
    progress = bench.run()
    assert (progress.scored, progress.total) == (4, 4)
    assert len(bench.opened) == 4


def test_a_stopped_pass_goes_on_where_it_was(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    put = bench.store.put
    monkeypatch.setattr(bench.store, "put", lambda score: (put(score), bench.scoring.interrupt()))
    progress = bench.run()
    assert (progress.scored, progress.is_running) == (1, False)
    first = list(bench.opened)
    monkeypatch.setattr(bench.store, "put", put)
    assert bench.run().scored == 3
    assert sorted(first + bench.opened) == sorted(NAMES)


def test_nothing_is_asked_of_the_network_while_somebody_is_answered(bench: Bench) -> None:
    asked = threading.Event()
    network = bench.shared.in_background(threading.Event()).network.network
    hook = network.image_encoder.register_forward_pre_hook(lambda *_: asked.set())
    with ThreadPoolExecutor(1) as pool:
        with bench.shared.quiet.busy():
            run = pool.submit(bench.run)
            while not bench.opened:
                time.sleep(0.01)
            assert not asked.wait(0.4)
        assert run.result(60).scored == 3
    assert asked.is_set()
    hook.remove()


def test_a_click_overtakes_a_pass(bench: Bench) -> None:
    """It is answered whole, while the pass, which has images left, stands between two patches."""
    network = bench.shared.in_background(threading.Event()).network.network
    clicking, order = threading.Event(), list[str]()

    def enter(*_: Any) -> None:
        order.append(threading.current_thread().name)
        if len(order) == 1:
            assert clicking.wait(60)  # the click has come, and waits for this patch

    hook = network.image_encoder.register_forward_pre_hook(enter)
    task = Sam3DInfer(bench.shared, VolumeCache(2**24), ReplyFiles())
    original = bench.shared.quiet.busy

    def busy() -> Any:
        clicking.set()
        return original()

    bench.shared.quiet.busy = busy
    thread = threading.Thread(target=bench.run, name="pass")
    thread.start()
    while not order:
        time.sleep(0.01)
    click = threading.Thread(
        target=task, name="click", args=({"image": bench.datastore.get_image_uri("one"), "lesion": [[9, 9, 9]]},)
    )
    click.start()
    click.join(60)
    after = list(order)
    thread.join(60)
    hook.remove()
    assert after[:2] == ["pass", "click"]
    assert set(after[1:]) == {"click"}
    assert order.count("pass") == 3


def test_a_pass_rests_as_its_share_asks(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    rests = list[float]()

    class Event(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            rests.append(timeout)
            return self.is_set()

    ticks = iter(range(0, 1000, 2))
    monkeypatch.setattr(background.time, "monotonic", lambda: float(next(ticks)))
    bench.scoring._asked_to_stop = Event()
    bench.scoring.run(bench.datastore, share=0.25)
    assert rests == [6.0, 6.0, 6.0]


def test_without_a_share_nothing_runs_and_with_one_everything_comes(
    studies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle = Bench(studies, monkeypatch, score_share=0.0)
    idle.scoring.start(idle.datastore)
    assert idle.scoring._thread is None
    bench = Bench(studies, monkeypatch, score_share=1.0)
    monkeypatch.setattr(background, "LOOK_S", 0.05)
    bench.scoring.start(bench.datastore)
    write(studies, "four", 4)
    bench.datastore.refresh()
    limit = time.monotonic() + 60
    while len(bench.pool) < 4 and time.monotonic() < limit:
        time.sleep(0.02)
    bench.scoring.stop()
    assert sorted(bench.store.all()) == sorted([*NAMES, "four"])


@pytest.mark.parametrize("change", ["restart", "new study", "new version"])
def test_next_sample_opens_no_image_whatever_has_changed(bench: Bench, studies: Path, change: str) -> None:
    bench.run()
    if change == "restart":
        bench.restart()
    elif change == "new study":
        write(studies, "four", 4)
        bench.datastore.refresh()
    else:
        bench.publish()
    bench.opened.clear()
    bench.passes.clear()
    strategies = {method: Scored(method, Leases(60.0), bench.pool) for method in METHODS}
    for method in METHODS:
        found = next_case(strategies, {"strategy": method, "client_id": "x"}, bench.datastore, Unopened(Path))
        assert found["id"] in NAMES
        assert found["reason"]
    assert (bench.opened, bench.passes.total()) == ([], 0)


def test_nothing_is_scored_by_weights_that_were_never_trained(studies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_weights(small_network(), card_of(is_trained=False), studies.parent / "small.safetensors")
    bench = Bench(studies, monkeypatch)
    with pytest.raises(HTTPException) as refusal:
        bench.run()
    assert refusal.value.status_code == 409


class App:
    """The part of the app that the door knows."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.methods = {method: PoolScoring(method, bench.scoring, bench.pool) for method in METHODS}

    def scoring(self, request: dict[str, Any]) -> dict[str, Any]:
        return self.methods[request["method"]](request, self.bench.datastore)


@pytest.fixture
def client(bench: Bench) -> TestClient:
    app, api = App(bench), FastAPI()
    api.include_router(scoring_door(ScoringTasks(app, bench.scoring, app.methods)))
    api.include_router(progress_door(bench.scoring))
    return TestClient(api)


def test_a_client_asks_for_scores_and_is_told_how_far_they_are(client: TestClient, bench: Bench) -> None:
    assert client.get("/scoring/").status_code == 404
    gate = bench.shared.quiet.busy()
    with gate:
        task = client.post("/scoring/hybrid").json()
        assert task["request"] == {"method": "hybrid"}
        while not bench.opened:
            time.sleep(0.01)
        running = client.get("/scoring/", params={"check_if_running": True}).json()
        assert (running[0] if isinstance(running, list) else running)["status"] == "RUNNING"
        assert running["details"] == ["scoring: 0 of 3 images by base"]
    limit = time.monotonic() + 60
    while client.get("/scoring/").json()["status"] == "RUNNING" and time.monotonic() < limit:
        time.sleep(0.02)
    done = client.get("/scoring/").json()
    assert (done["id"], done["status"], done["result"]["scored"]) == (task["id"], "DONE", 3)
    assert done["result"]["next"] in NAMES
    assert client.get("/scoring/", params={"check_if_running": True}).status_code == 404


def test_progress_is_told_whoever_asked(client: TestClient, bench: Bench, studies: Path) -> None:
    (studies / "bad.nii.gz").write_bytes(b"no image")
    bench.datastore.refresh()
    assert client.get("/scoring/progress").json()["scored"] == 0
    bench.run()
    told = client.get("/scoring/progress").json()
    assert told["message"] == "scored: 3 of 4 images by base, 1 cannot be scored"
    assert (told["scored"], told["total"], told["unscored"], told["is_running"]) == (3, 4, ["bad"], False)
    assert (told["places"], told["images_an_hour"], told["left_s"]) == (0, 0, 0)


def test_a_pass_tells_its_pace_and_its_end(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    told, ticks = list[background.Progress](), iter(range(0, 10_000, 36))
    monkeypatch.setattr(pace.time, "perf_counter", lambda: float(next(ticks)))
    put = bench.pool.put
    monkeypatch.setattr(bench.pool, "put", lambda found: (put(found), told.append(bench.scoring.progress)))
    bench.run()
    # A score each 36 s; what is told as the third is stored is of two.
    assert told[-1].sentence == "scoring: 2 of 3 images by base, 100 an hour, about 36 s left"
    assert told[-1].as_json()["images_an_hour"] == 100
    # What cannot be scored is not waited for.
    assert background.replace(told[-1], total=4, problems={"bad": ""}).left_s == told[-1].left_s == 36.0
    on_workers = background.replace(told[-1], total=100_002, places=37, per_hour=4800.0)
    assert on_workers.sentence == "scoring: 2 of 100002 images by base on 37 places, 4800 an hour, about 20.8 h left"
    assert bench.scoring.progress.sentence == "scored: 3 of 3 images by base"


def test_a_client_stops_a_scoring_and_another_goes_on(client: TestClient, bench: Bench) -> None:
    with bench.shared.quiet.busy():
        client.post("/scoring/uncertainty")
        while not bench.opened:
            time.sleep(0.01)
        assert client.delete("/scoring/").json()["status"] == "STOPPED"
    result = client.post("/scoring/diversity", params={"run_sync": True}).json()
    assert (result["method"], result["scored"], result["total"]) == ("diversity", 3, 3)
    assert client.delete("/scoring/").json() is None


def test_a_method_that_there_is_not_is_refused_with_those_that_there_are(client: TestClient) -> None:
    refusal = client.post("/scoring/dice")
    assert refusal.status_code == 404
    assert "['diversity', 'hybrid', 'uncertainty']" in refusal.json()["detail"]


def test_of_an_archive_only_opened_series_are_scored_unless_somebody_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    infos = [SeriesInfo(f"P-{number}", f"Doe^{number}") for number in range(2)]
    for info in infos:
        write_image(tmp_path / "files", info, affine_of("LPS"), (24, 22, 20))
    (tmp_path / "studies").mkdir()
    with DemoArchive(tmp_path / "files", free_port(0)) as archive:
        bench = Bench(tmp_path / "studies", monkeypatch)
        datastore = datastore_at(archive.url, tmp_path / "cache", monkeypatch)
        try:
            assert bench.scoring.run(datastore, is_asked=False).total == 0
            datastore.get_image_uri(infos[0].uid())
            bench.scoring.run(datastore, is_asked=False)
            assert list(bench.store.all()) == [infos[0].uid()]
            assert bench.scoring.run(datastore).scored == 2
            assert set(bench.store.all()) == {info.uid() for info in infos}
            assert len(datastore.at_hand()) == 2
        finally:
            datastore.close()


class Workers:
    """A cluster that works in this process, and goes after so many scores; counts what it was asked for."""

    def __init__(self, studies: Path, life: int = 99) -> None:
        self.place, self.life, self.asked = Place(root=studies), life, list[str]()

    def executor(self, weights: Weights) -> Workers:
        self.weights = weights
        return self

    def stream(self, orders: Iterable[Order], is_stopped: Callable[[], bool]) -> Any:
        for order in orders:
            if self.life == 0:
                raise ClusterError("its scheduler has gone")
            self.life -= 1
            self.asked.append(order.image.path)
            yield order, score(Task(order, self.place, self.weights.digest, self.weights.data))


class Way:
    """To clusters that are there one after another, each for one pass; None where there is none."""

    is_set, places, problem = True, 2, "its scheduler has gone"

    def __init__(self, *clusters: Workers | None, comes_back_at: int = 0) -> None:
        self.clusters, self.comes_back_at, self.looks = list(clusters), comes_back_at, 0

    def awaited(self, is_stopped: Callable[[], bool]) -> Workers | None:
        return self.clusters.pop(0) if self.clusters else None

    def now(self) -> object:
        self.looks += 1
        return self if self.looks == self.comes_back_at else None

    def lost(self, error: ClusterError) -> None:
        self.problem = str(error)


def over(bench: Bench, studies: Path, way: Way, root: Path | None = None) -> background.Progress:
    bench.scoring = BackgroundScoring(bench.shared, bench.store, bench.pool, way, root or studies.resolve())
    return bench.run()


def test_what_a_cluster_left_is_scored_here_and_what_comes_back_goes_on(bench: Bench, studies: Path) -> None:
    first, second = Workers(studies, 1), Workers(studies)
    progress = over(bench, studies, Way(first, None, second, comes_back_at=1))
    assert (progress.scored, progress.problems, progress.places) == (3, {}, 0)
    assert (len(first.asked), len(bench.opened), len(second.asked)) == (1, 1, 1)
    assert len({*first.asked, *second.asked, f"{bench.opened[0]}.nii.gz"}) == 3
    there = bench.store.all()
    bench.folder = bench.folder.with_name("alone")
    bench.restart()
    bench.run()
    assert bench.store.all() == there


def test_what_cannot_travel_is_scored_here_once(bench: Bench, studies: Path, tmp_path: Path) -> None:
    workers = Workers(studies)
    way = Way(workers)
    progress = over(bench, studies, way, tmp_path / "elsewhere")
    assert (progress.scored, workers.asked, len(bench.opened)) == (3, [], 3)
    assert way.looks == 0  # for a cluster that could do it


def test_a_version_that_is_published_ends_the_stream_of_orders(bench: Bench, studies: Path) -> None:
    first, second = Workers(studies), Workers(studies)
    put = bench.store.put

    def publish(kept: Any) -> None:
        put(kept)
        if len(first.asked) == 2 and not second.asked:
            bench.publish()

    bench.store.put = publish
    assert over(bench, studies, Way(first, second)).version == "v1"
    assert (len(first.asked), len(second.asked)) == (2, 3)
    assert {kept.version for kept in bench.store.all().values()} == {"v1"}
    assert first.weights.digest != second.weights.digest


def test_without_a_share_only_workers_score(studies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, workers = Bench(studies, monkeypatch, score_share=0.0), Workers(studies, 1)
    bench.scoring = BackgroundScoring(bench.shared, bench.store, bench.pool, Way(workers, None), studies.resolve())
    with pytest.raises(SettingsError, match=r"score_share is 0, and there is no cluster that scores \(its scheduler"):
        bench.scoring.run(bench.datastore, share=0.0)
    assert (len(workers.asked), len(bench.store.all()), bench.opened) == (1, 1, [])
