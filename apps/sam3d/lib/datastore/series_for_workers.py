"""A series of an archive as a worker opens it: fetched, read, and forgotten. The worker has a login of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from requests import RequestException

from lib.cluster.orders import ImageReference
from lib.datastore.archive_client import ArchiveClient, sentence_of
from lib.datastore.opening import archive_at
from lib.datastore.outbox import ArchiveError
from lib.errors import ClusterError, VolumeError
from lib.images.nifti_writing import save_nifti
from lib.images.volumes import Volume, open_volume


def open_series(image: ImageReference, limit_bytes: int) -> Volume:
    """The volume of a series as the server has it, by way of a file. ClusterError where the archive does not deliver
    it, VolumeError where it is none."""
    with TemporaryDirectory(prefix="sam3d-series-") as place:
        folder = Path(place) / image.series
        try:
            client = ArchiveClient(archive_at(image.archive))
            series = client.series(image.series)
            if series is None:
                raise VolumeError(f"the archive has no series {image.series}")
            client.download(series, folder)
        except ArchiveError as error:
            raise ClusterError(str(error)) from error
        except RequestException as error:
            raise ClusterError(f"{sentence_of(error)} about {image}") from error
        volume = open_volume(folder, limit_bytes, phase=image.phase)
        # The server keeps a series as a NIfTI file, whose affine is rounded: the same image must give the same score.
        file = Path(place) / f"{image.series}.nii"
        save_nifti(file, volume.array, volume.affine)
        return replace(open_volume(file, limit_bytes), notes=volume.notes)
