"""Two hundred random histories of a studies folder: no submitted label is ever lost, or another image's.

Images and labels are added, submitted, renamed, replaced, removed, taken away for a while and brought back, servers
are started anew, and MONAI Label's list is deleted, in any order. After each step every label that a client was told is
stored is the one of the content that it was drawn on, wherever that lies now, and is trained on once.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from lib.datastore import contents, history
from lib.datastore.history import digest
from lib.datastore.versioned import VersionedDatastore
from lib.trainers.annotated import annotated_cases

SHAPE = (4, 3, 3)
# `FOLDER_HISTORIES=200` draws more, in some five minutes.
HISTORIES, STEPS = int(os.environ.get("FOLDER_HISTORIES", 24)), 20
STEMS, ENDINGS, FOLDERS = ("twin", "image", "Ü 1"), (".nii", ".nii.gz", ".NII", ".mha"), ("", "patient1/", "imagesTr/")
LABEL_ENDINGS = (".nii.gz", ".seg.nrrd", ".mha", ".nrrd")
COUNTS = Counter[str]()

names = st.builds("{0}{1}{2}".format, st.sampled_from(FOLDERS), st.sampled_from(STEMS), st.sampled_from(ENDINGS))
# Few, so that some images lie in the folder twice, and come back after they were gone.
patients = st.integers(0, 5)


@dataclass(frozen=True)
class Submitted:
    """What a client was told is stored: the file's digest, who drew it, and the names of its values."""

    label: str
    client: str


class Histories(RuleBasedStateMachine):
    """The folder, what lies in it by name, what is away, and what was submitted last for each content."""

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(prefix="histories-"))
        self.studies, self.away = self.place / "studies", self.place / "away"
        self.studies.mkdir()
        self.away.mkdir()
        self.here: dict[str, str] = {}
        self.gone: dict[str, str] = {}
        self.submitted: dict[str, Submitted] = {}
        self.number = 0
        self.store = self.opened()

    def opened(self) -> VersionedDatastore:
        return VersionedDatastore(str(self.studies))

    def teardown(self) -> None:
        shutil.rmtree(self.place)

    # ------------------------------------------------------------------ steps

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        """Three images, the first of which gets a label."""
        for number in range(3):
            self.put(data.draw(names), data.draw(patients))
            if number == 0:
                self.submit_to(next(iter(self.here)), ".nii.gz", "ann")

    @rule(name=names, patient=patients)
    def put(self, name: str, patient: int) -> None:
        """Add an image, or replace the one of that name by another patient's."""
        self.here[name] = write_image(self.studies / name, patient)
        self.looked()

    @precondition(lambda self: self.here)
    @rule(data=st.data(), ending=st.sampled_from(LABEL_ENDINGS), client=st.sampled_from(("ann", "bob")))
    def submit(self, data: st.DataObject, ending: str, client: str) -> None:
        self.submit_to(data.draw(st.sampled_from(sorted(self.here))), ending, client)

    def submit_to(self, name: str, ending: str, client: str) -> None:
        self.number += 1
        label = write_label(self.place / f"label{ending}", self.number)
        info = {"client_id": client, "label_info": [{"name": "lesion", "idx": 1}]}
        self.store.save_label(self.id_of(name), str(label), "final", info)
        self.submitted[self.here[name]] = Submitted(digest(label), client)
        if list(self.here.values()).count(self.here[name]) > 1:
            self.looked()  # another file of the same content gets the label with the next look

    @precondition(lambda self: self.here)
    @rule(data=st.data(), other=names)
    def rename(self, data: st.DataObject, other: str) -> None:
        name = data.draw(st.sampled_from(sorted(self.here)))
        # A name is renamed to one that says the same of what is in it.
        other = other[: -len(Path(other).suffix)].removesuffix(".nii") + ending_of(name)
        (self.studies / other).parent.mkdir(exist_ok=True)
        (self.studies / name).replace(self.studies / other)
        self.here[other] = self.here.pop(name)
        self.looked()

    @precondition(lambda self: len(self.here) > 1)
    @rule(data=st.data())
    def swap(self, data: st.DataObject) -> None:
        """Two images change their names, sizes and times as they were."""
        first = data.draw(st.sampled_from(sorted(self.here)))
        others = [name for name in sorted(self.here) if name != first and ending_of(name) == ending_of(first)]
        if others:
            second = data.draw(st.sampled_from(others))
            (self.studies / first).rename(self.place / "held")
            (self.studies / second).rename(self.studies / first)
            (self.place / "held").rename(self.studies / second)
            self.here[first], self.here[second] = self.here[second], self.here[first]
            self.looked()

    @precondition(lambda self: self.here)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.here)))
        (self.studies / name).unlink()
        del self.here[name]
        self.looked()

    @precondition(lambda self: self.here)
    @rule(data=st.data())
    def remove_label(self, data: st.DataObject) -> None:
        """Through the server, which is the only way that takes a label out of use."""
        name = data.draw(st.sampled_from(sorted(self.here)))
        if self.here[name] in self.submitted:
            self.store.remove_label(self.id_of(name), "final")
            del self.submitted[self.here[name]]

    @precondition(lambda self: self.here and not self.gone)
    @rule()
    def drop_out(self) -> None:
        """The drive with the images goes away, and the server looks."""
        for name in self.here:
            (self.away / name).parent.mkdir(exist_ok=True)
            (self.studies / name).rename(self.away / name)
        self.gone, self.here = self.here, {}
        self.looked()

    @precondition(lambda self: self.gone)
    @rule()
    def come_back(self) -> None:
        for name in self.gone:
            (self.away / name).replace(self.studies / name)
        self.here, self.gone = {**self.here, **self.gone}, {}
        self.looked()

    @rule(tag=st.sampled_from(("final", "original")))
    def lose_copies(self, tag: str) -> None:
        """Somebody empties the folder that clients look into, not through the server."""
        for path in (self.studies / "labels" / tag).iterdir():
            path.unlink()
        self.looked()

    @rule()
    def restart(self) -> None:
        self.store = self.opened()

    @rule()
    def delete_list(self) -> None:
        (self.studies / "datastore_v2.json").unlink(missing_ok=True)
        self.looked()

    @rule()
    def restart_without_list(self) -> None:
        (self.studies / "datastore_v2.json").unlink(missing_ok=True)
        self.store = self.opened()

    # ------------------------------------------------------------- what holds

    @invariant()
    def every_label_is_known_and_where_it_belongs(self) -> None:
        COUNTS["steps"] += 1
        listed = {image: Path(self.store.get_image_uri(image)) for image in self.store.list_images()}
        assert sorted(listed.values()) == sorted((self.studies / name).resolve() for name in self.here)
        labelled = set(self.store.get_labeled_images())
        for image, path in listed.items():
            content = digest(path)
            drawn = self.submitted.get(content)
            assert (image in labelled) == (drawn is not None), f"{path.name}: lost, or another image's"
            if drawn is not None:
                COUNTS["labels"] += 1
                info = self.store.get_label_info(image, "final")
                assert (info["annotator"], info["label_info"][0]["name"]) == (drawn.client, "lesion")
                assert digest(Path(self.store.get_label_uri(image, "final"))) == drawn.label, "swapped"
        cases = annotated_cases(self.store)
        trained = Counter(digest(case.image) for case in cases)
        here = set(self.here.values())
        assert trained == Counter({content: 1 for content in self.submitted if content in here})
        assert all(digest(case.label) == self.submitted[digest(case.image)].label for case in cases)
        assert all(case.value_names == {1: "lesion"} for case in cases)

    @invariant()
    def what_is_not_here_is_not_forgotten(self) -> None:
        """Its newest version is in the history, with what it was drawn on."""
        cards = [card for card in self.store.history.all_cards() if card.tag == "final"]
        newest = {card.image_digest: card for card in cards}
        assert {of: card.sha256 for of, card in newest.items() if card.is_label} == {
            content: each.label for content, each in self.submitted.items()
        }

    def looked(self) -> None:
        """The watch sees it."""
        self.store.refresh()

    def id_of(self, name: str) -> str:
        (image,) = (each for each in self.store.list_images() if self.store.get_image_info(each)["name"] == name)
        return image


