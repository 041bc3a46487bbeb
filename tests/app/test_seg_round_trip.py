"""Labels to an archive and back: what is drawn is what is trained on, voxel for voxel and name for name.

Against the demo server always, against Orthanc where it is installed (Debian: orthanc orthanc-dicomweb). Every label
map is decided by ROUND_TRIP_SEED, a whole number, and by its orientation.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pydicom
import pytest
from dicomweb_client import DICOMwebClient

from archives import DemoArchive
from e2e.archive import Orthanc, orthanc_program
from lib.demo import free_port
from lib.images.dicom_writing import SeriesInfo, on_dicom_grid, write_series
from lib.learning.cases import CaseStore
from network.small_networks import card_of
from studies_in_archive import LABELS, datastore_at
from unit.test_dicom_writing import ORIENTATIONS, affine_of

pytestmark = [pytest.mark.app, pytest.mark.slow]

SEED = int(os.environ.get("ROUND_TRIP_SEED", "0"))
SPACINGS = [(1.5, 2.25, 4.0), (0.7, 0.7, 5.0), (1.0, 1.0, 1.0), (2.5, 1.25, 0.625)]
EXTENTS = ("one plane", "planes with gaps", "a box", "a voxel each", "all")
# The demo server stores what it gets as it is; its share of the orientations has each order of the axes.
ORIENTATIONS_OF = {"orthanc": ORIENTATIONS, "demo": ORIENTATIONS[::5]}


class Archive(Protocol):
    url: str


@pytest.fixture(params=list(ORIENTATIONS_OF))
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Archive]]:
    if request.param == "orthanc":
        if orthanc_program() is None:
            pytest.skip("Orthanc with its DICOMweb plugin is not installed (Debian: orthanc orthanc-dicomweb)")
        with Orthanc(tmp_path / "files", free_port(0)) as running:
            yield request.param, running
    else:
        with DemoArchive(tmp_path / "files", free_port(0)) as demo:
            yield request.param, demo


@dataclass(frozen=True)
class Drawing:
    """An image's grid, and a label map (I, J, K) on it in which value n is `LABELS[n - 1]`."""

    codes: str
    spacing: tuple[float, float, float]
    turn: float  # radians about the patient's long axis
    extent: str
    values: np.ndarray

    def __str__(self) -> str:
        return f"{self.extent} of {self.values.shape}, spacing {self.spacing}, turned by {self.turn}"

    @property
    def masks(self) -> dict[str, np.ndarray]:
        return {name: self.values == n for n, name in enumerate(LABELS, start=1) if (self.values == n).any()}


