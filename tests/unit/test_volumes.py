"""What opens, how it lies, and the one sentence for whatever does not open."""

from __future__ import annotations

import gzip
import os
import threading
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from lib.errors import VolumeError
from lib.images.volumes import Volume, VolumeCache, make_volume, open_volume
from unit.volumes_on_disk import numbered, write_dicom_series, write_itk, write_nifti

SHARED = Path(__file__).parents[2].parent / "shared" / "data"

AFFINE = np.array([[0.7, 0, 0, -30.0], [0, 0, 2.5, 11.0], [0, -0.9, 0, 900.0], [0, 0, 0, 1]])
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = Rotation.from_euler("xyz", (11, -17, 23), degrees=True).as_matrix() @ np.diag([0.7, 0.8, 3.0])
OBLIQUE[:3, 3] = (12.5, -40.0, 333.25)
SHAPE = (5, 4, 3)


def refusal(path: Path, **limits: int) -> str:
    """The one sentence, which may name the file but not the folder it is in."""
    with pytest.raises(VolumeError) as caught:
        open_volume(path, **limits)
    message = str(caught.value)
    assert path.name in message
    assert str(path.parent) not in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("ending", ["nii", "nii.gz", "nrrd", "mha", "mhd"])
def test_every_format_gives_the_same_voxels_at_the_same_place(tmp_path: Path, ending: str) -> None:
    array = numbered(SHAPE) - 30
    path = tmp_path / f"image.{ending}"
    write = write_nifti if ending.startswith("nii") else write_itk
    volume = open_volume(write(path, array, AFFINE))
    assert volume.array.dtype == np.int16
    assert np.array_equal(volume.array, array)
    assert np.allclose(volume.affine, AFFINE, atol=1e-6)
    assert np.allclose(volume.spacing, (0.7, 0.9, 2.5), atol=1e-6)
    assert volume.notes == ()
    with pytest.raises(ValueError, match="read-only"):
        volume.array[0, 0, 0] = 1


def test_a_second_nifti_version_opens(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(numbered(SHAPE), AFFINE), tmp_path / "image.nii.gz")
    assert np.array_equal(open_volume(tmp_path / "image.nii.gz").array, numbered(SHAPE))


@pytest.mark.parametrize("flip", [False, True])
def test_a_dicom_series_opens_as_simpleitk_counts_it(tmp_path: Path, flip: bool) -> None:
    affine = OBLIQUE.copy()
    array = numbered((6, 5, 7))
    if flip:  # in-plane axes turned by half, as a prone patient's are
        affine[:3, :2] *= -1
    # In LPS, i x j must be k: rows x columns gives the normal that slices are counted along.
    assert np.linalg.det(affine[:3, :3]) > 0
    folder = write_dicom_series(tmp_path / "series", array, affine)
    (folder / "SHA256SUMS").write_text("not an image")
    volume = open_volume(folder)
    assert volume.array.dtype == np.int16
    assert np.array_equal(volume.array, array)
    assert np.allclose(volume.affine, affine, atol=1e-5)
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    image = sitk.ReadImage(names)
    assert np.array_equal(sitk.GetArrayFromImage(image).T, volume.array)
    for index in ([0, 0, 0], [5, 0, 0], [0, 4, 0], [0, 0, 6], [2, 3, 4]):
        lps = np.array(image.TransformIndexToPhysicalPoint(index))
        assert np.allclose((volume.affine @ [*index, 1])[:3], lps * [-1, -1, 1], atol=1e-3)


def test_a_series_stored_against_its_normal_is_counted_along_it(tmp_path: Path) -> None:
    affine = OBLIQUE.copy()
    affine[:3, 2] *= -1
    volume = open_volume(write_dicom_series(tmp_path / "series", numbered((4, 3, 5)), affine))
    assert np.array_equal(volume.array, numbered((4, 3, 5))[:, :, ::-1])
    assert np.allclose(volume.affine[:3, 2], -affine[:3, 2], atol=1e-5)
    assert np.allclose(volume.affine[:3, 3], affine[:3, 3] + 4 * affine[:3, 2], atol=1e-4)


