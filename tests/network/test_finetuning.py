"""Fine-tuning: what moves and what does not, what is reproducible, and what memory and processes change: nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lib.errors import TrainingError
from lib.learning.distributed import Team, run_together
from lib.learning.made_volumes import PLAIN_USES, MadeVolumes, shown_plain
from lib.learning.pools import Mixture
from lib.learning.training import ClickPlan, backward_step, training_step
from lib.learning.training_loop import Epoch
from lib.network.deltas import tuned_names
from lib.retraining.finetuning import FinetuningPlan, finetune, learn_chains, plan_for
from lib.settings import TrainingSettings
from small_runs import ball_stream, save_after_training, small_network, train_on_balls

PLAN = FinetuningPlan(epochs=6, steps_per_epoch=1, learning_rate=1e-3, clicks=ClickPlan(rounds=3, automatic_share=0.0))


def losses_of(plan: FinetuningPlan, seed: int = 0) -> list[float]:
    epochs: list[Epoch] = []
    train_on_balls(small_network(), plan, epochs.append, seed)
    return [epoch.loss for epoch in epochs]


def test_frozen_tensors_keep_every_bit_and_every_tuned_one_moves() -> None:
    network, before = small_network(), small_network().state_dict()
    train_on_balls(network, PLAN, lambda _: None)
    tuned, after = set(tuned_names(network)), network.state_dict()
    assert len(tuned) > 100
    for name in before:
        assert torch.equal(after[name], before[name]) is (name not in tuned), name
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert {name for name, parameter in network.named_parameters() if parameter.grad is not None} == tuned


def test_one_seed_and_one_set_of_cases_give_the_same_20_losses() -> None:
    plan = replace(PLAN, epochs=20, batch_size=1)
    first = losses_of(plan)
    assert losses_of(plan) == first
    assert len(set(first)) == 20
    assert losses_of(replace(plan, epochs=2, seed=1))[0] != first[0]
    assert losses_of(replace(plan, epochs=2), seed=1)[0] != first[0]


def test_it_learns() -> None:
    network = small_network()
    epochs: list[Epoch] = []
    plan = replace(PLAN, epochs=2, steps_per_epoch=25, learning_rate=5e-3, batch_size=1)
    train_on_balls(network, plan, epochs.append)
    assert epochs[1].loss < 0.8 * epochs[0].loss
    assert [epoch.number for epoch in epochs] == [1, 2]


def sample_tensors() -> tuple[torch.Tensor, torch.Tensor]:
    sample = next(iter(ball_stream(0, 3, 1)))
    return torch.from_numpy(sample.patch)[None, None], torch.from_numpy(sample.target)[None, None]


@pytest.mark.parametrize("is_checkpointed", [False, True])
@pytest.mark.parametrize("automatic_share", [0.0, 1.0])
def test_gradients_taken_round_by_round_are_those_of_the_whole_step(
    is_checkpointed: bool, automatic_share: float
) -> None:
    plan = ClickPlan(rounds=3, automatic_share=automatic_share)
    patch, target = sample_tensors()
    whole, by_round = small_network(), small_network()
    for network in (whole, by_round):
        network.freeze_sam()
    loss, logits = training_step(whole, patch, target, plan, [np.random.default_rng(1)])
    (loss * 0.5).backward()
    by_round.image_encoder.is_checkpointed = is_checkpointed
    found, found_logits = backward_step(by_round, patch, target, plan, np.random.default_rng(1), share=0.5)
    assert found == pytest.approx(float(loss.detach()), abs=1e-6)
    torch.testing.assert_close(found_logits, logits)
    gradients = {name: p.grad for name, p in whole.named_parameters() if p.grad is not None}
    assert len(gradients) > 100
    for name, parameter in by_round.named_parameters():
        if name in gradients:
            torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-6)
        else:
            assert parameter.grad is None, name


def test_half_as_many_bits_give_nearly_the_same_gradients() -> None:
    patch, target = sample_tensors()
    exact, rough = small_network(), small_network()
    for network, is_rough in ((exact, False), (rough, True)):
        network.freeze_sam()
        backward_step(network, patch, target, ClickPlan(rounds=1), np.random.default_rng(1), has_bfloat16=is_rough)
    name = "mask_decoder.up.0.first.0.weight"
    first, second = (network.get_parameter(name).grad.flatten() for network in (exact, rough))
    assert not torch.equal(first, second)
    assert torch.nn.functional.cosine_similarity(first, second, dim=0) > 0.99


def test_no_gradient_reaches_what_is_frozen_below_the_first_tuned_tensor() -> None:
    network = small_network()
    network.freeze_sam()
    patch, target = sample_tensors()
    backward_step(network, patch.requires_grad_(False), target, ClickPlan(), np.random.default_rng(0))
    assert network.image_encoder.patch_embed.proj.weight.grad is None
    assert network.image_encoder.slice_embed.weight.grad is not None


def test_a_smaller_plan_keeps_less_and_at_last_there_is_none() -> None:
    plan = FinetuningPlan()
    less, how = plan.smaller() or pytest.fail("a plan without checkpoints can be smaller")
    assert less == replace(plan, is_checkpointed=True)
    assert "computing them twice" in how
    least, how = less.smaller() or pytest.fail("numbers of 32 bits can be halved")
    assert least == replace(less, has_bfloat16=True)
    assert "half the size" in how
    assert least.smaller() is None


def test_the_plan_of_the_settings() -> None:
    plan = plan_for(TrainingSettings(max_epochs=3, steps_per_epoch=25), "vit_b", torch.device("cpu"))
    assert (plan.steps, plan.learning_rate, plan.is_checkpointed) == (75, 4e-4, True)
    tiny = plan_for(TrainingSettings(learning_rate=None), "tiny", torch.device("cpu"))
    assert (tiny.learning_rate, tiny.is_checkpointed) == (5e-4, False)
    assert plan_for(TrainingSettings(learning_rate=1e-5), "tiny", torch.device("cpu")).learning_rate == 1e-5


def test_the_learning_rate_rises_and_falls_to_a_hundredth() -> None:
    plan = FinetuningPlan(epochs=10, steps_per_epoch=11, learning_rate=1.0, warmup_steps=10)
    assert plan.learning_rate_at(0) == pytest.approx(0.1)
    assert plan.learning_rate_at(10) == pytest.approx(1.0)
    assert plan.learning_rate_at(60) == pytest.approx(0.505)
    assert plan.learning_rate_at(110) == pytest.approx(0.01)


def test_a_loss_that_is_no_number_ends_the_run() -> None:
    network = small_network()
    network.mask_decoder.get_parameter(next(n for n, _ in network.mask_decoder.named_parameters())).data.fill_(
        torch.nan
    )
    with pytest.raises(TrainingError, match="the loss is no longer a number at step 1: lower learning_rate"):
        train_on_balls(network, PLAN, lambda _: None)


def test_more_processes_than_patches_are_refused() -> None:
    with pytest.raises(TrainingError, match="train_batch_size is 2, fewer than the 3 processes that share it"):
        train_on_balls(small_network(), PLAN, lambda _: None, team=Team(3, 0))


@pytest.mark.parametrize(("size", "count"), [(1, 5), (2, 5), (3, 3), (4, 9)])
def test_the_shares_of_a_team_are_the_whole_in_order(size: int, count: int) -> None:
    shares = [Team(size, rank).share(10, count) for rank in range(size)]
    assert [number for share in shares for number in share] == list(range(10, 10 + count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def chain_gradients(
    numbers: list[int], seed: int = 0, has_bfloat16: bool = False, share: float = 0.5
) -> dict[str, torch.Tensor]:
    """What samples of plain objects leave on the tuned parameters of a small network."""
    network = small_network()
    network.freeze_sam()
    mixture = Mixture([MadeVolumes(shown_plain, PLAIN_USES, 7)], [1.0])
    learn = learn_chains(network, mixture, replace(PLAN, seed=seed, has_bfloat16=has_bfloat16))
    for number in numbers:
        learn(number, share)
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def test_a_chain_is_decided_by_its_number_and_those_of_a_step_add_up() -> None:
    first, second, both = chain_gradients([4]), chain_gradients([5]), chain_gradients([4, 5])
    tuned = set(tuned_names(small_network()))
    assert set(both) == tuned
    whole = chain_gradients([4], share=1.0)
    for name, gradient in both.items():
        torch.testing.assert_close(gradient, first[name] + second[name], rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(whole[name], 2 * first[name], rtol=1e-3, atol=1e-6)
    other, rough = chain_gradients([4], seed=1), chain_gradients([4], has_bfloat16=True)
    name = "mask_decoder.up.0.first.0.weight"
    assert not torch.equal(first[name], second[name])
    assert not torch.equal(first[name], other[name])
    assert not torch.equal(first[name], rough[name])
    assert torch.nn.functional.cosine_similarity(first[name].flatten(), rough[name].flatten(), dim=0) > 0.9


def test_chains_are_learned() -> None:
    network = small_network()
    epochs: list[Epoch] = []
    plan = replace(PLAN, epochs=2, steps_per_epoch=25, learning_rate=5e-3, batch_size=1)
    mixture = Mixture([MadeVolumes(shown_plain, PLAIN_USES, 7)], [1.0])
    finetune(network, learn_chains(network, mixture, plan), plan, epochs.append)
    assert epochs[1].loss < 0.85 * epochs[0].loss


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    plan = replace(PLAN, epochs=5, batch_size=4)
    save_after_training(Team(), plan, tmp_path / "one")
    run_together(2, "gloo", save_after_training, plan, tmp_path / "two")
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("one", "two"))
    assert len(one["losses"]) == 5
    # Rounding differs: AdamW turns that of small gradients into steps of the usual length, and later a click may move.
    np.testing.assert_allclose(one["losses"][:2], two["losses"][:2], rtol=0, atol=1e-5)
    np.testing.assert_allclose(one["losses"], two["losses"], rtol=0, atol=2e-3)
    start = small_network().state_dict()
    tuned = tuned_names(small_network())
    moved = torch.cat([(one["state"][name] - start[name]).flatten() for name in tuned])
    apart = torch.cat([(one["state"][name] - two["state"][name]).flatten() for name in tuned])
    assert apart.norm() < 0.1 * moved.norm()