def drawing(codes: str, number: int) -> Drawing:
    """Random, but with each number of segments, extent and spacing as often as the others."""
    rng = np.random.default_rng([SEED, number])
    count, extent = 1 + number % len(LABELS), EXTENTS[(number // len(LABELS)) % len(EXTENTS)]
    # One slice only, now and then: the whole label is a plane then.
    shape = (int(rng.integers(3, 40)), int(rng.integers(3, 36)), 1 if number % 7 == 3 else int(rng.integers(2, 13)))
    names = rng.permutation(len(LABELS))[:count] + 1
    values = np.zeros(shape, np.uint8)
    where = np.zeros(shape, bool)
    if extent == "one plane":
        axis = int(rng.integers(3))
        np.moveaxis(where, axis, 0)[int(rng.integers(shape[axis]))] = True
    elif extent == "planes with gaps":
        where[:, :, int(rng.integers(2)) % shape[2] :: 2] = True
    elif extent == "a box":
        where[1:-1, 1:-1, shape[2] // 2 :] = True
    elif extent == "all":
        where[:] = True
    values[where] = rng.choice(np.append(names, 0) if extent != "all" else names, int(where.sum()))
    free = np.argwhere(where if where.sum() >= count else np.ones(shape, bool))
    for name, voxel in zip(names, rng.permutation(free)[:count], strict=True):
        values[tuple(voxel)] = name  # every name is there, and be it by one voxel
    return Drawing(codes, SPACINGS[number % len(SPACINGS)], float(rng.choice([0.0, 0.31, -0.83])), extent, values)


@pytest.mark.timeout(1800)
def test_a_label_comes_back_as_it_was_drawn(archive, tmp_path: Path, monkeypatch, capsys) -> None:
    kind, server = archive
    counted: Counter[str] = Counter()
    wrong: dict[str, object] = {}
    for number, codes in enumerate(ORIENTATIONS_OF[kind]):
        drawn = drawing(codes, number)
        place = tmp_path / str(number)
        image = stow_image(server.url, place, drawn, number)
        submit(server.url, place, image, drawn, monkeypatch)
        trained_on = read_back(server.url, place, image, monkeypatch)
        if sorted(trained_on) != sorted(drawn.masks):
            wrong[codes] = f"{sorted(trained_on)} came back of {sorted(drawn.masks)}"
            continue
        different = sum(int((trained_on[name] != mask).sum()) for name, mask in drawn.masks.items())
        if different:
            wrong[codes] = f"{different} voxels of {drawn}"
        counted += Counter(
            label_maps=1,
            segments=len(drawn.masks),
            voxels_compared=drawn.values.size * len(drawn.masks),
            voxels_drawn=int((drawn.values > 0).sum()),
            voxels_different=different,
            single_slices=int(drawn.values.shape[2] == 1),
        )
    with capsys.disabled():
        figures = ", ".join(f"{name.replace('_', ' ')} {counted[name]}" for name in (*counted, "voxels_different"))
        print(f"\n{kind}, seed {SEED}: orientations {len(set(ORIENTATIONS_OF[kind]))}, {figures}")
    assert wrong == {}
    assert counted["label_maps"] == len(ORIENTATIONS_OF[kind])


def stow_image(url: str, place: Path, drawn: Drawing, number: int) -> str:
    """Store a series of noise with the drawing's grid, its slices in any order; its UID."""
    info = SeriesInfo(f"P-{number}", "Müller^Jörg", description=drawn.codes)
    rng = np.random.default_rng(number)
    noise = rng.integers(-500, 900, drawn.values.shape).astype(np.int16)
    array, affine = on_dicom_grid(noise, affine_of(drawn.codes, drawn.spacing, drawn.turn))
    assert array.shape == drawn.values.shape  # what viewers show, and so what is drawn on, is this array
    paths = write_series(place / "series", array, affine, info, [int(k) for k in rng.permutation(array.shape[2])])
    DICOMwebClient(url).store_instances([pydicom.dcmread(path) for path in paths])
    return info.uid()


def submit(url: str, place: Path, image: str, drawn: Drawing, monkeypatch) -> None:
    """Save the label map as the viewer sends it, values without gaps and names in their order; wait for the archive."""
    present = [int(value) for value in np.unique(drawn.values) if value]
    compact = np.searchsorted([0, *present], drawn.values).astype(np.uint8)
    (place / "label.bin").write_bytes(compact.tobytes(order="F"))
    writer = datastore_at(url, place / "writer", monkeypatch)
    named = {"label_info": [{"name": LABELS[value - 1]} for value in present], "client_id": "ann"}
    writer.save_label(image, str(place / "label.bin"), "final", named)
    wait_until(lambda: not writer.waiting())
    writer.close()


def read_back(url: str, place: Path, image: str, monkeypatch) -> dict[str, np.ndarray]:
    """The masks by name that training gets from a server that knows the archive only."""
    reader = datastore_at(url, place / "reader", monkeypatch)
    wait_until(lambda: image in reader.get_labeled_images())
    case = reader.newest_case(image)
    reader.close()
    assert case is not None
    assert case.label.suffix == ".dcm"  # from the archive, not from the writer's folder
    store = CaseStore([case], LABELS, card_of(), cache_folder=None, limit_bytes=2**30)
    prepared = store.open(case.id)
    assert prepared is not None, store.skipped
    return {name: region.whole(prepared.volume.shape) for name, region in prepared.regions.items()}


def wait_until(is_so: Callable[[], bool], limit_s: float = 300.0) -> None:
    limit = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < limit, f"not within {limit_s} s"
        time.sleep(0.05)
