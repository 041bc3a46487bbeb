"""What the trainer reads out of requests and of a datastore, without a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monailabel.datastore.local import LocalDatastore

from lib.errors import SettingsError
from lib.trainers.annotated import annotated_cases, value_names
from lib.trainers.sam3d import NICENESS, chosen_options, make_room_for_clicks


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({}, {}),
        ({"model": "sam3d", "max_epochs": 3}, {"max_epochs": 3}),
        ({"max_epochs": [3, 5]}, {"max_epochs": 3}),
        ({"max_epochs": "7"}, {"max_epochs": 7}),
        ({"max_epochs": 7.0}, {"max_epochs": 7}),
        ({"max_epochs": 9, "sam3d": {"max_epochs": [2]}}, {"max_epochs": 2}),
        ({"max_epochs": [], "train_seed": None, "rollback": ""}, {}),
        ({"sam3d": "nonsense", "train_seed": 5}, {"train_seed": 5}),
        ({"rollback": True}, {"rollback": True}),
        ({"rollback": ["false", "true"]}, {"rollback": False}),
        ({"name": "../x", "train_ds": "/etc/passwd", "device": "cuda", "model_folder": "/", "checkpoint": "/x"}, {}),
    ],
)
def test_options_are_read_flat_or_nested_and_all_else_is_ignored(request_: dict[str, Any], expected: Any) -> None:
    assert chosen_options(request_) == expected


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"max_epochs": "many"}, "max_epochs is 'many': it must be a whole number from 1 to 10000"),
        ({"max_epochs": 0}, "max_epochs is '0'"),
        ({"max_epochs": 2.5}, "max_epochs is '2.5'"),
        ({"max_epochs": {"a": 1}}, "max_epochs is"),
        ({"rollback": "perhaps"}, "rollback is 'perhaps': it must be true or false"),
    ],
)
def test_values_that_cannot_be_are_named(request_: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        chosen_options(request_)


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"label_info": [{"name": "tumor", "idx": 2}, {"name": "liver", "idx": 3}]}, {1: "tumor", 2: "liver"}),
        ({"params": {"label_names": {"liver": 1, "tumor": 4}}}, {1: "liver", 4: "tumor"}),
        ({"label_info": "nonsense"}, {}),
        ({"label_info": [{"idx": 1}]}, {}),
        ({"params": None}, {}),
        ({}, {}),
    ],
)
def test_names_come_from_what_was_stored_with_a_label(info: dict[str, Any], expected: dict[int, str]) -> None:
    assert value_names(info) == expected


def test_annotated_images_are_cases(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), tmp_path / f"{name}.nii.gz")
    datastore = LocalDatastore(str(tmp_path), extensions=["*.nii.gz"], auto_reload=False)
    info = {"label_info": [{"name": "tumor"}]}
    for name, tag in (("b", "final"), ("a", "final"), ("c", "original")):
        sent = tmp_path / "sent.nii.gz"
        nibabel.save(nibabel.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4)), sent)
        datastore.save_label(name, str(sent), tag, json.loads(json.dumps(info)))
    cases = annotated_cases(datastore)
    assert [(case.id, case.image.name, dict(case.value_names or {})) for case in cases] == [
        ("a", "a.nii.gz", {1: "tumor"}),
        ("b", "b.nii.gz", {1: "tumor"}),
    ]
    assert all(case.label == tmp_path / "labels" / "final" / f"{case.id}.nii.gz" for case in cases)
    assert all(case.label.is_file() for case in cases)


@pytest.mark.parametrize(("threads", "left"), [(4, 3), (2, 1), (1, 1)])
def test_training_leaves_a_core_to_clicks(threads: int, left: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before, nicer = torch.get_num_threads(), []
    monkeypatch.setattr("lib.trainers.sam3d.os.nice", nicer.append)
    torch.set_num_threads(threads)
    try:
        make_room_for_clicks()
        assert torch.get_num_threads() == left
    finally:
        torch.set_num_threads(before)
    assert nicer == [NICENESS]
