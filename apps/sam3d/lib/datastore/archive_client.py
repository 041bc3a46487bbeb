"""An archive's DICOMweb services, with time limits, and answers checked to be about what was asked."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pydicom
import requests
from dicomweb_client import DICOMwebClient
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from requests import RequestException

from lib.datastore.outbox import ArchiveError

logger = logging.getLogger(__name__)
# It writes a traceback for every request that fails, and what is known to fail is asked for again and again.
logging.getLogger("retrying").setLevel(logging.ERROR)

UID = re.compile(r"[0-9]+(\.[0-9]+)*")
CONNECT_LIMIT_S, ANSWER_LIMIT_S = 3.0, 30.0
# In whatever transfer syntax: an archive that cannot decompress its instances could not deliver them otherwise.
AS_STORED = (("application/dicom", "*"),)
# The archive has this instance already: an answer to an earlier attempt was lost on the way.
DUPLICATE = 0x0111
# What is read of a SEG's header, which is long: it describes every frame, and names its pixels by a URL.
SEG_FIELDS = (
    *("PatientID", "SeriesDate", "SeriesTime", "ContentDate", "ContentTime"),
    *("ReferencedSeriesSequence", "SegmentSequence"),
)
INFO_FIELDS = ("StudyDate", "StudyTime", "Modality", "RetrieveURL", "PatientID", "StudyInstanceUID")


class LimitedSession(requests.Session):
    """A session that waits for no server for ever."""

    def request(self, *arguments: Any, **options: Any) -> requests.Response:
        options.setdefault("timeout", (CONNECT_LIMIT_S, ANSWER_LIMIT_S))
        return super().request(*arguments, **options)


@dataclass(frozen=True)
class StoredSeg:
    """A SEG series of the archive: what it was drawn on, of whom, what it names, and when (UTC offset unknown)."""

    series: str
    study: str
    patient: str
    image: str
    names: tuple[str, ...]
    when: str


class ArchiveClient:
    """What the datastore asks of an archive; RequestException or ArchiveError where it does not get it."""

    def __init__(self, client: DICOMwebClient) -> None:
        client.set_http_retry_params(retry=False)
        self._client = client
        self._segs: dict[str, StoredSeg | None] = {}
        self._undescribed: set[str] = set()

    def series_like(self, filters: Mapping[str, Any]) -> list[Dataset]:
        """What the archive says of the series that match."""
        found = self._client.search_for_series(search_filters=dict(filters))
        return [_dataset(each) for each in found]

    def series(self, uid: str) -> Dataset | None:
        """What the archive says of one series: of this one, even if it answers with others; None if it has it not."""
        found = self.series_like({"SeriesInstanceUID": uid})
        return next((each for each in found if str(each.get("SeriesInstanceUID")) == uid), None)

    def download(self, series: Dataset, folder: Path) -> None:
        """The instances of a series as files in a new folder: all of them, or no folder."""
        study, uid = str(series.StudyInstanceUID), str(series.SeriesInstanceUID)
        unfinished = folder.with_name(f".{folder.name}.{uuid4().hex}")
        unfinished.mkdir(parents=True)
        try:
            count, patient = 0, str(series.get("PatientID") or "")
            for instance in self._client.iter_series(study, uid, media_types=AS_STORED):
                patient = patient or str(instance.get("PatientID") or "")
                self._refuse_other(instance, study, uid, patient)
                instance.save_as(unfinished / f"{_checked_uid(instance)}.dcm")
                count += 1
            said = series.get("NumberOfSeriesRelatedInstances")
            if not count or (said and count < int(said)):
                raise ArchiveError(f"the archive delivered {count} of {said} instances of series {uid}; try again")
            unfinished.replace(folder)
        finally:
            if unfinished.exists():
                for path in unfinished.iterdir():
                    path.unlink()
                unfinished.rmdir()

    def segs(self) -> list[StoredSeg]:
        """Every SEG series of the archive that says what it was drawn on.

        Each is described once. One whose description cannot be had is left out until it can, and keeps none of the
        others from being found.
        """
        found = self.series_like({"Modality": "SEG"})
        for each in found:
            uid = str(each.SeriesInstanceUID)
            if uid not in self._segs and str(each.get("Modality")) == "SEG":
                self._describe(str(each.StudyInstanceUID), uid)
        present = {str(each.SeriesInstanceUID) for each in found}
        return [seg for uid, seg in self._segs.items() if seg is not None and uid in present]

    def store(self, path: Path) -> str:
        """Store one instance, and return its series' UID; the same instance again does no harm."""
        data: Any = pydicom.dcmread(path)
        try:
            answer = self._client.store_instances([data])
        except RequestException as error:
            raise ArchiveError(sentence_of(error)) from error
        for failed in answer.get("FailedSOPSequence") or ():
            reason = int(failed.get("FailureReason") or 0)
            if reason != DUPLICATE:
                raise ArchiveError(f"the archive refused the label (DICOM reason {reason:04X}H)")
        return str(data.SeriesInstanceUID)

    def _describe(self, study: str, uid: str) -> None:
        try:
            self._segs[uid] = self._described(study, uid)
        except requests.ConnectionError:
            raise  # the archive is away, and the others would wait for it in vain
        except (RequestException, ValueError, TypeError, KeyError, AttributeError) as error:
            if uid not in self._undescribed:
                logger.warning("SEG series %s is left out while the archive does not describe it: %s", uid, error)
            self._undescribed.add(uid)

    def _described(self, study: str, uid: str) -> StoredSeg | None:
        instances = self._client.retrieve_series_metadata(study, uid)
        header = _fields(instances[0], SEG_FIELDS) if instances else Dataset()
        references = header.get("ReferencedSeriesSequence") or ()
        if references:
            return StoredSeg(
                series=uid,
                study=study,
                patient=str(header.get("PatientID") or ""),
                image=str(references[0].SeriesInstanceUID),
                names=tuple(str(segment.get("SegmentLabel", "")) for segment in header.get("SegmentSequence") or ()),
                when=_when(header),
            )
        logger.warning("SEG series %s does not say what it was drawn on, and is left out", uid)
        return None

    @staticmethod
    def _refuse_other(instance: Dataset, study: str, series: str, patient: str) -> None:
        said = (str(instance.StudyInstanceUID), str(instance.SeriesInstanceUID))
        if said != (study, series) or str(instance.get("PatientID") or "") != patient:
            raise ArchiveError(f"the archive delivered an instance of another patient or series as one of {series}")