def ending_of(name: str) -> str:
    return next(ending for ending in (".nii.gz", ".nii", ".NII", ".mha") if name.endswith(ending))


def write_image(path: Path, patient: int) -> str:
    """An image of a patient, with the same size and time as any other's; its digest."""
    path.parent.mkdir(exist_ok=True)
    array = np.random.default_rng(patient).integers(-1000, 1000, SHAPE).astype(np.int16)
    # Beside it first, as who replaces a file does.
    unfinished = path.with_name("unfinished" + ending_of(path.name).lower())
    sitk.WriteImage(sitk.GetImageFromArray(array.T), str(unfinished))
    os.utime(unfinished, (1_700_000_000, 1_700_000_000))
    unfinished.replace(path)
    return digest(path)


def write_label(path: Path, number: int) -> Path:
    """A label map that is no other's."""
    array = np.zeros(SHAPE, np.uint8)
    for bit in range(array.size):
        array.flat[bit] = number >> bit & 1
    image = sitk.GetImageFromArray(array.T)
    if path.name.endswith(".seg.nrrd"):
        for key, value in (("Name", "lesion"), ("LabelValue", "1"), ("Layer", "0"), ("ID", "Segment_1")):
            image.SetMetaData(f"Segment0_{key}", value)
    sitk.WriteImage(image, str(path))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("coarse_s", [0.02, 2.0])  # the kernel's own clock of file times ticks every 0.01 s at most
def test_no_label_is_lost_or_swapped(coarse_s: float, monkeypatch, capsys) -> None:
    """With digests that are kept soon, and with those that are made again and again while files are new."""
    monkeypatch.setattr(contents, "COARSE_S", coarse_s)
    monkeypatch.setattr(history, "COARSE_S", coarse_s)
    COUNTS.clear()
    run_state_machine_as_test(
        seed(20)(Histories),
        settings=settings(
            max_examples=HISTORIES // 2,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert COUNTS["labels"] > 0
    with capsys.disabled():
        print(f"\n{HISTORIES // 2} histories, {COUNTS['steps']} steps, {COUNTS['labels']} labels: 0 lost, 0 swapped")
