"""Training on labelled cases: the same outcome however it is interrupted or shared, and weights that answer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lib import memory
from lib.boxes import bounding_box
from lib.datasets.known import DATASETS
from lib.errors import TrainingError, WeightsError
from lib.images.volumes import open_volume
from lib.interactive.predictor import load_predictor
from lib.interactive.prompts import prompts_from_request
from lib.learning.case_cache import CaseCache
from lib.learning.dataset_plan import DatasetPlan
from lib.learning.distributed import Team, run_together
from lib.learning.recipes import INTERACTIVE, PUBLISHED, TUNE_ADAPTERS, TUNE_ALL, TUNE_PUBLISHED
from lib.learning.resumable import LOG
from lib.memory import Thrift, check_memory, training_gib
from lib.network.weights import save_weights
from lib.pretraining import dataset_training
from lib.pretraining.dataset_learner import DatasetLearner, tuned_parameters
from lib.pretraining.dataset_training import DatasetOrder, plan_of, prepare, train
from lib.published.augmentation import CropRecipe
from lib.published.teaching import PublishedTeaching
from lib.published.volumes import ResampledCases
from lib.settings import VARIANTS, Settings
from network.small_networks import PUBLISHED_SMALL
from network.small_runs import SMALL, ball, write_case

N_CASES = 6


@pytest.fixture(autouse=True)
def small_variants(monkeypatch: pytest.MonkeyPatch) -> None:
    add_small_variants(monkeypatch.setitem)


def add_small_variants(put) -> None:
    put(VARIANTS, "small", SMALL)
    put(VARIANTS, "small_published", PUBLISHED_SMALL)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six cases as *_image.nii.gz with *_label.nii.gz, a bright ball in each."""
    folder, rng = tmp_path_factory.mktemp("pairs"), np.random.default_rng(5)
    for number in range(N_CASES):
        case = write_case(folder, f"case_{number}", ball(tuple(rng.uniform(7, 13, 3))), seed=number)
        case.image.rename(folder / f"case_{number}_image.nii.gz")
    return folder


def order_in(folder: Path, pairs: Path, **changes) -> DatasetOrder:
    usual = {"recipe": PUBLISHED, "variant": "small", "steps": 8, "batch": 2, "preset": "ct", "seed": 3}
    return DatasetOrder(DATASETS["folder"], pairs, folder, **{**usual, **changes})


def trained(folder: Path, pairs: Path, team: Team | None = None, **changes):
    order = order_in(folder, pairs, **changes)
    return train(order, prepare(order), team or Team())


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def assert_same(first, second, tolerance=0.0):
    for name, tensor in first.state_dict().items():
        torch.testing.assert_close(tensor, second.state_dict()[name], atol=tolerance, rtol=0)


@pytest.mark.parametrize("recipe", [PUBLISHED, INTERACTIVE])
def test_a_killed_run_goes_on_to_the_same_curve_and_weights(recipe, pairs, tmp_path, monkeypatch):
    if recipe == INTERACTIVE:
        monkeypatch.setattr(dataset_training, "INTERACTIVE_STRETCH", 2)
    unbroken, _ = trained(tmp_path / "a", pairs, recipe=recipe)
    calls = []

    def killed(self, step, *rest):
        calls.append(step)
        if step == 5:  # in the middle of the third epoch
            raise KeyboardInterrupt
        return update(self, step, *rest)

    update = DatasetLearner.update
    with monkeypatch.context() as patched:
        patched.setattr(DatasetLearner, "update", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "b", pairs, recipe=recipe)
    resumed, card = trained(tmp_path / "b", pairs, recipe=recipe)
    assert calls == [0, 1, 2, 3, 4, 5]
    assert log_of(tmp_path / "b") == log_of(tmp_path / "a")
    assert [entry["step"] for entry in log_of(tmp_path / "a")] == [2, 4, 6, 8]
    assert len({entry["loss"] for entry in log_of(tmp_path / "a")}) == 4
    assert_same(resumed, unbroken)
    assert card.figures["validation_loss"] == pytest.approx(
        min(e["validation_loss"] for e in log_of(tmp_path / "a")), 1e-5
    )