def test_a_sagittal_series_is_counted_along_its_own_normal(tmp_path: Path) -> None:
    affine = np.array([[0, 0, 2.0, 5.0], [-0.7, 0, 0, 6.0], [0, -0.8, 0, 7.0], [0, 0, 0, 1]])
    assert np.linalg.det(affine) > 0
    volume = open_volume(write_dicom_series(tmp_path / "sagittal", numbered((4, 3, 6)), affine))
    assert np.array_equal(volume.array, numbered((4, 3, 6)))
    assert np.allclose(volume.affine, affine, atol=1e-6)


def test_a_rescale_slope_per_slice_is_kept(tmp_path: Path) -> None:
    def rescale(k: int, slice_: object) -> None:
        slice_.RescaleSlope, slice_.RescaleIntercept = (1, 0.5, 0.25)[k], 0

    volume = open_volume(write_dicom_series(tmp_path / "pet", np.full((2, 2, 3), -1023), np.eye(4), rescale))
    assert volume.array.dtype == np.float32
    assert volume.array[0, 0].tolist() == [1.0, 0.5, 0.25]


@pytest.mark.parametrize(
    ("stored", "slope", "intercept", "expected", "dtype"),
    [
        (np.array([0, 1, 2], np.uint8), 1.0, -1024.0, [-1024, -1023, -1022], np.int16),
        (np.array([0, 1, 2], np.int16), 0.5, 1.0, [1, 1.5, 2], np.float32),
        (np.array([0, 1, 40000], np.uint16), 1.0, 0.0, [0, 1, 40000], np.float32),
        (np.array([0, 1, 30000], np.uint16), 1.0, 0.0, [0, 1, 30000], np.int16),
        (np.array([-5.0, 7.0, 9.0]), 1.0, 0.0, [-5, 7, 9], np.int16),
        (np.array([-5.5, 7.0, 9.0]), 1.0, 0.0, [-5.5, 7, 9], np.float32),
        (np.array([False, True, True]), 1.0, 0.0, [0, 1, 1], np.int16),
    ],
)
def test_scaling_is_applied_and_int16_kept_where_exact(
    stored: np.ndarray, slope: float, intercept: float, expected: list[float], dtype: type
) -> None:
    volume = make_volume(stored.reshape(1, 1, 3), np.eye(4), slope=slope, intercept=intercept)
    assert volume.array.dtype == dtype
    assert volume.array.ravel().tolist() == expected


def test_nifti_scaling_is_read_from_the_header(tmp_path: Path) -> None:
    def scale(header: nib.Nifti1Header) -> None:
        header["scl_slope"], header["scl_inter"] = 2, -100

    volume = open_volume(write_nifti(tmp_path / "ct.nii", numbered(SHAPE), AFFINE, scale))
    assert volume.array[:2, 0, 0].tolist() == [-100, -76]
    assert volume.array.dtype == np.int16


@pytest.mark.parametrize("shape", [(5, 4, 3, 1), (5, 4, 3, 1, 1)])
def test_a_single_channel_is_squeezed(tmp_path: Path, shape: tuple[int, ...]) -> None:
    volume = open_volume(write_nifti(tmp_path / "one.nii.gz", numbered(shape), AFFINE))
    assert np.array_equal(volume.array, numbered(SHAPE))


def test_a_leading_nrrd_list_of_one_is_squeezed_and_of_two_refused(tmp_path: Path) -> None:
    header = (
        "NRRD0004\ntype: short\ndimension: 4\nspace: left-posterior-superior\nsizes: {n} 3 4 5\n"
        "space directions: none (1,0,0) (0,2,0) (0,0,3)\nkinds: list domain domain domain\n"
        "endian: little\nencoding: raw\nspace origin: (5,6,7)\n\n"
    )
    path = tmp_path / "list.nrrd"
    path.write_bytes(header.format(n=1).encode() + numbered((5, 4, 3)).tobytes())
    volume = open_volume(path)
    assert np.array_equal(volume.array, numbered((5, 4, 3)).T)
    assert volume.affine.tolist() == [[-1, 0, 0, -5], [0, -2, 0, -6], [0, 0, 3, 7], [0, 0, 0, 1]]
    path.write_bytes(header.format(n=2).encode() + numbered((2, 5, 4, 3)).tobytes())
    assert "several values per voxel" in refusal(path)


