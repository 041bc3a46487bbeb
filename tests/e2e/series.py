"""The patients of the specs: phantoms as DICOM series, in the ways scanners lay slices."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pydicom
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from lib.images.dicom_writing import SeriesInfo, on_dicom_grid, write_series
from lib.synthesis.phantoms import make_phantom

LPS_RAS = np.diag([-1.0, -1.0, 1.0])
Voxel = tuple[int, int, int]


@dataclass(frozen=True)
class Case:
    """A series and the truth about it, on the grid (I, J, K) that both the viewer and the server count voxels on."""

    study: str
    series: str
    patient: str
    affine: NDArray[np.float64]
    label_map: NDArray[np.uint8]
    names: tuple[str, ...] = ("lesion",)

    def mask(self, name: str) -> NDArray[np.bool_]:
        """The largest connected part of a structure."""
        parts, _ = ndimage.label(self.label_map == self.names.index(name) + 1)
        sizes = np.bincount(parts.ravel())[1:]
        return np.asarray(parts == int(np.argmax(sizes)) + 1)

    def deepest(self, name: str) -> Voxel:
        """The voxel of that part farthest from its surface."""
        spacing = np.linalg.norm(self.affine[:3, :3], axis=0)
        mask = self.mask(name)
        (box,) = ndimage.find_objects(mask.astype(np.uint8))
        depth = ndimage.distance_transform_edt(np.pad(mask[box], 1), sampling=spacing)
        within = np.unravel_index(int(depth.argmax()), depth.shape)
        i, j, k = (int(at) - 1 + side.start for at, side in zip(within, box, strict=True))
        return i, j, k

    def lps_mm(self, voxel: Voxel) -> list[float]:
        """Where the voxel's centre is in the patient, as DICOM counts millimetres."""
        return [float(value) for value in LPS_RAS @ (self.affine[:3, :3] @ np.array(voxel) + self.affine[:3, 3])]


@dataclass(frozen=True)
class Layout:
    """How slices lie and in which order they are numbered. Orientation codes are those of axes i, j, k."""

    orientation: str = "LPS"
    shape: Voxel = (104, 96, 44)
    spacing_mm: tuple[float, float, float] = (2.2, 2.2, 4.0)
    order: str = "ascending"
    rotation_deg: tuple[float, float, float] | None = None


LAYOUTS = {
    "ascending": Layout(),
    "descending": Layout(order="descending"),
    "oblique": Layout(spacing_mm=(2.2, 2.6, 3.5), order="shuffled", rotation_deg=(18.0, -11.0, 14.0)),
    "sagittal": Layout("PIR", shape=(96, 72, 80), spacing_mm=(2.3, 2.6, 2.9)),
    "anisotropic": Layout(shape=(120, 112, 30), spacing_mm=(1.9, 1.9, 5.0), order="descending"),
    "coronal": Layout("LIP", shape=(104, 72, 76), spacing_mm=(2.2, 2.6, 3.0)),
    "prone": Layout("RAS", order="descending"),
    "feet-first": Layout("RPI"),
}


def write_case(folder: Path, name: str, layout: Layout, seed: int) -> Case:
    """Write the series of a phantom into `folder`, and return what is known about it."""
    turn = layout.rotation_deg and Rotation.from_euler("xyz", layout.rotation_deg, degrees=True).as_matrix()
    phantom = make_phantom(seed, layout.shape, layout.spacing_mm, layout.orientation, rotation=turn)
    array, affine = on_dicom_grid(phantom.array, phantom.affine)
    label_map, _ = on_dicom_grid(phantom.label_map, phantom.affine)
    planes = list(range(array.shape[2]))
    orders = {
        "ascending": planes,
        "descending": planes[::-1],
        "shuffled": np.random.default_rng(seed).permutation(planes).tolist(),
    }
    info = SeriesInfo(f"E2E-{name}", f"Phantom^{name}", description=name)
    write_series(folder, array, affine, info, orders[layout.order])
    return Case(info.study_uid, info.uid(), info.patient_id, affine, label_map, phantom.names)


def write_cases(folder: Path, layouts: Iterable[str], first_seed: int) -> dict[str, Case]:
    """A case of each layout in a folder of its own, by the layout's name."""
    seeds = enumerate(layouts, start=first_seed)
    return {name: write_case(folder / name, name, LAYOUTS[name], seed) for seed, name in seeds}


def deepest(mask: NDArray[np.bool_]) -> tuple[int, ...]:
    """The voxel of a mask that is farthest from its surface."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1, 1:-1]
    return tuple(int(at) for at in np.unravel_index(int(depth.argmax()), mask.shape))


def read_case(folder: Path, label: Path) -> Case:
    """A series of single slices that is in `folder`, with the lesion of a NIfTI file on any grid.

    The grid is worked out from the slices' headers here, not by the code that is tested.
    """
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in folder.glob("*.dcm")]
    row, column = np.array(headers[0].ImageOrientationPatient, float).reshape(2, 3)
    normal = np.cross(row, column)
    first, *_, last = sorted(headers, key=lambda header: float(normal @ np.array(header.ImagePositionPatient, float)))
    places = np.array([first.ImagePositionPatient, last.ImagePositionPatient], float)
    row_mm, column_mm = first.PixelSpacing  # between rows, which is along a column
    lps = np.column_stack((row * column_mm, column * row_mm, (places[1] - places[0]) / (len(headers) - 1), places[0]))
    affine = np.vstack((LPS_RAS @ lps, (0.0, 0.0, 0.0, 1.0)))
    truth = nibabel.load(label)
    to_truth = np.linalg.inv(truth.affine) @ affine
    shape = (int(first.Columns), int(first.Rows), len(headers))
    lesion = ndimage.affine_transform(np.asarray(truth.dataobj) > 0, to_truth, output_shape=shape, order=0)
    return Case(first.StudyInstanceUID, first.SeriesInstanceUID, first.PatientID, affine, lesion.astype(np.uint8))
