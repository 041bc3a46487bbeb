"""The gate's decisions, by eye."""

from __future__ import annotations

import numpy as np
import pytest

from lib.retraining.gate import Decision, Evidence, Limits, Measured, Patch, Scores, decide, exchanged


def scores(**by_label: float) -> Scores:
    """One patch of each label, with the same Dice after every click."""
    return Scores(tuple(Measured("case", name, (value,) * 5) for name, value in by_label.items()))


def evidence(reference: float = 0.8, others: float = 0.2, **by_label: float) -> Evidence:
    return Evidence(scores(**by_label), scores(reference=reference), scores(**dict.fromkeys(by_label, others)))


def verdict(before: Evidence, after: Evidence, is_thin: bool = False, **limits: float | bool) -> Decision:
    return decide(before, after, Limits(**limits), is_thin)


def test_what_is_better_is_published() -> None:
    decision = verdict(evidence(tumor=0.60, liver=0.80), evidence(tumor=0.70, liver=0.80))
    assert decision == Decision(True, "published: mean Dice over clicks 1 to 5 0.700 before, 0.750 after")


@pytest.mark.parametrize(("after", "is_better"), [(0.609, False), (0.611, True), (0.5, False), (float("nan"), False)])
def test_the_margin_must_be_reached(after: float, is_better: bool) -> None:
    decision = verdict(evidence(tumor=0.6), evidence(tumor=after), margin=0.01)
    assert decision.is_better is is_better
    assert is_better or "the gain is not the 0.01 asked for" in decision.sentence


def test_no_label_is_given_up_for_another() -> None:
    decision = verdict(evidence(tumor=0.50, liver=0.80), evidence(tumor=0.70, liver=0.74), max_label_drop=0.05)
    assert decision == Decision(
        False,
        "not published: mean Dice over clicks 1 to 5 0.650 before, 0.720 after; liver loses 0.060, more than 0.05",
    )
    assert verdict(evidence(tumor=0.50, liver=0.80), evidence(tumor=0.70, liver=0.76), max_label_drop=0.05).is_better


def test_a_version_that_forgets_what_all_can_see_is_not_published() -> None:
    decision = verdict(evidence(tumor=0.5), evidence(tumor=0.7, reference=0.7))
    assert not decision.is_better
    assert "it loses 0.100 on reference patches" in decision.sentence
    assert verdict(evidence(tumor=0.5), evidence(tumor=0.7, reference=0.75)).is_better
    # Untrained weights have nothing to forget.
    assert verdict(evidence(tumor=0.1, reference=0.2), evidence(tumor=0.7, reference=0.0)).is_better


def test_a_version_that_does_without_the_image_is_not_published() -> None:
    decision = verdict(evidence(tumor=0.5, others=0.68), evidence(tumor=0.7, others=0.69))
    assert not decision.is_better
    assert "with images exchanged it goes from 0.680 to 0.690, so the labels seem to belong to" in decision.sentence
    assert verdict(evidence(tumor=0.5, others=0.68), evidence(tumor=0.7, others=0.66)).is_better


@pytest.mark.parametrize(
    ("is_thin", "others", "is_better"),
    [(False, 0.515, False), (False, 0.505, True), (True, 0.615, False), (True, 0.605, True)],
)
def test_a_version_whose_gain_needs_no_image_is_not_published(is_thin: bool, others: float, is_better: bool) -> None:
    decision = verdict(evidence(tumor=0.5, others=0.5), evidence(tumor=0.7, others=others), is_thin=is_thin)
    assert decision.is_better is is_better
    assert is_better or f"with images exchanged it goes from 0.500 to {others:.3f}" in decision.sentence


def test_labels_known_to_be_those_of_their_images_may_make_it_gain_without_them_too() -> None:
    before, after = evidence(tumor=0.5, others=0.42), evidence(tumor=0.7, others=0.59)
    asked: list[bool] = []

    def decided(after: Evidence, do_belong: bool) -> Decision:
        return decide(before, after, Limits(), do_labels_belong=lambda: asked.append(do_belong) or do_belong)

    assert not decided(after, False).is_better
    assert decided(after, True).is_better
    # One that would say the same of any image is not served whatever the labels are,
    assert not decided(evidence(tumor=0.7, others=0.68), True).is_better
    # and nobody asks where nothing is suspect.
    asked.clear()
    assert decided(evidence(tumor=0.7, others=0.425), False).is_better
    assert asked == []


def test_trusted_labels_are_not_doubted_but_must_still_be_better() -> None:
    assert verdict(evidence(tumor=0.5), evidence(tumor=0.7, others=0.7, reference=0.1), is_trusting=True).is_better
    assert not verdict(evidence(tumor=0.5), evidence(tumor=0.7, others=0.7)).is_better
    assert not verdict(evidence(tumor=0.5), evidence(tumor=0.5), is_trusting=True).is_better


def test_thin_evidence_is_called_so_either_way() -> None:
    for after in (0.5, 0.7):
        sentence = verdict(evidence(tumor=0.5), evidence(tumor=after), is_thin=True).sentence
        assert sentence.endswith("; the evidence is thin, for no case could be kept aside")


def test_labels_count_alike_however_many_patches_they_have() -> None:
    found = [Measured("a", "liver", (0.9,) * 5)] * 9 + [Measured("a", "tumor", (0.0, 0.1, 0.2, 0.3, 0.4))]
    assert Scores(tuple(found)).by_label == {"liver": pytest.approx(0.9), "tumor": pytest.approx(0.2)}
    assert Scores(tuple(found)).mean == pytest.approx(0.55)


def test_scores_are_told_per_case_label_and_click() -> None:
    found = (Measured("a", "tumor", (0.0, 1.0)), Measured("a", "tumor", (0.5, 1.0)), Measured("b", "tumor", (1.0, 1.0)))
    assert Scores(found).as_json() == {
        "mean": 0.75,
        "by_label": {"tumor": 0.75},
        "clicks": [
            {"case": "a", "label": "tumor", "dices": [0.25, 1.0]},
            {"case": "b", "label": "tumor", "dices": [1.0, 1.0]},
        ],
    }


def test_images_are_exchanged_between_cases() -> None:
    def patch(value: int, case: str) -> Patch:
        array = np.full((2, 2, 2), value, np.float32)
        return Patch(array, array, "tumor", case)

    patches = [patch(1, "a"), patch(2, "a"), patch(3, "b")]
    mixed = exchanged(patches)
    assert [each.patch.flat[0] for each in mixed] == [3, 3, 1]
    assert [each.target.flat[0] for each in mixed] == [1, 2, 3]
    assert [each.patch.flat[0] for each in exchanged(patches[:2])] == [2, 1]
    alone = Patch(np.arange(8, dtype=np.float32).reshape(2, 2, 2), np.zeros((2, 2, 2), np.float32), "tumor", "a")
    assert exchanged([alone])[0].patch.ravel().tolist() == [7, 6, 5, 4, 3, 2, 1, 0]


def test_patches_of_one_case_alone_get_the_images_of_strangers() -> None:
    arrays = [np.full((2, 2, 2), value, np.float32) for value in range(5)]
    alone = [Patch(arrays[n], arrays[4], "lesion", "a") for n in range(2)]
    reference = [Patch(arrays[n], arrays[4], "reference", f"reference {n}") for n in (2, 3)]
    assert [each.patch[0, 0, 0] for each in exchanged(alone, reference)] == [2, 3]
    assert [each.patch[0, 0, 0] for each in exchanged(alone)] == [1, 0]
