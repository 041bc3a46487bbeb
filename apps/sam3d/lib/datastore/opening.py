"""Which datastore serves the studies that a server is started with: image files, DICOM files, or an archive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from monailabel.config import settings
from monailabel.datastore.dicom import DICOMwebClientX
from monailabel.interfaces.datastore import Datastore
from monailabel.utils.others.generic import md5_digest

from lib.datastore.archive import ArchiveDatastore, LocalFolder
from lib.datastore.archive_client import LimitedSession
from lib.datastore.dicom_folder import VOLUME_MODALITIES, is_dicom_folder, serve_folder, state_folder
from lib.datastore.mixed import MixedDatastore
from lib.datastore.versioned import VersionedDatastore
from lib.settings import BACKGROUND

# These have datastores of MONAI Label's own, which know how to log in there.
STOCK = ("xnat", "dsa")
GOOGLE = "googleapis.com"
# What MONAI Label asks an archive for unless told otherwise; a folder is asked for all that may be volumes.
STOCK_FILTER = {"Modality": "CT"}


def open_datastore(studies: str, labels: Sequence[str], served: Callable[[], str]) -> Datastore | None:
    """A folder's or a DICOMweb archive's datastore; None for what only MONAI Label's own datastores can open.

    A folder of DICOM files is an archive that this process serves to itself.

    `served` names the model version that clicks get at the moment.
    """
    trained = [label for label in labels if label != BACKGROUND]
    if not is_archive(studies):
        folder, state = Path(studies), _state_folder(Path(studies))
        if is_dicom_folder(folder, state):
            return _open_dicom_folder(folder, state, trained, served)
        only = settings.MONAI_LABEL_DATASTORE_FILE_EXT
        # The usual list names pictures and slides, which are no volumes, and not all volumes: what opens is listed.
        if only == type(settings).model_fields["MONAI_LABEL_DATASTORE_FILE_EXT"].default:
            only = ["*"]
        return VersionedDatastore(
            studies,
            extensions=only,
            auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY,
            served=served,
            labels=trained,
        )
    if settings.MONAI_LABEL_DATASTORE.lower() in STOCK or GOOGLE in studies:
        return None
    cache = (settings.MONAI_LABEL_DICOMWEB_CACHE_PATH or "").strip() or None
    return ArchiveDatastore(archive_at(studies), settings.MONAI_LABEL_DICOMWEB_SEARCH_FILTER, trained, cache, served)


def archive_at(url: str) -> DICOMwebClientX:
    """A client of the DICOMweb services at a URL, as MONAI Label's settings name its paths and its password."""
    session = LimitedSession()
    if settings.MONAI_LABEL_DICOMWEB_USERNAME and settings.MONAI_LABEL_DICOMWEB_PASSWORD:
        session.auth = (settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD)
    return DICOMwebClientX(
        url=url.strip().rstrip("/"),
        session=session,
        qido_url_prefix=settings.MONAI_LABEL_QIDO_PREFIX,
        wado_url_prefix=settings.MONAI_LABEL_WADO_PREFIX,
        stow_url_prefix=settings.MONAI_LABEL_STOW_PREFIX,
    )


def _state_folder(folder: Path) -> Path:
    return state_folder(folder, (settings.MONAI_LABEL_DICOMWEB_CACHE_PATH or "").strip())


def _open_dicom_folder(folder: Path, state: Path, labels: Sequence[str], served: Callable[[], str]) -> ArchiveDatastore:
    asked = settings.MONAI_LABEL_DICOMWEB_SEARCH_FILTER
    chosen = {} if asked == STOCK_FILTER else asked
    server = serve_folder(folder, state, () if chosen else VOLUME_MODALITIES)
    session = LimitedSession()
    session.trust_env = False  # no proxy leads to this machine
    session.auth = server.login
    client = DICOMwebClientX(url=server.url, session=session)
    return MixedDatastore(client, chosen, labels, None, served, LocalFolder(server, state))


def folder_of_labels(studies: str) -> Path:
    """Where the labels of a folder or an archive are kept on this machine."""
    if is_archive(studies):
        return cache_folder(studies)
    folder = Path(studies).expanduser().absolute()
    state = _state_folder(folder)
    return state if is_dicom_folder(folder, state) else folder


def is_archive(studies: str) -> bool:
    return studies.startswith(("http://", "https://"))


def cache_folder(url: str) -> Path:
    """Where the datastore of the archive at a URL keeps its images and labels: the stock class names the folder."""
    named = (settings.MONAI_LABEL_DICOMWEB_CACHE_PATH or "").strip()
    return Path(named or Path.home() / ".cache/monailabel/dicom") / md5_digest(archive_at(url).base_url)
