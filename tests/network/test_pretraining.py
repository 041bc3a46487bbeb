"""Pre-training on synthetic patches: the same outcome however it is interrupted or shared."""

import json
from dataclasses import replace

import pytest
import torch

from lib.errors import TrainingError, WeightsError
from lib.learning.distributed import Team, run_together
from lib.pretraining.synthetic import PretrainingPlan, pretrain
from network.small_runs import SMALL

PLAN = PretrainingPlan(steps=4, batch_size=2, stretch=2, warmup_steps=1, seed=3)


def trained(folder, plan=PLAN, **values):
    return pretrain(SMALL, plan, folder, **values).state_dict()


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def assert_same(first, second, tolerance=0.0):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], atol=tolerance, rtol=0)


def test_a_seed_gives_the_same_weights_and_another_seed_others(tmp_path):
    first, second = trained(tmp_path / "a"), trained(tmp_path / "b")
    assert_same(first, second)
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    other = trained(tmp_path / "c", replace(PLAN, seed=4))
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_an_interrupted_run_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    unbroken = trained(tmp_path / "a")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("lib.pretraining.synthetic.dice_of", _after(3, killed))  # in the middle of the second stretch
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "b")
    assert len(losses(tmp_path / "b")) == 1
    assert_same(trained(tmp_path / "b"), unbroken)
    assert losses(tmp_path / "b") == losses(tmp_path / "a")


def _after(calls, act):
    from lib.learning.training import dice_of

    left = [calls]

    def count(*args):
        left[0] -= 1
        return act() if left[0] < 0 else dice_of(*args)

    return count


def test_a_folder_of_another_plan_is_not_gone_on_with(tmp_path):
    trained(tmp_path / "a", replace(PLAN, steps=2))
    with pytest.raises(WeightsError, match="a holds a run of another plan: name a new folder, or the same plan"):
        trained(tmp_path / "a", PLAN)


def test_it_begins_with_the_weights_it_is_given(tmp_path):
    start = trained(tmp_path / "a")
    still = replace(PLAN, steps=1, learning_rate=0.0)
    assert_same(trained(tmp_path / "b", still, start=start), start, tolerance=1e-6)


def share(team, folder):
    torch.set_num_threads(1)
    trained(folder, team=team)


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    alone = trained(tmp_path / "one")
    run_together(2, "gloo", share, tmp_path / "two")
    together = torch.load(tmp_path / "two" / "state.pt", weights_only=True)["average"]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
    # Adam turns rounding of gradients near zero into steps; weights moved by some 8e-3.
    assert_same({name: together[name] for name in alone}, alone, tolerance=1e-3)


def test_a_team_larger_than_a_step_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="a step has 2 patches, fewer than 3 processes: raise --batch"):
        trained(tmp_path, team=Team(3, 0))
