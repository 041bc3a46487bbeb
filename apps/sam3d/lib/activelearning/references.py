"""Images as other machines can open them: by their place in the studies, never by their voxels."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from monailabel.interfaces.datastore import Datastore

from lib.cluster.orders import ImageReference
from lib.datastore.archive import ArchiveDatastore
from lib.infers.images import stored_path
from lib.naming import series_and_phase


def travelling(image: str, datastore: Datastore, root: Path | None) -> ImageReference | None:
    """What names an image on a worker: a series of the archive, or a path below `root`, the folder of studies; None for
    one that only this machine can open. HTTPException for one that nobody can."""
    if isinstance(datastore, ArchiveDatastore) and (address := datastore.shared_address):
        if urlsplit(address).username is not None:  # a secret is no part of an order
            return None
        series, phase = series_and_phase(image)
        return ImageReference(series=series, archive=address, phase=phase)
    path = Path(stored_path(image, datastore)).resolve()
    if root is None or not path.is_relative_to(root):
        return None
    return ImageReference(path=path.relative_to(root).as_posix())


def shared_root(studies: str) -> Path | None:
    """The folder of studies, which workers see as their --root; None for an archive's URL."""
    return None if "://" in studies else Path(studies).resolve()