def test_a_single_leading_axis_of_nrrd_takes_its_spacing_with_it(tmp_path: Path) -> None:
    path = tmp_path / "leading.nrrd"
    header = "NRRD0004\ntype: short\ndimension: 4\nsizes: 1 3 4 5\nspacings: 9 1 2 3\nendian: little\nencoding: raw\n\n"
    path.write_bytes(header.encode() + numbered((5, 4, 3)).tobytes())
    volume = open_volume(path)
    assert np.array_equal(volume.array, numbered((5, 4, 3)).T)
    assert volume.spacing.tolist() == [1, 2, 3]


@pytest.mark.parametrize("ending", ["nii.gz", "nrrd"])
def test_one_slice_and_a_picture_without_depth_open(tmp_path: Path, ending: str) -> None:
    write = write_nifti if ending == "nii.gz" else write_itk
    assert open_volume(write(tmp_path / f"slice.{ending}", numbered((5, 4, 1)), AFFINE)).shape == (5, 4, 1)
    if ending == "nrrd":
        sitk.WriteImage(sitk.GetImageFromArray(numbered((4, 5))), str(tmp_path / "flat.nrrd"))
    else:
        nib.save(nib.Nifti1Image(numbered((5, 4)), AFFINE), tmp_path / "flat.nii.gz")
    assert open_volume(tmp_path / f"flat.{ending}").shape == (5, 4, 1)
    folder = write_dicom_series(tmp_path / "single", numbered((5, 4, 1)), OBLIQUE)
    assert np.allclose(open_volume(folder).affine, OBLIQUE, atol=1e-4)


def test_voxels_that_are_not_finite_take_the_lowest_value_and_are_told_of(tmp_path: Path) -> None:
    array = numbered(SHAPE, "float32") + 0.5
    array[0, 0, 0], array[1, 0, 0], array[2, 0, 0] = np.nan, np.inf, -np.inf
    volume = open_volume(write_nifti(tmp_path / "holes.nii.gz", array, AFFINE))
    assert volume.array[:4, 0, 0].tolist() == [1.5, 1.5, 1.5, 36.5]
    assert volume.notes == ("3 voxels of holes.nii.gz were not finite and count as its lowest value",)
    nothing = write_nifti(tmp_path / "nothing.nii.gz", np.full(SHAPE, np.nan, np.float32), AFFINE)
    assert "no finite value" in refusal(nothing)


@pytest.mark.parametrize(
    ("field", "where", "value", "message"),
    [
        ("pixdim", 2, 0, "pixdim[2] = 0 in its header, which is no voxel spacing: it must be more than 0"),
        ("pixdim", 3, -1, "pixdim[3] = -1 in its header, and viewers differ"),
        ("pixdim", 1, np.nan, "pixdim[1] = nan in its header"),
        ("dim", 2, 0, "no voxels: its shape is (5, 0, 3)"),
        ("dim", 2, -4, "no voxels"),
        ("dim", 0, 9, "dim[0] = 9 in its header"),
        ("dim", slice(1, 4), 32000, "would take 125000000 MiB of memory, more than the 8192 MiB allowed"),
        ("srow_y", slice(0, 4), 0, "cannot be placed in space: the affine is singular"),
        ("srow_y", 0, np.inf, "cannot be placed in space: its header has srow_y = [inf"),
        ("datatype", (), 77, "datatype = 77 in its header"),
        ("vox_offset", (), 100_000, "no NIfTI image"),
        ("vox_offset", (), 0, "vox_offset = 0 in its header"),
        ("vox_offset", (), np.nan, "vox_offset = nan in its header"),
    ],
)
def test_nifti_headers_that_make_no_sense_are_refused(
    tmp_path: Path, field: str, where: object, value: object, message: str
) -> None:
    def spoil(header: nib.Nifti1Header) -> None:
        header[field][where] = value

    path = write_nifti(tmp_path / "spoilt.nii", numbered(SHAPE), AFFINE, spoil)
    assert message in refusal(path)


def test_channels_and_colours_are_refused(tmp_path: Path) -> None:
    assert "4 dimensions, shape (5, 4, 3, 2)" in refusal(
        write_nifti(tmp_path / "time.nii.gz", numbered((*SHAPE, 2)), AFFINE)
    )
    rgb = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    assert "colours or several values" in refusal(write_nifti(tmp_path / "rgb.nii.gz", rgb, AFFINE))
    assert "several values" in refusal(write_nifti(tmp_path / "mr.nii.gz", np.zeros(SHAPE, np.complex64), AFFINE))
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 4, 5, 3), np.uint8), isVector=True), str(tmp_path / "rgb.mha"))
    assert "several values" in refusal(tmp_path / "rgb.mha")
    sitk.WriteImage(sitk.GetImageFromArray(numbered((2, 3, 4, 5)), isVector=False), str(tmp_path / "time.nrrd"))
    assert "4 dimensions" in refusal(tmp_path / "time.nrrd")