def is_uid(text: str) -> bool:
    """Whether a text is a DICOM UID, and so may be a file's name."""
    return len(text) <= 64 and UID.fullmatch(text) is not None


def _checked_uid(instance: Dataset) -> str:
    uid = str(instance.SOPInstanceUID)
    if not is_uid(uid):
        raise ArchiveError(f"the archive delivered an instance whose UID is {uid[:80]!r}")
    return uid


def describe(series: Dataset) -> dict[str, str]:
    """What MONAI Label notes about an image."""
    info = {"SeriesInstanceUID": str(series.SeriesInstanceUID)}
    return info | {field: str(series[field].value) if series.get(field) else "UNK" for field in INFO_FIELDS}


def _fields(instance: Mapping[str, Any], keywords: Iterable[str]) -> Dataset:
    """Those of an instance's elements, which are DICOM JSON, that it has; what is only given a URL is left empty."""
    tags = [f"{tag_for_keyword(keyword):08X}" for keyword in keywords]
    return _dataset({tag: instance[tag] for tag in tags if tag in instance})


def _dataset(said: Mapping[str, Any]) -> Dataset:
    return Dataset.from_json(dict(said), bulk_data_uri_handler=lambda _uri: None)


def _when(seg: Dataset) -> str:
    """Date and time of a SEG, to be compared with each other and with this machine's clock."""
    date = str(seg.get("SeriesDate") or seg.get("ContentDate") or "19000101")
    time = str(seg.get("SeriesTime") or seg.get("ContentTime") or "0")
    return f"{date}{time}"


def sentence_of(error: RequestException) -> str:
    """What became of a request, for a user."""
    if error.response is not None:
        return f"the archive answered {error.response.status_code}"
    return f"the archive did not answer ({type(error).__name__})"
