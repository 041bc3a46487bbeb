"""What a server asks of a worker that is to train for it, and what that refuses before it begins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lib.cluster.carrying import Place, Task
from lib.cluster.orders import Order
from lib.errors import ClusterError, TrainingError
from lib.network.weights import Card
from lib.settings import PRESETS, NetworkSettings, Settings
from lib.trainers import update_order, update_work
from lib.trainers.update_order import NAME, REQUESTS, Request, held_files
from lib.trainers.update_work import update

CARD = Card("tiny", NetworkSettings(), PRESETS["ct"], 1.0)
CONF = {"labels": "b,a", "preset": "mr", "clip_low": "2", "learning_rate": "0.01", "train_seed": "3"}


def request(**values: object) -> Request:
    return Request(**{"word": "w", "archive": "", "labels_in": "l", "base": "b", "settings": Settings(), **values})


def asked_of(place: Place) -> object:
    return update(Task(Order(NAME, "w"), place, "", b""))


def test_settings_travel_as_they_are_but_for_what_is_this_servers_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No secret's path, no cluster, and weights by their place in the model folder."""
    secret, model = tmp_path / "secret", tmp_path / "model"
    conf = {**CONF, "model_folder": str(model), "checkpoint": str(model / "weights" / "x.safetensors")}
    settings = Settings.from_conf({**conf, "openid_secret_file": str(secret), "cluster": "tcp://127.0.0.1:9"})
    monkeypatch.setattr(update_order, "open_network", lambda _: (None, replace(CARD, sha256="b")))
    sent = update_order._request(settings, str(tmp_path))
    text = REQUESTS.dump_json(sent)
    assert str(secret).encode() not in text
    assert b"tcp://" not in text
    assert REQUESTS.validate_json(text) == sent
    there = update_work._here(sent.settings, Path("/mnt/model"), "cuda:1")
    plain = Settings.from_conf(CONF)
    assert there == replace(
        plain,
        variant=settings.variant,
        network=settings.network,
        model_folder=Path("/mnt/model"),
        checkpoint=Path("/mnt/model/weights/x.safetensors"),
        device="cuda:1",
        training=replace(plain.training, multi_gpu=False),
    )


def test_weights_beyond_the_model_folder_are_named_by_their_place(tmp_path: Path) -> None:
    assert update_order._shared(tmp_path / "x.safetensors", tmp_path / "model") == tmp_path / "x.safetensors"
    assert update_order._shared(None, tmp_path) is None


def test_labels_that_may_only_be_read_are_not_sent_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update_order, "word_in", lambda _: "")
    with pytest.raises(TrainingError, match="the folder of labels may only be read"):
        update_order._request(Settings(), str(tmp_path))


def test_a_worker_refuses_what_it_cannot_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update_work, "_supervised", lambda *_: "trained")
    place, asked = Place("cpu", tmp_path, model_folder=tmp_path), held_files(tmp_path)[0]
    text = REQUESTS.dump_json(request()).decode()
    with pytest.raises(ClusterError, match="takes no trainings: start it with --model-folder"):
        asked_of(replace(place, model_folder=None))
    for other in ("", "{", REQUESTS.dump_json(request(word="other")).decode()):
        with asked.holding(other), pytest.raises(ClusterError, match="--model-folder is not the server's"):
            asked_of(place)
    with asked.holding(text):
        pass
    with pytest.raises(ClusterError, match="locks on the model folder are not shared; mount it by NFS of version 4"):
        asked_of(place)
    with asked.holding(text):
        with pytest.raises(ClusterError, match="no folder of studies: start it with --root"):
            asked_of(replace(place, root=None))
        assert asked_of(place) == "trained"
        assert held_files(tmp_path)[1].text() == "w"
        with pytest.raises(ClusterError, match="the worker that trained is gone"):
            asked_of(place)


def test_an_archives_studies_need_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update_work, "_supervised", lambda _asked, _request, studies, *_: studies)
    with held_files(tmp_path)[0].holding(REQUESTS.dump_json(request(archive="https://a.example/dicom")).decode()):
        assert asked_of(Place("cpu", None, model_folder=tmp_path)) == "https://a.example/dicom"