@pytest.mark.parametrize("ending", ["nii", "nii.gz", "nrrd", "mha", "mhd"])
def test_files_that_are_no_image_are_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"file.{ending}"
    assert "does not exist" in refusal(path)
    path.touch()
    assert "empty file" in refusal(path)
    path.write_bytes(b"hello there " * 50)
    assert "damaged, cut short" in refusal(path)
    path.write_bytes(bytes(100_000))
    assert "damaged" in refusal(path)


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (b"PK\x03\x04", "a ZIP archive: unpack it"),
        (b"BZh9", "packed with bzip2"),
        (b"\xfd7zXZ\x00", "packed with xz"),
        (b"\x00" * 128 + b"DICM", "a DICOM file: give the folder"),
        (b"\n<!DOCTYPE html><html>", "a page of text"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a placeholder of Git LFS"),
        (b"\x89PNG\r\n\x1a\n", "a picture (PNG)"),
        (b"\x93NUMPY", "a NumPy array"),
    ],
)
@pytest.mark.parametrize("is_packed", [False, True])
def test_what_lies_under_an_image_s_name_is_named(tmp_path: Path, start: bytes, what: str, is_packed: bool) -> None:
    content = start + b"\x00" * 400
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content) if is_packed else content)
    assert refusal(tmp_path / "a.nii.gz").startswith(f"a.nii.gz is {what}")


def test_formats_that_itk_opens_beside_ours_are_named(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(numbered((3, 4, 5)))
    for ending, what in (("gipl", "a GIPL file"), ("vtk", "a VTK file"), ("mnc", "an HDF5 or MINC"), ("tif", "a TIFF")):
        sitk.WriteImage(image, str(tmp_path / f"a.{ending}"))
        assert refusal(tmp_path / f"a.{ending}").startswith(f"a.{ending} is {what}")


def test_what_was_packed_twice_is_said_to_be_that(tmp_path: Path) -> None:
    once = write_nifti(tmp_path / "once.nii.gz", numbered(SHAPE), AFFINE).read_bytes()
    (tmp_path / "twice.nii.gz").write_bytes(gzip.compress(once))
    assert refusal(tmp_path / "twice.nii.gz") == "twice.nii.gz is packed twice with gzip: unpack it once (gunzip)"


def test_what_has_no_format_or_no_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    assert "use one of .nii, .nii.gz, .hdr, .hdr.gz, .nrrd, .nhdr, .mha, .mhd, or a folder" in refusal(
        tmp_path / "notes.txt"
    )
    for nothing in ("", "."):
        with pytest.raises(VolumeError, match="no image was named"):
            open_volume(nothing)


@pytest.mark.parametrize("kept", [5, 60, 0.5, -9, -4])
def test_a_gzip_cut_anywhere_is_refused(tmp_path: Path, kept: float) -> None:
    noise = np.random.default_rng(3).integers(-999, 999, (30, 20, 10)).astype(np.int16)
    content = write_nifti(tmp_path / "cut.nii.gz", noise, AFFINE).read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(content[: int(kept * len(content)) if kept == 0.5 else int(kept)])
    assert "cut short" in refusal(tmp_path / "cut.nii.gz")


def test_one_wrong_byte_in_a_gzip_is_noticed(tmp_path: Path) -> None:
    # Stored without compression, so that only the checksum can tell.
    plain = write_nifti(tmp_path / "image.nii", numbered((20, 20, 20)), AFFINE).read_bytes()
    content = bytearray(gzip.compress(plain, compresslevel=0))
    content[5000] ^= 255
    (tmp_path / "image.nii.gz").write_bytes(content)
    assert "damaged" in refusal(tmp_path / "image.nii.gz")


def test_a_gzip_that_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib.images.nifti.MAX_SURPLUS_MIB", 2)
    plain = write_nifti(tmp_path / "image.nii", numbered(SHAPE), AFFINE).read_bytes()
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(plain + bytes(3 * 2**20)))
    assert "damaged" in refusal(tmp_path / "bomb.nii.gz")
    (tmp_path / "padded.nii.gz").write_bytes(gzip.compress(plain + bytes(1000)))
    assert open_volume(tmp_path / "padded.nii.gz").shape == SHAPE


