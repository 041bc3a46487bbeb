"""The cases of an export: each with the version of its label that it was written with, and whose image it is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha1
from pathlib import Path
from typing import Any

import pydicom

from lib.activelearning.case_states import submitter
from lib.datastore.history import Version
from lib.datastore.versioned import VersionedDatastore
from lib.labels.dicom_seg import is_dicom
from lib.learning.cases import Case

# How the folders of patients begin in BIDS.
BIDS_PATIENT = re.compile(r"(?:^|__)(sub-[A-Za-z0-9]+)(?:__|_|$)")
UNFIT = re.compile(r"[^A-Za-z0-9.-]+")
TRAINING, TEST = "training", "test"


@dataclass(frozen=True)
class PinnedCase:
    """`name` is what its files are called, unlike any other's. `patient`, as DICOM headers or a folder's name in BIDS
    say, and `modality` are empty where nobody knows."""

    name: str
    case: Case
    version: Version
    patient: str
    modality: str
    is_approved: bool

    def as_json(self) -> dict[str, Any]:
        version = self.version
        return {
            "image": self.case.id,
            "version": version.number,
            "sha256": version.sha256,
            "when": version.when,
            "by": submitter(version),
            "model_version": version.model_version,
            "approved": self.is_approved,
        }


def pinned_cases(store: VersionedDatastore, train_on: str) -> list[PinnedCase]:
    """The cases whose label counts (`counting_version`), with that version."""
    found, taken = list[PinnedCase](), set[str]()
    for case in store.annotated_cases(train_on):
        version = store.counting_version(case.id, train_on)
        if version is None:  # put into the folder a moment ago, and no version yet
            continue
        review = store.reviews.of(version)
        name = _name_of(case.id, taken)
        taken.add(name.lower())
        patient, modality = _headers_say(store.series_folder(case.id))
        named = BIDS_PATIENT.search(case.id)
        patient = patient or (named[1] if named else "")
        found.append(PinnedCase(name, case, version, patient, modality, review is not None and review.is_approval))
    return found


def parts_of(cases: Sequence[PinnedCase], test_share: float, seed: int) -> Mapping[str, str]:
    """Which part each case, by its name, is in. All of a patient's are in one, drawn by the hash of seed and patient;
    where the patient is unknown, each case counts as another one's."""
    patients = {each.name: each.patient or f"case {each.name}" for each in cases}
    drawn = sorted(set(patients.values()), key=lambda of: sha1(f"{seed}/{of}".encode(), usedforsecurity=False).digest())
    tested = set(drawn[: min(round(test_share * len(drawn)), len(drawn) - 1)])
    return {name: TEST if of in tested else TRAINING for name, of in patients.items()}


def _headers_say(series: Path | None) -> tuple[str, str]:
    """Patient and modality of a series; empty where there is none."""
    for path in sorted(series.iterdir()) if series is not None and series.is_dir() else ():
        if is_dicom(path):
            header: Any = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["PatientID", "Modality"])
            return str(header.get("PatientID") or ""), str(header.get("Modality") or "")
    return "", ""


def _name_of(image: str, taken: set[str]) -> str:
    """An id as a name that every program takes: with neither blanks nor underscores at its ends."""
    name = UNFIT.sub("_", image).strip("_.") or "case"
    digits = sha1(image.encode(), usedforsecurity=False).hexdigest()[:6]
    return f"{name}_{digits}" if name.lower() in taken else name
