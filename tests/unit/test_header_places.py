"""Images, labels and replies lie where ITK, and with it 3D Slicer, ITK-SNAP and nnU-Net, puts the image."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from itertools import permutations, product
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from lib.errors import VolumeError
from lib.images.nifti_writing import save_nifti
from lib.images.volumes import VolumeCache, open_volume
from lib.infers.reply import ReplyFiles
from lib.labels.masks import read_label
from lib.learning.cases import Case, CaseStore
from lib.network.weights import Card
from lib.settings import PRESETS, VARIANTS
from unit.volumes_on_disk import numbered, write_nifti

ORIENTATIONS = [(order, flips) for order in permutations(range(3)) for flips in product((1, -1), repeat=3)]
LPS_RAS = np.array([-1.0, -1.0, 1.0])
SHAPE = (5, 4, 3)
CORNERS = [[int(place) for place in corner] for corner in product((0, 4), (0, 3), (0, 2))]
TOLERANCE_MM = 0.01

BASE = np.eye(4)
BASE[:3, :3] = Rotation.from_euler("xyz", (11, -17, 23), degrees=True).as_matrix() @ np.diag([0.7, 0.8, 3.0])
BASE[:3, 3] = (112.5, -240.0, 933.25)
STRAIGHT = np.diag([-1.0, -1.0, 1.5, 1.0])
STRAIGHT[:3, 3] = (30, 25, -20)


def oriented(affine: NDArray, order: tuple[int, ...], flips: tuple[int, ...]) -> NDArray:
    turned = affine.copy()
    turned[:3, :3] = affine[:3, list(order)] * flips
    return turned


def forms(path: Path, affine: NDArray, sform: NDArray | None = None, codes: tuple = (1, 1), unit: str = "mm") -> Path:
    image = nib.Nifti1Image(numbered(SHAPE), affine)
    image.set_qform(affine, codes[0])
    image.set_sform(affine if sform is None else sform, codes[1])
    image.header.set_xyzt_units(unit)
    nib.save(image, path)
    return path


def in_unit(factor: float, unit: str) -> Callable[[Path, NDArray], Path]:
    return lambda path, affine: forms(path, np.diag([factor, factor, factor, 1.0]) @ affine, unit=unit)


def elsewhere(affine: NDArray) -> NDArray:
    """Aligned with another scan: turned a little, and moved."""
    moved = np.eye(4)
    moved[:3, :3] = Rotation.from_euler("zyx", (4, 2, -3), degrees=True).as_matrix()
    moved[:3, 3] = (8, -5, 6)
    return moved @ affine


def other_pixdim(path: Path, affine: NDArray) -> Path:
    def edit(header: nib.Nifti1Header) -> None:
        header["pixdim"][1:4] = [1.4, 0.5, 2.0]
        header["qform_code"] = 0
        header["sform_code"] = 1

    return write_nifti(path, numbered(SHAPE), affine, edit)


def big_endian(path: Path, affine: NDArray) -> Path:
    image = nib.Nifti1Image(numbered(SHAPE), affine, nib.Nifti1Header(endianness=">"))
    image.set_data_dtype(np.int16)
    nib.save(image, path)
    return path


def odd_codes(path: Path, affine: NDArray) -> Path:
    def edit(header: nib.Nifti1Header) -> None:
        header["qform_code"], header["sform_code"] = 99, 7
        header["srow_x"] += 3

    return write_nifti(path, numbered(SHAPE), affine, edit)


KINDS: dict[str, Callable[[Path, NDArray], Path]] = {
    "both forms alike": forms,
    "qform alone": lambda path, affine: forms(path, affine, codes=(1, 0)),
    "sform alone": lambda path, affine: forms(path, affine, codes=(0, 2)),
    "no form": lambda path, affine: forms(path, affine, codes=(0, 0)),
    "aligned by the sform": lambda path, affine: forms(path, affine, elsewhere(affine), codes=(1, 2)),
    "scanner in the sform": lambda path, affine: forms(path, elsewhere(affine), affine, codes=(2, 1)),
    "micrometres": in_unit(1e3, "micron"),
    "metres": in_unit(1e-3, "meter"),
    "pixdim of its own": other_pixdim,
    "big-endian": big_endian,
    "codes without a meaning": odd_codes,
}


def itk_points(image: sitk.Image) -> NDArray:
    """Where a viewer shows the corner voxels, RAS."""
    return np.array([image.TransformIndexToPhysicalPoint(corner) for corner in CORNERS]) * LPS_RAS


def points(affine: NDArray) -> NDArray:
    return np.array(CORNERS) @ affine[:3, :3].T + affine[:3, 3]


def off_mm(first: NDArray, second: NDArray) -> float:
    return float(np.linalg.norm(first - second, axis=1).max())


def drawn() -> NDArray:
    """A label without any symmetry."""
    label = np.zeros(SHAPE, np.uint8)
    label[1:4, 1:3, 1] = 1
    label[1, 2, 2] = label[3, 0, 0] = 1
    return label


def faults(image_path: Path, folder: Path, label_ending: str) -> list[str]:
    """What of an image, its replies, a label drawn on it and its training case lies elsewhere than ITK's image."""
    image = sitk.ReadImage(str(image_path))
    expected = itk_points(image)
    found = []
    volume = open_volume(image_path)
    if not np.array_equal(volume.array, sitk.GetArrayFromImage(image).T):
        found.append("voxels")
    if off_mm(points(volume.affine), expected) > TOLERANCE_MM:
        found.append("image")
    for ending in (".nrrd", ".nii.gz"):
        whole = tuple(slice(0, n) for n in SHAPE)
        reply = ReplyFiles().write(drawn(), whole, volume.affine, ending, is_compressed=False)
        if off_mm(itk_points(sitk.ReadImage(str(reply))), expected) > TOLERANCE_MM:
            found.append(f"reply {ending}")
        reply.unlink()
    label = sitk.GetImageFromArray(drawn().T)
    label.CopyInformation(image)
    label_path = folder / f"drawn{label_ending}"
    sitk.WriteImage(label, str(label_path))
    read = read_label(label_path, volume, ["lesion"])
    if not np.array_equal(read.masks["lesion"], drawn() == 1) or read.notes:
        found.append("label")
    card = Card("tiny", VARIANTS["tiny"], PRESETS["mr"], 1.0)
    store = CaseStore([Case("case", image_path, label_path)], ["lesion"], card, None, 2**20)
    prepared = store.open("case")
    if prepared is None or off_mm(points(prepared.volume.affine), expected) > TOLERANCE_MM:
        found.append(f"training {store.skipped}")
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_everything_lies_where_itk_puts_the_image(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture) -> None:
    tried, off = 0, []
    for number, (order, flips) in enumerate(ORIENTATIONS):
        affine = oriented(BASE if number % 2 else STRAIGHT, order, flips)
        nifti = KINDS[kind](tmp_path / f"{number}.nii", affine)
        for ending, label_ending in ((".nii", ".nii.gz"), (".nrrd", ".nrrd"), (".mha", ".mha")):
            path = nifti.with_suffix(ending)
            if path != nifti:
                sitk.WriteImage(sitk.ReadImage(str(nifti)), str(path))
            tried += 1
            off += [(order, flips, ending, found) for found in faults(path, tmp_path, label_ending)]
    with capsys.disabled():
        print(f"\n{kind}: {tried} files tried, {len(off)} off", end="")
    assert off == []