@pytest.mark.parametrize("ending", ["nii", "nrrd", "mha", "mhd"])
def test_plain_files_cut_short_are_refused(tmp_path: Path, ending: str) -> None:
    write = write_nifti if ending == "nii" else write_itk
    path = write(tmp_path / f"cut.{ending}", numbered((20, 20, 20)), AFFINE)
    data = tmp_path / "cut.raw" if ending == "mhd" else path
    data.write_bytes(data.read_bytes()[:5000])
    assert "cut short" in refusal(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("spacings: 1 -2 3", "voxel spacing of [1.0, -2.0, 3.0] mm; it must be more than 0"),
        ("spacings: 1 0 3", "spacings = 1 0 3 in its header"),
        ("space: RAS\nspace directions: (1,0,0) (0,0,0) (0,0,3)", "voxel spacing of [1.0, 0.0, 3.0] mm"),
        ("space: RAS\nspace directions: (1,0,0) (1,0,0) (0,0,3)", "its axes lie in one plane"),
        ("spacings: 1 1 1\ndata file: /etc/hostname", "data files elsewhere"),
        ("spacings: 1 1 1\ndata file: LIST", "a list of them"),
        ("spacings: 1 1 1\n#" + 70_000 * "x", "no header in its first 65536 bytes"),
    ],
)
def test_nrrd_headers_that_make_no_sense_are_refused(tmp_path: Path, header: str, message: str) -> None:
    path = tmp_path / "spoilt.nrrd"
    text = f"NRRD0004\ntype: short\ndimension: 3\nsizes: 3 4 5\nendian: little\nencoding: raw\n{header}\n\n"
    path.write_bytes(text.encode() + numbered((5, 4, 3)).tobytes())
    assert message in refusal(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ElementSpacing = ", "ElementSpacing = -", "voxel spacing of [-0.7, 0.9, 2.5] mm"),
        ("ElementSpacing = ", "ElementSpacing = 0 ", "voxel spacing of [0.0, 0.7, 0.9] mm"),
        ("ElementDataFile = image.raw", "ElementDataFile = /etc/hostname", "data files elsewhere"),
        ("ElementDataFile = image.raw", "ElementDataFile = ../image.raw", "data files elsewhere"),
        ("ElementDataFile = image.raw", "ElementDataFile = LIST", "a list of them"),
        ("ElementDataFile = image.raw", "ElementDataFile = gone.raw", "voxels are not beside it: put gone.raw"),
    ],
)
def test_metaimage_headers_that_make_no_sense_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = write_itk(tmp_path / "image.mhd", numbered(SHAPE), AFFINE)
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert message in refusal(path)


def test_too_large_a_volume_is_refused_from_its_header(tmp_path: Path) -> None:
    array = numbered((40, 40, 40))
    message = "would take 0 MiB of memory, more than the 0 MiB allowed"
    for path in (
        write_nifti(tmp_path / "large.nii.gz", array, AFFINE),
        write_itk(tmp_path / "large.nrrd", array, AFFINE),
        write_dicom_series(tmp_path / "large", array, OBLIQUE),
    ):
        assert message in refusal(path, limit_bytes=100_000)
        assert open_volume(path, limit_bytes=40**3 * 4).shape == (40, 40, 40)


def test_dicom_folders_without_a_stack_are_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no DICOM slices" in refusal(empty)
    (empty / "readme.txt").write_text("nothing here")
    assert "holds no DICOM slices" in refusal(empty)


def test_a_missing_slice_is_refused_and_located(tmp_path: Path) -> None:
    array = numbered((4, 3, 20))
    message = refusal(write_dicom_series(tmp_path / "gap", array, OBLIQUE, skip=(11,)))
    assert "misses slices: 6 mm lie between" in message
    assert "slices are 3 mm apart" in message
    for skip in ((1,), (18,), (5, 6, 7)):
        assert "misses slices" in refusal(write_dicom_series(tmp_path / f"gap{skip[0]}", array, OBLIQUE, skip=skip))


