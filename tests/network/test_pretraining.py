"""Pre-training by chains: the same outcome however it is interrupted or shared, and something is learned."""

import json
from dataclasses import replace

import pytest
import torch

from lib.errors import TrainingError, WeightsError
from lib.learning.distributed import Team, run_together
from lib.pretraining import chain_training
from lib.pretraining.chain_training import ChainPlan, pretrain
from network.small_runs import SMALL

PLAN = ChainPlan(steps=4, batch_size=2, stretch=2, warmup_steps=1, seed=3)


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

    practise, left = chain_training.practise_number, iter(range(7))

    def killed(*order):
        if next(left, None) == 6:  # in the middle of the second stretch
            raise KeyboardInterrupt
        return practise(*order)

    with monkeypatch.context() as patched:
        patched.setattr(chain_training, "practise_number", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "b")
    assert len(losses(tmp_path / "b")) == 1
    assert_same(trained(tmp_path / "b"), unbroken)
    assert losses(tmp_path / "b") == losses(tmp_path / "a")


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
    # Rounding differs: optimisers turn that of small gradients into steps of the usual length, and a click may move.
    assert losses(tmp_path / "two")[0] == pytest.approx(losses(tmp_path / "one")[0], abs=1e-5)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=0.02)
    start = trained(tmp_path / "start", replace(PLAN, learning_rate=0.0))
    moved = torch.cat([(alone[name] - start[name]).flatten() for name in alone])
    apart = torch.cat([(alone[name] - together[name]).flatten() for name in alone])
    assert apart.norm() < 0.1 * moved.norm()


def test_a_run_by_the_clock_ends_when_its_time_is_up_and_its_steps_shrink(tmp_path, monkeypatch):
    ticks = iter(range(0, 10_000, 20))  # seconds
    rates = []
    descend = chain_training.descend
    monkeypatch.setattr(chain_training, "monotonic", lambda: float(next(ticks)))
    monkeypatch.setattr(chain_training, "descend", lambda *a: (rates.append(a[-1]), descend(*a)))
    plan = replace(PLAN, steps=1, minutes=2, warmup_steps=2, stretch=4)
    trained(tmp_path / "a", plan)
    assert len(rates) == 6  # of 20 s each
    assert rates[0] == plan.learning_rate / 2
    assert rates[1:] == sorted(rates[1:], reverse=True)
    assert rates[-1] < 0.1 * plan.learning_rate
    state = torch.load(tmp_path / "a" / "state.pt", weights_only=True)
    assert (state["step"], state["seconds"]) == (6, 120.0)
    trained(tmp_path / "a", plan)  # there is nothing left to do
    assert len(rates) == 6


def test_a_team_larger_than_a_step_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="a step has 2 samples, fewer than 3 processes: raise --batch"):
        trained(tmp_path, team=Team(3, 0))
