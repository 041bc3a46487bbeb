"""What a server asks of a worker that is to train for it, and what that refuses before it begins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lib.cluster.carrying import Place, Task
from lib.cluster.orders import Order
from lib.datastore.identity import word_in
from lib.datastore.opening import folder_of_labels
from lib.errors import ClusterError, TrainingError, WeightsError
from lib.network.weights import Card
from lib.settings import PRESETS, NetworkSettings, Settings
from lib.trainers import update_order, update_work
from lib.trainers.update_order import ASKED, NAME, REQUESTS, Request, held_files
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
    studies, model = tmp_path / "studies", tmp_path / "model"
    for folder in (studies, model):
        folder.mkdir()
    place, (asked, taken) = Place("cpu", studies, model_folder=model), held_files(model)
    text = REQUESTS.dump_json(request(labels_in=word_in(studies))).decode()
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
        with pytest.raises(ClusterError, match="are others than the server's: name the folder that is served"):
            asked_of(replace(place, root=model))
        assert sorted(path.name for path in model.iterdir()) == [ASKED]  # what is not the server's stays as it was
        assert asked_of(place) == "trained"
        assert taken.text() == "w"
        with pytest.raises(ClusterError, match="the worker that trained is gone"):
            asked_of(place)


def test_an_archives_studies_need_no_folder_but_that_of_their_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, model = "https://archive.example.org/dicom-web", tmp_path / "model"
    monkeypatch.setattr("monailabel.config.settings.MONAI_LABEL_DICOMWEB_CACHE_PATH", str(tmp_path / "cache"))
    monkeypatch.setattr(update_work, "_supervised", lambda _asked, _request, studies, *_: studies)
    text = REQUESTS.dump_json(request(archive=url, labels_in=word_in(folder_of_labels(url)))).decode()
    with held_files(model)[0].holding(text):
        monkeypatch.setattr("monailabel.config.settings.MONAI_LABEL_DICOMWEB_CACHE_PATH", str(tmp_path / "other"))
        with pytest.raises(ClusterError, match="or their labels, are others than the server's"):
            asked_of(Place("cpu", None, model_folder=model))
        monkeypatch.setattr("monailabel.config.settings.MONAI_LABEL_DICOMWEB_CACHE_PATH", str(tmp_path / "cache"))
        assert asked_of(Place("cpu", None, model_folder=model)) == url


def test_other_weights_than_the_servers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update_work, "open_network", lambda _: (None, replace(CARD, sha256="c")))
    with pytest.raises(WeightsError, match="are others than the server's: put them into the model folder"):
        update_work._result(request(), str(tmp_path), Settings())


@pytest.mark.parametrize(
    ("conf", "resources", "is_asked", "said"),
    [
        ({"device": "cpu"}, {}, False, ""),
        ({"device": "cpu", "cluster": "tcp://127.0.0.1:9"}, {"GPU": 2.0}, False, "no worker has a GPU and was started"),
        ({"device": "cpu", "cluster": "tcp://127.0.0.1:9"}, {"training": 1.0}, False, "this machine trains"),
        ({"device": "cpu", "cluster": "tcp://127.0.0.1:9"}, None, False, "does not answer: this machine trains"),
        ({"device": "cpu", "cluster": "tcp://127.0.0.1:9"}, {"GPU": 2.0, "training": 1.0}, True, ""),
        ({"device": "cuda", "cluster": "tcp://127.0.0.1:9"}, {"GPU": 2.0, "training": 1.0}, False, ""),
    ],
)
def test_a_worker_is_asked_where_it_can_what_this_machine_cannot(
    conf: dict[str, str],
    resources: dict[str, float] | None,
    is_asked: bool,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pytest.importorskip("distributed", reason="needs the extra `cluster`: make setup CLUSTER=1")

    class Cluster:
        def __init__(self, *_: object) -> None:
            if resources is None:
                raise ClusterError("the cluster does not answer")
            self.resources = resources

        def close(self) -> None:
            pass

    monkeypatch.setattr("lib.cluster.dask_client.DaskCluster", Cluster)
    monkeypatch.setattr(update_order, "device_named", torch.device)
    assert (update_order.cluster_for_training(Settings.from_conf(conf)) is not None) == is_asked
    assert said in caplog.text
    assert bool(caplog.text) == bool(said)