def test_dicom_stacks_that_are_not_even_are_refused(tmp_path: Path) -> None:
    array = numbered((4, 3, 8))

    def series(name: str, edit: object) -> str:
        return refusal(write_dicom_series(tmp_path / name, array, np.eye(4), edit))

    def uneven(k: int, slice_: object) -> None:
        slice_.ImagePositionPatient = [0, 0, k + 0.3 * (k % 2)]

    def two_series(k: int, slice_: object) -> None:
        slice_.SeriesInstanceUID = f"1.2.{k // 4}"

    assert "unevenly spaced slices, 0.7 to 1.3 mm apart" in series("uneven", uneven)
    assert "mixes 2 DICOM series" in series("two", two_series)


def test_rounded_slice_positions_are_no_reason_to_refuse(tmp_path: Path) -> None:
    def rounded(k: int, slice_: object) -> None:
        slice_.ImagePositionPatient = [0, 0, round(0.625 * k, 1)]

    volume = open_volume(write_dicom_series(tmp_path / "rounded", numbered((4, 3, 9)), np.eye(4), rounded))
    assert np.allclose(volume.spacing, (1, 1, 0.625))


def test_dicom_files_that_are_no_plain_slice_are_refused(tmp_path: Path) -> None:
    def series(name: str, edit: object) -> str:
        return refusal(write_dicom_series(tmp_path / name, numbered((4, 3, 2)), np.eye(4), edit))

    def frames(_: int, slice_: object) -> None:
        slice_.NumberOfFrames = 5

    def colour(_: int, slice_: object) -> None:
        slice_.SamplesPerPixel = 3

    def nowhere(_: int, slice_: object) -> None:
        del slice_.ImagePositionPatient

    def flat(_: int, slice_: object) -> None:
        slice_.PixelSpacing = [0, 1]

    def skewed(_: int, slice_: object) -> None:
        slice_.ImageOrientationPatient = [1, 0, 0, 1, 0, 0]

    assert "multi-frame DICOM file" in series("frames", frames)
    assert "is a colour image" in series("colour", colour)
    assert "has no ImagePositionPatient" in series("nowhere", nowhere)
    assert "pixel spacing [0.0, 1.0] mm" in series("flat", flat)
    assert "position or orientation that makes no sense" in series("skewed", skewed)


def test_a_dicom_file_cut_short_is_refused(tmp_path: Path) -> None:
    folder = write_dicom_series(tmp_path / "cut", numbered((40, 30, 3)), OBLIQUE)
    victim = sorted(folder.iterdir())[1]
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-500])
    assert "pixels of cut cannot be decoded" in refusal(folder)
    for kept in (0, 100, 200, 500):
        victim.write_bytes(whole[:kept])
        assert f"{victim.name} in cut" in refusal(folder)


def test_dicom_files_that_never_had_pixels_are_passed_over(tmp_path: Path) -> None:
    def contours(k: int, slice_: object) -> None:
        if k == 2:
            slice_.Modality, slice_.SeriesInstanceUID = "RTSTRUCT", "1.2.3"
            del slice_.Rows, slice_.PixelData

    assert open_volume(write_dicom_series(tmp_path / "rt", numbered((4, 3, 3)), OBLIQUE, contours)).shape == (4, 3, 2)


def test_nothing_is_left_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    folder = write_dicom_series(tmp_path / "in" / "series", numbered((4, 3, 5)), OBLIQUE)
    write_nifti(tmp_path / "in" / "image.nii.gz", numbered(SHAPE), AFFINE)
    before = sorted(tmp_path.rglob("*"))
    open_volume(folder)
    open_volume(tmp_path / "in" / "image.nii.gz")
    assert sorted(tmp_path.rglob("*")) == before


def test_the_key_names_the_content(tmp_path: Path) -> None:
    array = numbered(SHAPE)
    first = open_volume(write_nifti(tmp_path / "a.nii.gz", array, AFFINE))
    assert open_volume(write_nifti(tmp_path / "b.nii", array, AFFINE)).key == first.key
    edited, moved = array.copy(), AFFINE.copy()
    edited[3, 2, 1] += 1
    moved[0, 3] += 1
    nothing = np.zeros(SHAPE, np.int16)
    different = [
        make_volume(array, AFFINE),
        make_volume(edited, AFFINE),
        make_volume(array, moved),
        make_volume(nothing, AFFINE),
        make_volume(nothing.reshape(3, 4, 5), AFFINE),
    ]
    assert len({volume.key for volume in different}) == len(different)
    assert make_volume(array.copy(), AFFINE.copy()).key == different[0].key