@pytest.mark.parametrize("kind", ["both forms alike", "qform alone", "sform alone", "no form", "micrometres", "metres"])
def test_a_header_that_says_one_thing_gets_none(tmp_path: Path, kind: str) -> None:
    for affine in (BASE, STRAIGHT):
        assert open_volume(KINDS[kind](tmp_path / "scan.nii", affine)).notes == ()


@pytest.mark.parametrize("kind", ["aligned by the sform", "scanner in the sform", "pixdim of its own"])
def test_a_header_whose_forms_disagree_gets_a_note(tmp_path: Path, kind: str) -> None:
    (note,) = open_volume(KINDS[kind](tmp_path / "scan.nii", BASE)).notes
    assert note.startswith("the header of scan.nii places it twice, up to ")
    used = "qform" if kind == "aligned by the sform" else "sform"
    assert f"its {used}" in note


def test_the_note_names_the_millimetres(tmp_path: Path) -> None:
    moved = STRAIGHT.copy()
    moved[:3, 3] += (8, -5, 6)
    (note,) = open_volume(forms(tmp_path / "scan.nii", STRAIGHT, moved, codes=(1, 2))).notes
    assert "up to 11.2 mm apart" in note


def test_a_second_nifti_version_lies_where_its_first_would(tmp_path: Path) -> None:
    image = nib.Nifti2Image(numbered(SHAPE), BASE)
    image.set_qform(BASE, 1)
    image.set_sform(elsewhere(BASE), 2)
    image.header.set_xyzt_units("micron")
    nib.save(image, tmp_path / "second.nii.gz")
    first = forms(tmp_path / "first.nii", BASE, elsewhere(BASE), codes=(1, 2), unit="micron")
    volume = open_volume(tmp_path / "second.nii.gz")
    assert off_mm(points(volume.affine), itk_points(sitk.ReadImage(str(first)))) < 1e-6
    assert volume.spacing == pytest.approx([0.0007, 0.0008, 0.003])


