"""Whole runs on small networks: good labels are learned and served, poisoned ones are not, accidents change nothing."""

from __future__ import annotations

import errno
import logging
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from lib.errors import TrainingError
from lib.learning.splits import SplitFile
from lib.learning.training import ClickPlan
from lib.network.deltas import tuned_state
from lib.network.weights import load_weights, save_weights
from lib.retraining import finetuning
from lib.retraining import retrain as retrain_module
from lib.retraining.finetuning import FinetuningPlan, finetune, learn_patches
from lib.retraining.gate import Decision, Evidence
from lib.retraining.matching import Matching, match
from lib.retraining.opened_cases import open_cases, validation_patches
from lib.retraining.progress import DONE, FAILED, ProgressFile
from lib.retraining.retrain import retrain
from lib.settings import Settings
from lib.weights.versions import BASE, VersionStore, open_served, versions_folder
from small_runs import ball, ball_cases, small_card, small_network, small_settings, write_case


def publish_all(monkeypatch: pytest.MonkeyPatch, is_better: bool = True) -> None:
    """A gate that looks at nothing: two steps make no network better."""
    monkeypatch.setattr("lib.retraining.retrain.decide", lambda *_, **__: Decision(is_better, "decided by the test"))


def files_below(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def test_a_run_publishes_and_the_next_one_goes_on_from_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_all(monkeypatch)
    settings, cases = small_settings(tmp_path), ball_cases(tmp_path / "studies", 5)
    result = retrain(settings, cases)
    assert (result.version, result.is_published) == ("v1", True)
    assert len(result.training) == 4
    assert len(result.validation) == 1
    assert len(result.losses) == 2
    assert np.isfinite([*result.losses, result.score_before, result.score_after]).all()
    served = open_served(settings)
    assert (served.name, served.card.version, served.card.is_trained) == ("v1", "small+v1", True)
    gate = served.card.figures["gate"]
    assert (gate["is_published"], gate["reason"]) == (True, "decided by the test")
    assert gate["after"]["mean"] == pytest.approx(result.score_after, abs=1e-4)
    assert [len(row["dices"]) for row in gate["after"]["clicks"]] == [5]
    progress = ProgressFile(settings.model_folder).read()
    assert (progress.state, progress.epoch, progress.epochs) == (DONE, 2, 2)
    assert set(progress.scores) == {BASE, "v1"}

    before = tuned_state(served.network)
    again = retrain(settings, cases)
    assert again.validation == result.validation
    assert again.score_before == pytest.approx(result.score_after)
    assert open_served(settings).name == "v2"
    moved = [not torch.equal(before[n], t) for n, t in tuned_state(open_served(settings).network).items()]
    assert any(moved)


def test_the_same_seed_and_cases_give_the_same_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_all(monkeypatch)
    cases = ball_cases(tmp_path / "studies", 2)
    states = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        settings = small_settings(tmp_path / name)
        assert "the evidence is thin" not in retrain(settings, cases).sentence  # said by the gate, which is not asked
        states.append(tuned_state(open_served(settings).network))
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_what_is_not_better_is_kept_as_a_candidate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_all(monkeypatch, is_better=False)
    settings = small_settings(tmp_path)
    result = retrain(settings, ball_cases(tmp_path / "studies", 4))
    assert (result.version, result.is_published) == ("v1", False)
    served = open_served(settings)
    assert served.name == BASE
    assert list(served.store.candidates()) == ["v1"]
    assert ProgressFile(settings.model_folder).read().sentence == "v1 decided by the test"


def test_what_is_measured_is_what_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_all(monkeypatch)
    settings, cases = small_settings(tmp_path, store_half="true"), ball_cases(tmp_path / "studies", 4)
    first = retrain(settings, cases)
    assert retrain(settings, cases).score_before == first.score_after


def test_too_few_cases_are_measured_where_they_were_trained_and_it_is_said(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    result = retrain(settings, ball_cases(tmp_path / "studies", 1))
    assert result.validation == ()
    assert result.sentence.endswith("the evidence is thin, for no case could be kept aside")


def test_cases_that_cannot_be_used_are_named_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_all(monkeypatch)
    cases = ball_cases(tmp_path / "studies", 5)
    cases[1].image.unlink()
    cases[2].label.write_bytes(b"no label")
    full = write_case(tmp_path / "studies", "inverted", ball((10, 10, 10)), ~ball((10, 10, 10)))
    result = retrain(small_settings(tmp_path), [*cases, full])
    assert set(result.skipped) == {"case_1", "case_2", "inverted"}
    assert result.skipped["inverted"].startswith(
        "lesion fills 98% of the image, as if it were inverted; correct it, or"
    )
    assert {*result.training, *result.validation} == {"case_0", "case_3", "case_4"}


def test_nothing_to_train_on_is_a_sentence(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    with pytest.raises(TrainingError, match="there is no case to train on: annotate an image and submit its label"):
        retrain(settings, [])
    progress = ProgressFile(settings.model_folder).read()
    assert progress.state == FAILED
    assert progress.sentence.startswith("failed, nothing was changed: there is no case to train on")


def test_cases_kept_aside_are_never_trained_on(tmp_path: Path) -> None:
    settings, cases = small_settings(tmp_path), ball_cases(tmp_path / "studies", 4)
    split = SplitFile(settings.model_folder / "splits.json").assign([case.id for case in cases])
    kept_aside = [case for case in cases if case.id in split.validation]
    with pytest.raises(TrainingError, match="all 1 usable cases are kept aside to validate on: annotate at least one"):
        retrain(settings, kept_aside)


def test_validation_patches_are_the_same_ones_and_of_every_label(tmp_path: Path) -> None:
    settings, cases = small_settings(tmp_path), ball_cases(tmp_path / "studies", 3)
    first, second = (validation_patches(open_cases(settings, cases, small_card(), augmented=False)) for _ in range(2))
    assert [(p.case, p.label) for p in first] == [(f"case_{n}", "lesion") for n in range(3)] * 3
    for one, two in zip(first, second, strict=True):
        assert np.array_equal(one.patch, two.patch)
        assert one.target.any()


def test_a_label_that_no_case_kept_aside_has_is_measured_where_it_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, cases = small_settings(tmp_path, labels="lesion,organ"), ball_cases(tmp_path / "studies", 5)
    kept_aside = SplitFile(tmp_path / "splits.json").assign([case.id for case in cases]).validation
    for number, case in enumerate(cases):
        if case.id not in kept_aside:
            write_case(tmp_path / "studies", case.id, ball((10, 10, 10)), 2 * ball((10, 10, 10)), seed=number)
    measured: list[Evidence] = []

    def decide(before: Evidence, after: Evidence, *_: object, **__: object) -> Decision:
        measured.extend([before, after])
        return Decision(True, "decided by the test")

    monkeypatch.setattr("lib.retraining.retrain.decide", decide)
    result = retrain(settings, cases)
    assert list(result.validation) == kept_aside
    sides = {(p.label, p.case in kept_aside) for each in measured for p in each.validation.patches}
    assert sides == {("lesion", True), ("organ", False)}
    assert result.notes == ("no case kept aside has organ, which is measured on cases that are trained on",)


@pytest.mark.parametrize("count", [4, 12])
def test_a_case_measured_alone_is_lent_images_of_its_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Among several cases they are exchanged, and nobody else's are needed."""
    publish_all(monkeypatch)
    lent = []
    real = retrain_module.gather_evidence
    monkeypatch.setattr(retrain_module, "gather_evidence", lambda *given: lent.append(given[4]) or real(*given))
    result = retrain(small_settings(tmp_path), ball_cases(tmp_path / "studies", count))
    expected = set(result.training) if count == 4 else set()
    assert (len(result.validation) == 1) == (count == 4)
    assert [{patch.case for patch in patches} for patches in lent] == [expected, expected]


@pytest.mark.parametrize(("least", "is_rehearsed"), [(0.0, True), (1.1, False)])
def test_what_knows_synthetic_objects_goes_over_them_while_it_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least: float, is_rehearsed: bool
) -> None:
    publish_all(monkeypatch)
    seen = []
    real = retrain_module.rehearse
    monkeypatch.setattr(retrain_module, "rehearse", lambda *given: seen.append(1) or real(*given))
    monkeypatch.setattr(retrain_module, "LEAST_REFERENCE", least)
    retrain(small_settings(tmp_path), ball_cases(tmp_path / "studies", 2))
    assert bool(seen) == is_rehearsed


def test_scores_of_other_weights_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_all(monkeypatch)
    cases = ball_cases(tmp_path / "studies", 2)
    first, second = small_settings(tmp_path), small_settings(tmp_path, seed=1)
    for _ in range(2):
        retrain(first, cases)
    parent = open_served(first).base.sha256
    assert ProgressFile(first.model_folder).read().score_of("v1", parent) > 0
    with pytest.raises(TrainingError):
        retrain(second, [])
    publish_all(monkeypatch, is_better=False)
    result = retrain(second, cases)
    progress = ProgressFile(second.model_folder).read()
    assert progress.scores.keys() == {"base", result.version}
    assert progress.score_of("base", parent) == 0
    assert progress.score_of("base", open_served(second).base.sha256) == pytest.approx(result.score_before, abs=1e-4)


def out_of_memory_once(monkeypatch: pytest.MonkeyPatch, error: Exception, times: int = 1, after: int = 0) -> list[bool]:
    """Make some samples run out of memory, `after` so many that do not; returns, as it grows, whether blocks were
    checkpointed at each sample."""
    seen: list[bool] = []
    real = finetuning.practise_number

    def step(network, *arguments, **options):
        seen.append(network.image_encoder.is_checkpointed)
        if after < len(seen) <= after + times:
            raise error
        return real(network, *arguments, **options)

    monkeypatch.setattr(finetuning, "practise_number", step)
    return seen


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError("no memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_run_that_is_out_of_memory_begins_again_with_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    seen = out_of_memory_once(monkeypatch, error)
    result = retrain(small_settings(tmp_path), ball_cases(tmp_path / "studies", 2))
    assert seen == [False] + [True] * 8
    assert len(result.losses) == 2
    assert "so the run began again with less of it, keeping only the inputs of the blocks" in result.notes[0]


def test_a_run_that_begins_again_forgets_what_it_had_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = ball_cases(tmp_path / "studies", 2)
    for name in ("unbroken", "broken"):
        (tmp_path / name).mkdir()
    unbroken = retrain(small_settings(tmp_path / "unbroken"), cases)
    # Of two epochs with four samples each, in the second.
    seen = out_of_memory_once(monkeypatch, MemoryError("no memory"), after=5)
    broken = retrain(small_settings(tmp_path / "broken"), cases)
    assert len(seen) == 6 + 8
    assert broken.losses == pytest.approx(unbroken.losses, rel=1e-4)


def test_a_run_that_is_out_of_memory_twice_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out_of_memory_once(monkeypatch, torch.OutOfMemoryError("CUDA out of memory"), times=2)
    settings = small_settings(tmp_path)
    with pytest.raises(TrainingError, match="memory ran out, and no smaller run is left to try: use a smaller"):
        retrain(settings, ball_cases(tmp_path / "studies", 2))
    assert open_served(settings).name == BASE


def test_a_full_disk_is_a_sentence_and_the_next_run_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, cases = small_settings(tmp_path), ball_cases(tmp_path / "studies", 2)
    publish_all(monkeypatch)
    real = VersionStore.publish

    def full(self: VersionStore, *arguments, **options) -> str:
        (self.folder / f".v1.safetensors.{'0' * 32}").write_bytes(b"what a kill leaves")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(VersionStore, "publish", full)
    with pytest.raises(TrainingError, match=r"the disk is full \(No space left on device\): make room where the model"):
        retrain(settings, cases)
    assert open_served(settings).name == BASE
    assert "the disk is full" in ProgressFile(settings.model_folder).read().sentence
    monkeypatch.setattr(VersionStore, "publish", real)
    assert retrain(settings, cases).version == "v1"
    assert not [name for name in files_below(versions_folder(settings)) if name.startswith(".v1")]


def test_the_log_shows_a_bar_per_epoch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="lib.retraining.retrain"):
        retrain(small_settings(tmp_path), ball_cases(tmp_path / "studies", 2))
    lines = [line for line in caplog.messages if line.startswith("epoch")]
    assert [line.split(" loss")[0] for line in lines] == [
        "epoch   1 of 2 [##########----------]",
        "epoch   2 of 2 [####################]",
    ]


@pytest.fixture(scope="module")
def knowing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that know what a bright ball is."""
    folder = tmp_path_factory.mktemp("knowing")
    settings = small_settings(folder)
    store = open_cases(settings, ball_cases(folder / "studies", 6), small_card(sha256="e" * 64), augmented=True)
    network = small_network()
    plan = FinetuningPlan(epochs=1, steps_per_epoch=40, learning_rate=5e-3, clicks=ClickPlan(rounds=2))
    finetune(network, learn_patches(network, partial(store.samples, 0), plan), plan, lambda _: None)
    path = folder / "knowing.safetensors"
    save_weights(network, small_card(version="knowing"), path)
    return path


# Two balls next to each other in the list have little in common, so that a shuffled label is a wrong one.
CORNERS = [(7, 7, 7), (16, 16, 12), (7, 16, 12), (16, 7, 7), (7, 7, 12), (16, 16, 7), (7, 16, 7), (16, 7, 12)]
TRUTHS = [ball(corner) for corner in CORNERS]
LABELS = {
    "true": TRUTHS,
    "shuffled": TRUTHS[1:] + TRUTHS[:1],
    "inverted": [~truth for truth in TRUTHS],
    "empty": [truth & False for truth in TRUTHS],
}


@pytest.mark.slow
def test_labels_that_were_mixed_up_suit_their_images_no_better_than_others(knowing: Path, tmp_path: Path) -> None:
    network, card = load_weights(knowing)
    settings = small_settings(tmp_path)
    found: dict[str, Matching] = {}
    for kind in ("true", "shuffled"):
        cases = [write_case(tmp_path / kind, f"c{n}", t, LABELS[kind][n], seed=50 + n) for n, t in enumerate(TRUTHS)]
        store = open_cases(settings, cases, card, augmented=False)
        found[kind] = match(network.eval(), store, [case.id for case in cases], True)
    print(found)
    assert found["true"].share < 0.01
    assert found["true"].do_labels_belong
    assert not found["shuffled"].do_labels_belong
    # Three labels, all of them wrong; and one, which has nothing to be mixed up with.
    assert match(network, store, ["c0", "c1", "c2"], True).n_cases == 3
    assert match(network, store, ["c0"], True) == Matching(1.0, 1)


def outcome(kind: str, base: Path, folder: Path) -> tuple[str, Settings]:
    cases = [write_case(folder, f"c{n}", t, LABELS[kind][n], seed=50 + n) for n, t in enumerate(TRUTHS)]
    run = {"max_epochs": "4", "steps_per_epoch": "15", "learning_rate": "0.005"}
    settings = small_settings(folder, checkpoint=str(base), **run)
    try:
        return retrain(settings, cases).sentence, settings
    except TrainingError as refusal:
        return str(refusal), settings


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("true", "v1 published: mean Dice over clicks 1 to 5 0."),
        ("shuffled", "so the labels seem to belong to other images"),
        ("inverted", "c0: lesion fills 98% of the image, as if it were inverted"),
        ("empty", "c0: c0_label.nii.gz holds no voxel of lesion"),
    ],
)
def test_good_labels_are_served_and_poisoned_ones_are_not(kind: str, says: str, knowing: Path, tmp_path: Path) -> None:
    sentence, settings = outcome(kind, knowing, tmp_path)
    print(kind, sentence)
    assert says in sentence
    assert open_served(settings).name == ("v1" if kind == "true" else BASE)