def test_the_cache_hands_out_the_same_volume_until_the_file_changes(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii.gz", numbered(SHAPE), AFFINE)
    cache = VolumeCache(limit_bytes=10_000)
    first = cache.open(path)
    assert cache.open(str(path)) is first
    write_nifti(path, numbered(SHAPE) + 1, AFFINE)
    os.utime(path, ns=(1, 1))
    assert cache.open(path).array[0, 0, 0] == 1
    folder = write_dicom_series(tmp_path / "series", numbered((4, 3, 5)), OBLIQUE, skip=(4,))
    assert cache.open(folder) is cache.open(folder)
    write_dicom_series(folder, numbered((4, 3, 5)), OBLIQUE)
    assert cache.open(folder).shape == (4, 3, 5)


def test_the_cache_drops_the_least_recently_used(tmp_path: Path) -> None:
    paths = [write_nifti(tmp_path / f"{n}.nii.gz", numbered((10, 10, 10)), AFFINE) for n in range(3)]
    cache = VolumeCache(limit_bytes=2 * 2000)
    first, second = cache.open(paths[0]), cache.open(paths[1])
    assert cache.open(paths[0]) is first
    cache.open(paths[2])
    assert cache.used_bytes == 4000
    assert cache.open(paths[0]) is first
    assert cache.open(paths[1]) is not second
    large = write_nifti(tmp_path / "large.nii.gz", numbered((20, 20, 20)), AFFINE)
    assert cache.open(large).shape == (20, 20, 20)
    assert cache.used_bytes == 4000
    assert cache.open(paths[0]) is first


def test_threads_share_one_reading_and_errors_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_nifti(tmp_path / "a.nii.gz", numbered(SHAPE), AFFINE)
    readings, gate = [], threading.Event()

    def slow_open(where: Path, limit_bytes: int) -> Volume:
        readings.append(where)
        assert gate.wait(10)
        return open_volume(where, limit_bytes)

    monkeypatch.setattr("lib.images.volumes.open_volume", slow_open)
    cache = VolumeCache(limit_bytes=10)  # too small to keep it: the threads must share the reading itself
    volumes: list[Volume] = []
    threads = [threading.Thread(target=lambda: volumes.append(cache.open(path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    while sum(reading.waiting for reading in cache._volumes._makings.values()) < 8:
        pass
    gate.set()
    for thread in threads:
        thread.join()
    assert len(volumes) == 8
    assert len({id(volume) for volume in volumes}) == len(readings) == 1
    assert not cache._volumes._makings

    missing = tmp_path / "later.nii.gz"
    with pytest.raises(VolumeError, match="does not exist"):
        cache.open(missing)
    write_nifti(missing, numbered(SHAPE), AFFINE)
    assert cache.open(missing).shape == SHAPE


needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"real volumes are not here ({SHARED.name} is absent)")


@pytest.mark.data
@needs_shared
def test_every_real_image_opens_on_its_labels_grid() -> None:
    images = sorted(SHARED.rglob("*_image.nii.gz"))
    assert len(images) >= 27
    for image in images:
        volume = open_volume(image)
        label = nib.load(str(image).replace("_image", "_label"))
        assert volume.shape == label.shape, image.name
        assert np.allclose(volume.affine, label.affine, atol=1e-3), image.name
        assert volume.notes == ()


@pytest.mark.data
@needs_shared
@pytest.mark.parametrize("case", ["CRLM-CT-1004_CT", "LIDC-IDRI-0314_CT_subset", "STS_001_CT"])
def test_real_dicom_series_open_on_their_labels_grid(case: str) -> None:
    volume = open_volume(SHARED / "dicom" / case / "ct")
    label = nib.load(SHARED / "dicom" / case / "label.nii.gz")
    assert volume.shape == label.shape
    assert np.allclose(volume.affine, label.affine, atol=1e-3)


@pytest.mark.data
@needs_shared
def test_a_real_series_without_its_middle_is_refused(tmp_path: Path) -> None:
    source = SHARED / "dicom" / "CRLM-CT-1004_CT" / "ct"
    folder = tmp_path / "ct"
    folder.mkdir()
    for file in sorted(source.iterdir())[:12]:
        if not file.name.endswith("-06.dcm"):
            (folder / file.name).symlink_to(file)
    assert "misses slices: 10 mm lie between" in refusal(folder)
