"""A datastore of ours on a real DICOMweb server, and the series in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lib.datastore.archive import ArchiveDatastore
from lib.datastore.opening import open_datastore
from lib.images.dicom_writing import SeriesInfo, on_dicom_grid, write_series

LABELS = ("liver", "Gefäß", "kidney_left", "lesion", "tumour")


def write_image(folder: Path, info: SeriesInfo, affine: np.ndarray, shape: tuple[int, int, int], seed: int = 0) -> None:
    """A series of noise, in shuffled order."""
    rng = np.random.default_rng(seed)
    array, grid = on_dicom_grid(rng.integers(-500, 900, shape).astype(np.int16), affine)
    order = [int(k) for k in rng.permutation(shape[2])]
    write_series(folder / info.study_uid / info.uid(), array, grid, info, order)


def datastore_at(url: str, cache: Path, monkeypatch) -> ArchiveDatastore:
    """The datastore as the server opens it."""
    monkeypatch.setattr("monailabel.config.settings.MONAI_LABEL_DICOMWEB_CACHE_PATH", str(cache))
    opened = open_datastore(url, LABELS, lambda: "v0007")
    assert isinstance(opened, ArchiveDatastore)
    return opened
