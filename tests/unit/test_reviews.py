"""What reviewers say of labels: kept beside the version that it is of, and what training makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi import HTTPException

from lib.activelearning.case_states import REJECTED, REVIEWED, SUBMITTED, CaseStates, counts, rejected
from lib.activelearning.leases import Leases
from lib.activelearning.presence import Presence
from lib.datastore.reviews import APPROVED, SENT_BACK
from lib.datastore.versioned import VersionedDatastore
from lib.trainers.annotated import annotated_cases
from unit.test_label_versions import EXTENSIONS, NAMES, folder, label_map, save

__all__ = ["folder"]


@pytest.fixture
def store(folder: Path) -> VersionedDatastore:
    return VersionedDatastore(str(folder), extensions=EXTENSIONS)


def submit(store: VersionedDatastore, tmp_path: Path, image: str, seed: int = 0, **info: str) -> None:
    store.save_label(image, str(save(tmp_path / "l.nii.gz", label_map(seed))), "final", {**NAMES, **info})


def trained_on(store: VersionedDatastore, train_on: str) -> dict[str, str]:
    """Which file of which image training gets."""
    return {case.id: case.label.name for case in annotated_cases(store, train_on)}


def states(store: VersionedDatastore) -> dict[str, str]:
    return {each.id: each.state for each in CaseStates(Leases(60.0), Presence()).all(store)}


def test_a_label_is_submitted_reviewed_sent_back_and_submitted_again(store: VersionedDatastore, tmp_path: Path) -> None:
    assert states(store) == {"a": "new", "b": "new"}
    submit(store, tmp_path, "a", client_id="ohif-1", client_name="Anna")
    submit(store, tmp_path, "b", client_id="ohif-2")
    assert states(store) == {"a": SUBMITTED, "b": SUBMITTED}
    store.review("a", APPROVED, "emil", None, 1)
    store.review("b", SENT_BACK, "emil", " the lower border is missing ", 1)
    assert states(store) == {"a": REVIEWED, "b": REJECTED}
    of_b = CaseStates(Leases(60.0), Presence()).of("b", store)
    assert (of_b.version, of_b.by, of_b.reviewer, of_b.comment) == (1, "ohif-2", "emil", "the lower border is missing")
    assert CaseStates(Leases(60.0), Presence()).of("a", store).by == "Anna"
    assert rejected(store) == {"b": "sent back by emil: the lower border is missing"}
    submit(store, tmp_path, "b", seed=1)
    assert states(store)["b"] == SUBMITTED
    assert rejected(store) == {}
    assert counts(CaseStates(Leases(60.0), Presence()).all(store))[REVIEWED] == 1


def test_training_leaves_out_what_was_sent_back_and_takes_only_what_was_approved(
    store: VersionedDatastore, tmp_path: Path
) -> None:
    submit(store, tmp_path, "a")
    submit(store, tmp_path, "b")
    assert trained_on(store, "submitted") == {"a": "0001.nii.gz", "b": "0001.nii.gz"}
    assert trained_on(store, "reviewed") == {}
    store.review("a", APPROVED, "emil", "")
    store.review("b", SENT_BACK, "emil", "empty")
    assert trained_on(store, "submitted") == trained_on(store, "reviewed") == {"a": "0001.nii.gz"}
    submit(store, tmp_path, "a", seed=1)
    assert trained_on(store, "submitted") == {"a": "0002.nii.gz"}
    assert trained_on(store, "reviewed") == {"a": "0001.nii.gz"}
    store.review("a", SENT_BACK, "emil", "the first was better")
    assert trained_on(store, "submitted") == {"a": "0001.nii.gz"}  # approved, and nothing better came
    store.remove_label("a", "final")
    assert trained_on(store, "submitted") == trained_on(store, "reviewed") == {}
    submit(store, tmp_path, "a", seed=2)
    assert trained_on(store, "reviewed") == {}  # what was approved before the removal stays removed


def test_the_last_word_counts_and_all_are_kept(store: VersionedDatastore, folder: Path, tmp_path: Path) -> None:
    submit(store, tmp_path, "a")
    store.review("a", SENT_BACK, "emil", "too small")
    store.review("a", APPROVED, "dora", "it is not")
    assert states(store)["a"] == REVIEWED
    assert len(list(folder.rglob("reviews/0001-*.json"))) == 2
    assert states(VersionedDatastore(str(folder), extensions=EXTENSIONS))["a"] == REVIEWED
    (folder / "a.nii.gz").rename(folder / "z.nii.gz")  # a label, and what was said of it, belong to the content
    assert states(VersionedDatastore(str(folder), extensions=EXTENSIONS))["z"] == REVIEWED


def test_a_review_of_another_process_is_seen(store: VersionedDatastore, folder: Path, tmp_path: Path) -> None:
    submit(store, tmp_path, "a")
    assert states(store)["a"] == SUBMITTED
    VersionedDatastore(str(folder), extensions=EXTENSIONS).review("a", SENT_BACK, "emil", "too small")
    assert states(store)["a"] == REJECTED


def test_a_review_is_of_the_version_that_was_looked_at(store: VersionedDatastore, tmp_path: Path) -> None:
    submit(store, tmp_path, "a")
    submit(store, tmp_path, "a", seed=1)
    with pytest.raises(HTTPException, match="version 2 of this label was submitted meanwhile"):
        store.review("a", APPROVED, "emil", "", 1)
    assert states(store)["a"] == SUBMITTED


@pytest.mark.parametrize(
    ("image", "comment", "sentence"),
    [
        ("a", "", "the comment is empty"),
        ("a", " \n", "the comment is empty"),
        ("a", 7, "it must be a text"),
        ("a", "x" * 2001, "write at most 2000"),
        ("b", "why", "b has no label to review"),
        ("c", "why", "there is no image 'c'"),
    ],
)
def test_a_review_that_cannot_be_is_refused(
    store: VersionedDatastore, tmp_path: Path, image: str, comment: object, sentence: str
) -> None:
    submit(store, tmp_path, "a")
    with pytest.raises(HTTPException, match=sentence):
        store.review(image, SENT_BACK, "emil", comment)
    assert states(store)["a"] == SUBMITTED


def test_a_damaged_card_and_one_of_another_file_do_not_count(
    store: VersionedDatastore, folder: Path, tmp_path: Path
) -> None:
    submit(store, tmp_path, "a")
    store.review("a", APPROVED, "emil", "")
    (card,) = folder.rglob("reviews/0001-*.json")
    said = card.read_text()
    card.write_text(said.replace(store.history.versions("a", "final")[0].sha256, "0" * 64))
    assert states(VersionedDatastore(str(folder), extensions=EXTENSIONS))["a"] == SUBMITTED
    card.write_text(said[:20])
    assert states(VersionedDatastore(str(folder), extensions=EXTENSIONS))["a"] == SUBMITTED