def test_a_kill_before_the_state_was_written_leaves_no_line_twice(pairs, tmp_path, monkeypatch):
    unbroken, _ = trained(tmp_path / "a", pairs)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("lib.learning.resumable._save", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "b", pairs)
    assert len(log_of(tmp_path / "b")) == 1
    with (tmp_path / "b" / LOG).open("a") as log:
        log.write('{"step": 3, "lo')  # cut in the middle
    assert_same(trained(tmp_path / "b", pairs)[0], unbroken)
    assert log_of(tmp_path / "b") == log_of(tmp_path / "a")


def test_a_folder_of_another_plan_is_not_gone_on_with(pairs, tmp_path):
    trained(tmp_path / "a", pairs, steps=2)
    with pytest.raises(WeightsError, match="a holds a run of another plan"):
        trained(tmp_path / "a", pairs, steps=4)


def share(team: Team, folder: Path, pairs: Path) -> None:
    torch.set_num_threads(1)
    add_small_variants(lambda mapping, name, value: mapping.__setitem__(name, value))
    network, _ = trained(folder, pairs, team, steps=5, batch=4)
    if team.is_leader:
        torch.save(network.state_dict(), folder / "best.pt")


@pytest.mark.slow
def test_two_processes_learn_as_one(pairs, tmp_path):
    alone, _ = trained(tmp_path / "one", pairs, steps=5, batch=4)
    run_together(2, "gloo", share, tmp_path / "two", pairs)
    one, two = log_of(tmp_path / "one"), log_of(tmp_path / "two")
    assert [entry["step"] for entry in one] == [1, 2, 3, 4, 5]
    for first, second in zip(one, two, strict=True):
        assert second == pytest.approx(first, abs=1e-5)
    together = torch.load(tmp_path / "two" / "best.pt", weights_only=True)
    for name, tensor in alone.state_dict().items():
        torch.testing.assert_close(together[name], tensor, atol=1e-4, rtol=0)


def test_a_team_larger_than_a_step_is_refused(pairs, tmp_path):
    with pytest.raises(TrainingError, match="a step has 2 patches, fewer than 3 processes: raise --batch"):
        trained(tmp_path, pairs, Team(3, 0))


def test_learning_lowers_the_loss_and_the_result_answers_clicks(pairs, tmp_path):
    network, card = trained(tmp_path, pairs, recipe=INTERACTIVE, steps=120, rounds=2, spacing_mm=1.5)
    first, *_, last = log_of(tmp_path)
    assert last["loss"] < 0.8 * first["loss"]
    path = tmp_path / "new.safetensors"
    save_weights(network, card, path)
    predictor = load_predictor(Settings.from_conf({"checkpoint": str(path), "device": "cpu"}))
    volume = open_volume(pairs / "case_0_image.nii.gz")
    clicks = prompts_from_request({"lesion": [[10, 10, 10]]}, ("lesion", "organ"), volume.shape)
    label_map = predictor.segment(volume, clicks).label_map
    truth = open_volume(pairs / "case_0_label.nii.gz").array > 0
    assert 2 * (label_map & truth).sum() / (label_map.sum() + truth.sum()) > 0.5


def test_the_best_state_is_handed_out_and_not_the_last(pairs, tmp_path, monkeypatch):
    losses = iter([0.5, 0.4, 0.6])
    monkeypatch.setattr(PublishedTeaching, "validate", lambda *_: (next(losses), 0.5))
    network, card = trained(tmp_path / "a", pairs, steps=6)
    assert card.figures["validation_loss"] == 0.4
    assert [entry["validation_loss"] for entry in log_of(tmp_path / "a")] == [0.5, 0.4, 0.6]
    state = torch.load(tmp_path / "a" / "state.pt", weights_only=True)
    best = state["best"]
    assert best
    for name, tensor in best.items():
        assert torch.equal(network.state_dict()[name], tensor)
    assert any(not torch.equal(tensor, state["network"][name]) for name, tensor in best.items())


def test_what_the_published_recipe_leaves_alone_stays_as_it_was(pairs, tmp_path):
    network, card = trained(tmp_path, pairs, variant="small_published", steps=4)
    start = dataset_training.beginning(order_in(tmp_path, pairs, variant="small_published"))[0].state_dict()
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, start[name])}
    tuned = set(tuned_parameters(network, TUNE_PUBLISHED))
    assert changed <= tuned
    # No point of the published recipe is a background click, and this network reads no kinds.
    assert tuned - changed >= {"prompt_encoder.background_embedding"}
    assert {name for name in tuned if ".norm1." in name} <= changed
    assert (card.has_background_clicks, card.has_automatic_mode, card.has_antialiasing) == (False, False, False)