def test_axes_that_are_not_at_right_angles_go_on_with_a_note(tmp_path: Path) -> None:
    sheared = STRAIGHT.copy()
    sheared[0, 2] = 0.4
    path = forms(tmp_path / "sheared.nii.gz", np.diag([1e3, 1e3, 1e3, 1.0]) @ sheared, codes=(0, 1), unit="micron")
    volume = open_volume(path)
    assert np.allclose(volume.affine, sheared)
    assert volume.notes == (
        "the axes of sheared.nii.gz are not at right angles: 3D Slicer and ITK-SNAP do not open it; resample it to a "
        "grid that is",
    )
    whole = tuple(slice(0, n) for n in SHAPE)
    for ending in (".nii.gz", ".nrrd"):
        reply = ReplyFiles().write(drawn(), whole, volume.affine, ending, is_compressed=False)
        assert np.allclose(open_volume(reply).affine, sheared)  # not turned into axes at right angles
        assert np.array_equal(read_label(reply, volume, ["lesion"]).masks["lesion"], drawn() == 1)
        reply.unlink()


@pytest.mark.parametrize("lean", [1e-5, 3e-4, 4e-3])
def test_slices_that_drift_by_rounding_are_written_so_that_slicer_opens_them(tmp_path: Path, lean: float) -> None:
    drifting = BASE @ np.array([[1, 0, lean * 3.0 / 0.7, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    save_nifti(tmp_path / "series.nii", numbered(SHAPE), drifting)
    image = sitk.ReadImage(str(tmp_path / "series.nii"))
    volume = open_volume(tmp_path / "series.nii")
    assert off_mm(points(volume.affine), itk_points(image)) < TOLERANCE_MM
    assert off_mm(points(volume.affine), points(drifting)) < lean * 10
    assert volume.notes == ()


# ------------------------------------------------ what ITK opens, and what content says


def test_the_content_decides_and_not_the_ending(tmp_path: Path) -> None:
    plain = forms(tmp_path / "plain.nii", BASE)
    image = sitk.ReadImage(str(plain))
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    sitk.WriteImage(image, str(tmp_path / "a.mha"))
    files = {
        "not_packed.nii.gz": plain.read_bytes(),
        "packed.nii": gzip.compress(plain.read_bytes()),
        "nifti.nrrd": plain.read_bytes(),
        "nrrd.nii.gz": (tmp_path / "a.nrrd").read_bytes(),
        "meta.nrrd": (tmp_path / "a.mha").read_bytes(),
        "nrrd.mha": (tmp_path / "a.nrrd").read_bytes(),
        "UPPER.NII.GZ": gzip.compress(plain.read_bytes()),
        "no ending": plain.read_bytes(),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        volume = open_volume(tmp_path / name)
        assert np.array_equal(volume.array, numbered(SHAPE)), name
        assert off_mm(points(volume.affine), itk_points(image)) < TOLERANCE_MM, name
    (tmp_path / "packed.nrrd").write_bytes(gzip.compress((tmp_path / "a.nrrd").read_bytes()))
    with pytest.raises(VolumeError, match=r"packed.nrrd is a NRRD or MetaImage file packed with gzip; unpack it"):
        open_volume(tmp_path / "packed.nrrd")


def test_pairs_of_header_and_voxels_open_by_either_name(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(numbered(SHAPE), BASE), tmp_path / "pair.hdr")
    nib.save(nib.analyze.AnalyzeImage(numbered(SHAPE), np.diag([0.7, 0.8, 3.0, 1.0])), tmp_path / "old.hdr")
    for name in ("pair", "old"):
        image = sitk.ReadImage(str(tmp_path / f"{name}.hdr"))
        for ending in (".hdr", ".img"):
            volume = open_volume(tmp_path / f"{name}{ending}")
            assert np.array_equal(volume.array, numbered(SHAPE))
            assert off_mm(points(volume.affine), itk_points(image)) < TOLERANCE_MM
            assert volume.notes == ()
    cache = VolumeCache(2**20)
    first = cache.open(tmp_path / "pair.hdr")
    assert cache.open(tmp_path / "pair.hdr") is first
    nib.save(nib.Nifti1Pair(numbered(SHAPE) + 1, BASE), tmp_path / "new.hdr")
    shutil.copy(tmp_path / "new.img", tmp_path / "pair.img")
    assert cache.open(tmp_path / "pair.hdr").array[0, 0, 0] == 1
    (tmp_path / "pair.img").unlink()
    with pytest.raises(VolumeError, match=r"pair.hdr is a header whose voxels are not beside it: put pair.img there"):
        open_volume(tmp_path / "pair.hdr")


def spoilt(field: str, value: object, where: object = ()) -> Callable[[nib.Nifti1Header], None]:
    def edit(header: nib.Nifti1Header) -> None:
        header[field][where] = value

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        spoilt("scl_inter", np.nan),
        spoilt("scl_slope", 0),
        spoilt("bitpix", 3),
        spoilt("sizeof_hdr", 0),
        spoilt("magic", b"ni1"),
        spoilt("dim", [4, 5, 4, 3, 0], slice(0, 5)),
        spoilt("quatern_b", 0.9),
        spoilt("pixdim", 0, 0),
        spoilt("qform_code", -1),
    ],
)
def test_what_itk_opens_opens(tmp_path: Path, edit: Callable[[nib.Nifti1Header], None]) -> None:
    path = write_nifti(tmp_path / "odd.nii", numbered(SHAPE), BASE, edit)
    image = sitk.ReadImage(str(path))
    volume = open_volume(path)
    assert np.array_equal(volume.array, sitk.GetArrayFromImage(image).T)
    assert off_mm(points(volume.affine), itk_points(image)) < TOLERANCE_MM


def test_the_line_that_a_negative_spacing_is_answered_with_mends_it(tmp_path: Path) -> None:
    def edit(header: nib.Nifti1Header) -> None:
        header["pixdim"][1] *= -1
        header["qform_code"] = 1

    path = write_nifti(tmp_path / "negative.nii", numbered(SHAPE), STRAIGHT, edit)
    with pytest.raises(VolumeError, match=r"pixdim\[1\] = -1 in its header") as caught:
        open_volume(path)
    line = str(caught.value).partition("python -c ")[2].strip('"')
    assert line == "import nibabel; nibabel.save(nibabel.load('negative.nii'), 'mended.nii.gz')"
    nib.save(nib.load(path), tmp_path / "mended.nii.gz")
    assert np.allclose(open_volume(tmp_path / "mended.nii.gz").affine, STRAIGHT)
    image = sitk.ReadImage(str(tmp_path / "mended.nii.gz"))
    assert off_mm(points(STRAIGHT), itk_points(image)) < TOLERANCE_MM


PLACES = st.fixed_dictionaries(
    {},
    optional={
        "qform_code": st.sampled_from([-1, 0, 1, 2, 4, 99]),
        "sform_code": st.sampled_from([-1, 0, 1, 2, 4, 99]),
        "quatern_b": st.sampled_from([0.0, 0.3, 0.9, -1.0, 1.5, np.nan]),
        "quatern_d": st.sampled_from([0.0, 0.3, 0.9, -1.0]),
        "qoffset_x": st.sampled_from([0.0, -33.3, 1e4, np.nan]),
        "srow_x": st.sampled_from([(0, 0, 0, 0), (1, 0, 0, 5), (-0.7, 0, 0, 1e4), (0.7, 0.2, 0, 3), (np.nan, 0, 0, 1)]),
        "srow_z": st.sampled_from([(0, 0, 3, 1), (0, 0, -3, 7), (0, 0.8, 0, 2)]),
        "pixdim": st.sampled_from([(1, 2, 3), (0.7, -0.8, 3), (0.7, 0.8, 0), (np.inf, 1, 1), (1e-3, 700, 1)]),
        "qfac": st.sampled_from([-1.0, 0.0, 1.0, 3.0, np.nan]),
        "xyzt_units": st.sampled_from([0, 1, 2, 3, 4, 8, 10, 11, 17, 64, 255]),
    },
)


@given(PLACES)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_header_lies_where_itk_puts_it_or_is_refused_by_its_field(fields: dict[str, object]) -> None:
    def edit(header: nib.Nifti1Header) -> None:
        for field, value in fields.items():
            if field == "qfac":
                header["pixdim"][0] = value
            elif field == "pixdim":
                header["pixdim"][1:4] = value
            else:
                header[field] = value

    with TemporaryDirectory() as folder:
        path = write_nifti(Path(folder) / "odd.nii", numbered(SHAPE), BASE, edit)
        volume, refusal = None, ""
        try:
            volume = open_volume(path)
        except VolumeError as error:
            refusal = str(error)
        if volume is None:
            assert any(word in refusal for word in ("pixdim[", "srow_", "quatern_", "qoffset_", "singular"))
            return
        try:
            image = sitk.ReadImage(str(path))
        except RuntimeError:
            assert "right angles" in volume.notes[0]
            return
        # Float32 has seven digits, and micrometres take three of them.
        tolerance = max(TOLERANCE_MM, 1e-6 * float(np.abs(itk_points(image)).max()))
        assert off_mm(points(volume.affine), itk_points(image)) < tolerance
