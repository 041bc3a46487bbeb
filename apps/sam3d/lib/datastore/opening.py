"""Which datastore serves the studies that a server is started with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from monailabel.config import settings
from monailabel.datastore.dicom import DICOMwebClientX
from monailabel.interfaces.datastore import Datastore

from lib.datastore.archive import ArchiveDatastore
from lib.datastore.archive_client import LimitedSession
from lib.datastore.versioned import VersionedDatastore

# These have datastores of MONAI Label's own, which know how to log in there.
STOCK = ("xnat", "dsa")
GOOGLE = "googleapis.com"


def open_datastore(studies: str, labels: Sequence[str], served: Callable[[], str]) -> Datastore | None:
    """A folder's or a DICOMweb archive's datastore; None for what only MONAI Label's own datastores can open.

    `served` names the model version that clicks get at the moment.
    """
    if not studies.startswith(("http://", "https://")):
        return VersionedDatastore(
            studies,
            extensions=settings.MONAI_LABEL_DATASTORE_FILE_EXT,
            auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY,
            served=served,
        )
    if settings.MONAI_LABEL_DATASTORE.lower() in STOCK or GOOGLE in studies:
        return None
    session = LimitedSession()
    if settings.MONAI_LABEL_DICOMWEB_USERNAME and settings.MONAI_LABEL_DICOMWEB_PASSWORD:
        session.auth = (settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD)
    client = DICOMwebClientX(
        url=studies.strip().rstrip("/"),
        session=session,
        qido_url_prefix=settings.MONAI_LABEL_QIDO_PREFIX,
        wado_url_prefix=settings.MONAI_LABEL_WADO_PREFIX,
        stow_url_prefix=settings.MONAI_LABEL_STOW_PREFIX,
    )
    cache = (settings.MONAI_LABEL_DICOMWEB_CACHE_PATH or "").strip() or None
    return ArchiveDatastore(client, settings.MONAI_LABEL_DICOMWEB_SEARCH_FILTER, labels, cache, served)
