"""Series that we write are read back voxel for voxel where they were, in every orientation and order."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import numpy as np
import pydicom
import pytest

from lib.demo import dicom_click, write_phantom
from lib.errors import GeometryError
from lib.geometry import map_indices
from lib.images.dicom_series import read_series
from lib.images.dicom_writing import SeriesInfo, on_dicom_grid, write_series
from lib.synthesis.phantoms import Phantom

ORIENTATIONS = ["".join(codes) for order in permutations(("RL", "AP", "SI")) for codes in product(*order)]
INFO = SeriesInfo("P-1", "Müller^Jörg", description="for tests")
LIMIT = 2**30


def affine_of(codes: str, spacing: tuple[float, float, float] = (1.5, 2.25, 4.0), turn: float = 0.0) -> np.ndarray:
    """An affine to RAS mm whose axes run along the codes, turned about the patient's long axis by radians."""
    affine = np.eye(4)
    affine[:3, :3] = 0.0
    for axis, code in enumerate(codes):
        ras = next(place for place, pair in enumerate(("RL", "AP", "SI")) if code in pair)
        affine[ras, axis] = spacing[axis] * (1 if code in "RAS" else -1)
    affine[:3, 3] = (-31.25, 12.5, 407.0)
    cos, sin = np.cos(turn), np.sin(turn)
    about = np.array([[cos, -sin, 0, 0], [sin, cos, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    return about @ affine


def noise(shape: tuple[int, int, int]) -> np.ndarray:
    return np.random.default_rng(3).integers(-1000, 1500, shape).astype(np.int16)


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_every_orientation_is_read_back_where_it_was(codes: str, tmp_path: Path) -> None:
    array, affine = noise((7, 5, 4)), affine_of(codes, turn=0.3)
    turned, grid = on_dicom_grid(array, affine)
    write_series(tmp_path / "s", turned, grid, INFO, [2, 0, 3, 1])
    read, read_affine, _ = read_series(tmp_path / "s", LIMIT)
    assert np.array_equal(read, turned)
    # Each voxel of the array that was given lies, with its value, where the affine that was given puts it.
    voxels = np.argwhere(np.ones(array.shape, bool))
    places = map_indices(voxels, affine, read_affine)
    assert np.abs(places - np.rint(places)).max() < 1e-4
    assert np.array_equal(read[tuple(np.rint(places).astype(int).T)], array[tuple(voxels.T)])


def test_the_order_decides_instance_numbers_and_nothing_else(tmp_path: Path) -> None:
    array, affine = on_dicom_grid(noise((4, 3, 3)), affine_of("LPS"))
    paths = write_series(tmp_path / "s", array, affine, INFO, [2, 0, 1])
    headers = [pydicom.dcmread(path) for path in paths]
    assert [header.InstanceNumber for header in headers] == [2, 3, 1]
    assert [float(header.ImagePositionPatient[2]) for header in headers] == [407.0, 411.0, 415.0]
    assert len({header.SOPInstanceUID for header in headers}) == 3
    assert headers[0].PatientName == "Müller^Jörg"


def test_equal_arguments_give_equal_files(tmp_path: Path) -> None:
    array, affine = on_dicom_grid(noise((4, 3, 2)), affine_of("LPS"))
    first, second = (write_series(tmp_path / name, array, affine, INFO) for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


@pytest.mark.parametrize("place", [9.999999999999998, -9.999999999999998, 1e-17, -123.4567890123456789, 1 / 3e5])
def test_any_position_is_written_within_the_length_of_a_decimal_string(place: float, tmp_path: Path) -> None:
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[:3, 3] = place
    paths = write_series(tmp_path / "s", noise((4, 3, 2)), affine, INFO)
    position = pydicom.dcmread(paths[0]).ImagePositionPatient
    assert max(len(str(each.original_string)) for each in position) <= 16
    assert np.allclose(np.array(position, float), [-place, -place, place], rtol=1e-8, atol=1e-15)


def test_another_patient_gets_other_uids() -> None:
    other = SeriesInfo("P-2", "Müller^Jörg", description="for tests")
    assert other.study_uid != INFO.study_uid
    assert other.uid() != INFO.uid()


def test_what_slices_cannot_express_is_refused(tmp_path: Path) -> None:
    sheared = np.eye(4)
    sheared[0, 2] = 0.2
    with pytest.raises(GeometryError, match="not upright on each other"):
        on_dicom_grid(noise((3, 3, 3)), sheared)
    with pytest.raises(GeometryError, match="runs against the slices' normal"):
        write_series(tmp_path, noise((3, 3, 3)), affine_of("LPI"), INFO)
    with pytest.raises(GeometryError, match="must name each of them once"):
        write_series(tmp_path, noise((3, 3, 3)), affine_of("LPS"), INFO, [0, 0, 1])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("codes", ["LPS", "LPI", "RAS", "SAR"])
@pytest.mark.parametrize("order", ["ascending", "descending", "shuffled"])
def test_the_click_of_a_phantom_finds_its_lesion_in_the_series(codes: str, order: str, tmp_path: Path) -> None:
    array, label_map = noise((9, 8, 6)), np.zeros((9, 8, 6), np.uint8)
    array[4:7, 1:4, 3:6], label_map[4:7, 1:4, 3:6] = 2000, 1
    phantom = Phantom(array, affine_of(codes, (2.0, 2.0, 2.0)), label_map, ("lesion",))
    write_phantom(tmp_path / "s", phantom, INFO, order)
    read, *_ = read_series(tmp_path / "s", LIMIT)
    i, j, k = dicom_click(phantom)
    assert read[i, j, k] == 2000
    assert read[i - 1 : i + 2, j - 1 : j + 2, k - 1 : k + 2].min() == 2000  # its middle
