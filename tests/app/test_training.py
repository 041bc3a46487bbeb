"""Update Model as the viewers start it: over HTTP, in the server's own sub-process, while clicks go on."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lib.weights.versions import VersionStore, open_served, versions_folder
from network.small_runs import ball_cases, small_card, small_network, small_settings
from serving import APP, REQUEST_LIMIT_S, Server

pytestmark = [pytest.mark.app, pytest.mark.slow]

RUN_LIMIT_S = 600.0
CLICK = {"lesion": [[10, 10, 10]], "background": []}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("training")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    """Five images whose balls nobody has annotated yet, and weights that know nothing."""
    settings = small_settings(folder)
    cases = ball_cases(folder / "studies", 5)
    for case in cases:
        case.label.rename(folder / case.label.name)
    conf = {"checkpoint": str(settings.checkpoint), "model_folder": str(settings.model_folder), "labels": "lesion"}
    with Server(folder / "server", folder / "studies", {**conf, "steps_per_epoch": "3"}) as running:
        yield running


@pytest.fixture(scope="module")
def annotated(server: Server, folder: Path) -> Server:
    """The same, once all labels were submitted as 3D Slicer submits them."""
    for label in sorted(folder.glob("*_label.nii.gz")):
        image = label.name.removesuffix("_label.nii.gz")
        params = {"label_info": [{"name": "lesion", "idx": 1}], "model": "sam3d", "client_id": "test"}
        answer = server.http.put(
            f"{server.url}/datastore/label",
            params={"image": image, "tag": "final"},
            data={"params": json.dumps(params)},
            files={"label": (f"/home/user/{image}.nii.gz", label.read_bytes())},
            timeout=REQUEST_LIMIT_S,
        )
        assert answer.ok, answer.text
    return server


def store_of(folder: Path) -> VersionStore:
    settings = small_settings(folder)
    return VersionStore(versions_folder(settings), open_served(settings).base)


def post_training(server: Server, body: dict[str, Any], trainer: str = "sam3d") -> None:
    answer = server.http.post(f"{server.url}/train/{trainer}", json=body, timeout=REQUEST_LIMIT_S)
    assert answer.ok, answer.text


def check_refused(server: Server, body: dict[str, Any], code: int, sentence: str, trainer: str = "sam3d") -> None:
    answer = server.http.post(f"{server.url}/train/{trainer}", json=body, timeout=REQUEST_LIMIT_S)
    assert answer.status_code == code, answer.text
    assert answer.json()["detail"].startswith(sentence)


def status(server: Server) -> dict[str, Any]:
    answer = server.http.get(f"{server.url}/train/", timeout=REQUEST_LIMIT_S)
    return answer.json() if answer.ok else {}


def wait_for(server: Server, is_reached: Callable[[], bool], doing: Callable[[], None] = lambda: None) -> None:
    limit = time.monotonic() + RUN_LIMIT_S
    while not is_reached():
        assert time.monotonic() < limit, f"{status(server)}\n{server.log_tail()}"
        doing()
        time.sleep(0.3)


def finished(server: Server, doing: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """The state of the last run, once it has ended."""
    wait_for(server, lambda: status(server)["status"] not in ("SUBMITTED", "RUNNING"), doing)
    return status(server)


def click(server: Server) -> str:
    """The version that answers a click."""
    reply = server.infer(CLICK, image="case_0")
    assert reply.status == 200, reply.detail
    assert reply.mask is not None
    assert reply.mask[10, 10, 10] == 1
    return str(reply.params["model_version"])


def is_finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(is_finite(each) for each in value.values())
    return not isinstance(value, float) or math.isfinite(value)


def test_info_lists_the_trainer_as_both_viewers_read_it(server: Server) -> None:
    info = server.info()
    trainer, stats = info["trainers"]["sam3d"], info["train_stats"]["sam3d"]
    assert trainer["config"] == {"max_epochs": 10, "rollback": False}
    assert {"epoch", "total_epochs", "best_metric"} <= stats.keys()
    assert stats["total_epochs"] >= 1
    assert is_finite(stats)
    assert "total_time" not in stats, "with it OHIF shows no progress"


@pytest.mark.parametrize("trainer", ["sam3d", ""])
def test_training_without_labels_is_refused_at_the_press(server: Server, trainer: str) -> None:
    check_refused(server, {}, 409, "there is nothing to learn from: no case has a label yet", trainer)
    assert status(server) == {}


def test_clicks_are_answered_while_it_trains_and_paths_of_a_request_mean_nothing(
    annotated: Server, folder: Path
) -> None:
    evil = folder / "evil"
    paths = {"name": str(evil), "train_ds": "/etc/passwd", "val_ds": "/etc/passwd", "model_filename": "../x.pt"}
    post_training(annotated, {"max_epochs": 2, "client_id": "test", "device": ["cuda"], **paths})
    answers: list[str] = []
    ended = finished(annotated, doing=lambda: answers.append(click(annotated)))
    assert ended["status"] == "DONE", ended
    assert answers
    assert set(answers) <= {"small", "small+v1"}
    assert not evil.exists()
    text = "\n".join(ended["details"])
    assert "epoch   2 of 2 [####################]" in text
    stats = annotated.info()["train_stats"]["sam3d"]
    assert (stats["epoch"], stats["total_epochs"], stats["state"]) == (2, 2, "done")
    assert stats["total_time"].endswith(" s")
    assert is_finite(stats)
    assert stats["message"] in annotated.info()["trainers"]["sam3d"]["description"]
    store = store_of(folder)
    assert [*store.published(), *store.candidates()] == ["v1"]


def test_ohifs_way_to_start_all_trainers_sends_lists_below_the_name(annotated: Server) -> None:
    post_training(annotated, {"sam3d": {"max_epochs": [3, 5], "rollback": [False]}}, trainer="")
    assert finished(annotated)["status"] == "DONE"
    assert annotated.info()["train_stats"]["sam3d"]["total_epochs"] == 3


def test_values_that_cannot_be_are_named_at_the_press(annotated: Server) -> None:
    check_refused(annotated, {"max_epochs": "many"}, 400, "max_epochs is 'many': it must be a whole number from 1 to")


def test_a_new_version_answers_the_next_click_and_a_rollback_over_http_undoes_it(
    annotated: Server, folder: Path
) -> None:
    before = click(annotated)
    name = store_of(folder).publish(small_network(7), small_card(), kept=5)
    assert "another version follows" in annotated.info()["models"]["sam3d"]["description"]
    assert click(annotated) == f"small+{name}"
    info = annotated.info()
    assert f"weights small+{name}" in info["models"]["sam3d"]["description"]
    assert f"serves {name}" in info["trainers"]["sam3d"]["description"]
    post_training(annotated, {"rollback": True})
    ended = finished(annotated)
    assert ended["status"] == "DONE"
    assert any("rolled back: " in line for line in ended["details"])
    assert click(annotated) == before


def test_a_damaged_version_is_passed_over_and_it_is_said(annotated: Server, folder: Path) -> None:
    before, store = click(annotated), store_of(folder)
    name = store.publish(small_network(8), small_card(), kept=5)
    store.path(name).write_bytes(b"half a file")
    assert click(annotated) == before
    assert f"version {name} is not served" in annotated.info()["models"]["sam3d"]["description"]
    store.rollback()
    assert click(annotated) == before


def test_a_run_that_is_stopped_changes_nothing_and_the_next_one_works(annotated: Server, folder: Path) -> None:
    before, kept = click(annotated), sorted(path.name for path in store_of(folder).folder.glob("v*"))
    post_training(annotated, {"max_epochs": 10_000})

    def is_training() -> bool:
        stats = annotated.info()["train_stats"]["sam3d"]
        return stats["total_epochs"] == 10_000 and stats["epoch"] >= 1

    wait_for(annotated, is_training)
    for trainer in ("sam3d", ""):
        check_refused(annotated, {}, 429, "a training is running already: wait for its end, or stop it", trainer)
    stats = annotated.info()["train_stats"]["sam3d"]
    assert stats["state"] == "running"
    assert "total_time" not in stats
    stopped = annotated.http.delete(f"{annotated.url}/train/", timeout=REQUEST_LIMIT_S).json()
    assert stopped["status"] == "STOPPED"
    # A process that is killed takes a moment to die.
    wait_for(annotated, lambda: annotated.info()["train_stats"]["sam3d"]["state"] != "running")
    stats = annotated.info()["train_stats"]["sam3d"]
    assert stats["state"] == "stopped"
    assert stats["message"].startswith("stopped in epoch ")
    assert click(annotated) == before
    assert sorted(path.name for path in store_of(folder).folder.glob("v*")) == kept
    post_training(annotated, {"max_epochs": 1})
    assert finished(annotated)["status"] == "DONE"


def test_another_machine_trains_by_the_command_and_the_servers_next_click_has_the_version(
    annotated: Server, folder: Path
) -> None:
    """Another process, which sees both folders under other paths, as by a mount, and does not store in the studies."""
    store = store_of(folder)
    while store.published():
        store.rollback()
    assert click(annotated) == "small"
    mounted = folder / "mnt"
    mounted.mkdir()
    for name in ("studies", "model"):
        (mounted / name).symlink_to(folder / name)
    labels = {path: path.read_bytes() for path in (folder / "studies" / "label_versions").rglob("*.nii.gz")}
    settings = small_settings(folder)
    options = {
        **{"studies": mounted / "studies", "model-folder": mounted / "model", "checkpoint": settings.checkpoint},
        **{"labels": "lesion", "device": "cpu", "max-epochs": 6, "steps-per-epoch": 10, "learning-rate": 0.005},
        **{"publish-margin": 0, "max-label-drop": 1, "trust-labels": "true"},
    }
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(APP / "cli.py"), "update", *words]
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=RUN_LIMIT_S)
    assert run.returncode == 0, run.stderr
    [name] = store.published()
    assert run.stdout.startswith(f"{name} published")
    assert click(annotated) == f"small+{name}"
    assert annotated.info()["train_stats"]["sam3d"]["message"].startswith(f"{name} published")
    assert {path: path.read_bytes() for path in labels} == labels
    assert "only_reads" not in annotated.info()["datastore"]