def test_the_recipes_numbers_are_the_published_ones(pairs, tmp_path):
    order = order_in(tmp_path, pairs, steps=None, batch=None)
    plan = plan_of(order, prepare(order))
    assert (plan.steps, plan.steps_per_epoch, plan.batch_size) == (500 * 4, 4, 1)
    assert (plan.learning_rate, plan.weight_decay, plan.tune, plan.max_gradient_norm) == (
        4e-4,
        0.0,
        TUNE_PUBLISHED,
        1.0,
    )
    rates = [plan.learning_rate_at(step) for step in (0, 3, 4, 1000, 1999)]
    assert rates == pytest.approx(
        [4e-4, 4e-4, 4e-4 * (1 - 0.99 / 500), 4e-4 * (1 - 0.99 / 2), 4e-4 * (1 - 0.99 * 499 / 500)]
    )
    interactive = replace(order, recipe=INTERACTIVE)
    assert plan_of(interactive, prepare(interactive)).tune == TUNE_ALL
    begun = replace(interactive, checkpoint=Path("x.safetensors"))
    assert plan_of(begun, prepare(begun)).tune == TUNE_ADAPTERS


def test_an_epoch_shows_every_case_once_and_validates_in_the_middle_of_the_target(pairs, tmp_path):
    order = order_in(tmp_path, pairs)
    prepared = prepare(order)
    cases = ResampledCases(prepared.cases, 1, None, prepared.intensity, 1.5)
    seen = []

    class Watched:
        def open(self, name, cache):
            seen.append(name)
            return cases.open(name, cache)

    plan = DatasetPlan(PUBLISHED, steps=8, steps_per_epoch=4)
    names = prepared.split.training
    crops = CropRecipe(16)
    cache = CaseCache(tmp_path / "cache", 2**30)
    teaching = PublishedTeaching(Watched(), cache, names, prepared.split.validation, plan, crops)
    for number in range(8):
        assert teaching.sample(number).patch.shape == (16, 16, 16)
    assert sorted(seen[:4]) == sorted(seen[4:]) == names
    assert seen[:4] != seen[4:]
    drawn = teaching.validation_sample(0)
    box = bounding_box(drawn.target > 0)
    assert [abs(part.start + part.stop - 16) <= 1 for part in box] == [True] * 3
    bright = drawn.patch[drawn.target > 0].mean()
    assert bright > drawn.patch[drawn.target == 0].mean() + 0.8


def test_memory_is_estimated_near_what_was_measured():
    vit_b = VARIANTS["vit_b"]
    assert 8 < training_gib(vit_b, Thrift(is_checkpointed=True)) < 10.9
    assert 33 < training_gib(vit_b, Thrift()) < 37
    assert training_gib(vit_b, Thrift(True, True)) < training_gib(vit_b, Thrift(True)) - 2
    assert training_gib(VARIANTS["tiny"], Thrift()) < 1.5


def test_memory_that_runs_out_says_what_to_change(pairs, tmp_path, monkeypatch):
    def full(*_):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(DatasetLearner, "update", full)
    with pytest.raises(TrainingError, match="memory ran out while training small: give --activation-checkpointing on"):
        trained(tmp_path, pairs)


def test_too_little_memory_is_refused_before_anything_is_trained(pairs, tmp_path, monkeypatch):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       24000000 kB\nMemAvailable:    3145728 kB\n")
    monkeypatch.setattr(memory, "MEMINFO", meminfo)
    with pytest.raises(TrainingError, match=r"training vit_b takes about \d+\.\d GiB and 3\.0 GiB are free: give"):
        check_memory("vit_b", VARIANTS["vit_b"], Thrift(True), torch.device("cpu"))
    check_memory("tiny", VARIANTS["tiny"], Thrift(), torch.device("cpu"))
    meminfo.write_text("MemAvailable:    1024 kB\n")
    with pytest.raises(TrainingError, match="training small takes about"):
        trained(tmp_path / "run", pairs)
    assert not (tmp_path / "run" / LOG).exists()
