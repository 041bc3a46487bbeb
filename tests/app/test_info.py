"""What /info/ must be for both viewers to list the app at all."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from serving import Server

pytestmark = pytest.mark.app


def test_labels_are_a_list_with_background_last(server: Server) -> None:
    assert server.info()["labels"] == ["Gefäß", "liver", "tumor", "background"]  # T8


def test_without_conf_the_labels_are_lesion_and_organ(cramped_server: Server) -> None:
    info = cramped_server.info()
    assert info["labels"] == ["lesion", "organ"]
    assert info["models"]["sam3d"]["labels"] == {"lesion": 1, "organ": 2}


def test_both_viewers_list_the_models(server: Server) -> None:
    models = server.info()["models"]
    assert {name: model["type"] for name, model in models.items()} == {
        "sam3d": "deepedit",
        "sam3d_auto": "segmentation",
    }
    for model in models.values():
        assert model["dimension"] == 3
        assert isinstance(model["description"], str)


def test_model_labels_count_from_one_in_the_order_ohif_sorts_them(server: Server) -> None:
    for model in server.info()["models"].values():
        names = [name for name in model["labels"] if name != "background"]
        assert names == sorted(names)
        assert list(model["labels"].values()) == list(range(1, len(model["labels"]) + 1))


def test_lists_in_a_config_hold_strings(server: Server) -> None:
    info = server.info()
    tasks = [*info["models"].values(), *info["trainers"].values(), *info["strategies"].values()]
    lists = [value for task in tasks for value in task.get("config", {}).values() if isinstance(value, list)]
    assert all(isinstance(choice, str) for choices in lists for choice in choices)


def test_no_config_key_is_a_label(server: Server) -> None:
    info = server.info()
    for model in info["models"].values():
        assert not set(model["config"]) & set(info["labels"])  # T4


def test_strategies_and_scoring_methods_have_their_own_names(server: Server) -> None:
    info = server.info()
    assert list(info["strategies"]) == ["first", "random", "diversity", "uncertainty", "hybrid"]
    assert list(info["scoring"]) == ["diversity", "uncertainty", "hybrid"]


def test_the_name_random_answers_what_the_settings_say(server: Server, cramped_server: Server) -> None:
    assert server.conf["next_sample"] == "first"
    for running, method in ((server, "first"), (cramped_server, "hybrid")):
        strategies = running.info()["strategies"]
        assert strategies["random"] == strategies[method]


def test_cases_are_counted_by_how_far_they_are(server: Server) -> None:
    assert {"labeled", "skipped", "pre-annotated"} <= server.info()["datastore"].keys()


def test_every_number_is_finite(server: Server) -> None:
    def numbers(value: Any) -> list[float]:
        if isinstance(value, dict):
            return [number for item in value.values() for number in numbers(item)]
        if isinstance(value, list):
            return [number for item in value for number in numbers(item)]
        return [value] if isinstance(value, int | float) else []

    info = server.info()
    assert all(math.isfinite(number) for number in numbers(info))
    json.dumps(info, allow_nan=False)
    assert info["datastore"]["total"] > 0
