"""An archive's DICOMweb services, with time limits, and answers checked to be about what was asked."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pydicom
import requests
from dicomweb_client import DICOMwebClient
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from requests import RequestException
from requests.exceptions import InvalidJSONError, TooManyRedirects

from lib.datastore.outbox import ArchiveError
from lib.errors import LabelError
from lib.images.dicom_places import Place
from lib.labels.dicom_seg import drawn_names, refuse_header, source_frames
from lib.naming import is_uid

logger = logging.getLogger(__name__)

Frame = tuple[str, int]
# It writes a traceback for every request that fails, and what is known to fail is asked for again and again.
logging.getLogger("retrying").setLevel(logging.ERROR)
# It writes a line for every question, and the archive is asked every few seconds.
logging.getLogger("dicomweb_client").setLevel(logging.WARNING)

CONNECT_LIMIT_S, ANSWER_LIMIT_S = 3.0, 30.0
# In whatever transfer syntax: an archive that cannot decompress its instances could not deliver them otherwise.
AS_STORED = (("application/dicom", "*"),)
# The archive has this instance already: an answer to an earlier attempt was lost on the way.
DUPLICATE = 0x0111
# What is read of a SEG's header, which is long: it describes every frame, and names its pixels by a URL.
SEG_FIELDS = (
    *("PatientID", "Modality", "SeriesDate", "SeriesTime", "ContentDate", "ContentTime"),
    *("ReferencedSeriesSequence", "SegmentSequence", "SegmentationType", "NumberOfFrames", "BitsAllocated"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)
PLACE_FIELDS = ("NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient")
# What reading an answer that makes no sense ends in.
NONSENSE = (
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, SyntaxError, RecursionError),
    InvalidDicomError,
)
INFO_FIELDS = ("StudyDate", "StudyTime", "Modality", "RetrieveURL", "PatientID", "StudyInstanceUID")


class LimitedSession(requests.Session):
    """A session that waits for no server for ever, and goes where it was sent and nowhere else: TooManyRedirects."""

    def request(self, *arguments: Any, **options: Any) -> requests.Response:
        options.setdefault("timeout", (CONNECT_LIMIT_S, ANSWER_LIMIT_S))
        reply = super().request(*arguments, **{**options, "allow_redirects": False})
        if reply.is_redirect:
            reply.close()
            raise TooManyRedirects("the archive sends this server elsewhere", response=reply)
        return reply


@dataclass(frozen=True)
class StoredSeg:
    """A SEG series of the archive: what it was drawn on, of whom, what it names, and when (UTC offset unknown).

    `image` is the series that it was drawn on, `frames` those of its instances and their frames that it names.
    `problem` says why it cannot be read, as far as its header tells; empty where it can.
    """

    series: str
    study: str
    patient: str
    image: str
    names: tuple[str, ...]
    when: str
    problem: str = ""
    frames: frozenset[Frame] = frozenset()


class ArchiveClient:
    """What the datastore asks of an archive; RequestException or ArchiveError where it does not get it."""

    def __init__(self, client: DICOMwebClient) -> None:
        client.set_http_retry_params(retry=False)
        self._client = client
        self._segs: dict[str, StoredSeg] = {}
        self._undescribed: set[str] = set()

    def series_like(self, filters: Mapping[str, Any]) -> list[Dataset]:
        """What the archive says of the series that match."""
        with _sensible():
            found = list(self._client.search_for_series(search_filters=dict(filters)))
        series = [each for each in map(_series_in, found) if each is not None]
        if found and not series:
            raise InvalidJSONError("the archive lists what is no series")
        return series

    def series(self, uid: str) -> Dataset | None:
        """What the archive says of one series: of this one, even if it answers with others; None if it has it not."""
        found = self.series_like({"SeriesInstanceUID": uid})
        return next((each for each in found if str(each.get("SeriesInstanceUID")) == uid), None)

    def count(self, series: Dataset) -> int:
        """How many instances of a series the archive has."""
        with _sensible():
            said = series.get("NumberOfSeriesRelatedInstances")
            if said:
                return int(said)
            found = self._client.search_for_instances(str(series.StudyInstanceUID), str(series.SeriesInstanceUID))
            return len(found)

    def places(self, series: Dataset) -> list[Place]:
        """Where the instances of a series lie, as far as the archive says so without reading their files."""
        uids = str(series.StudyInstanceUID), str(series.SeriesInstanceUID)
        with _sensible():
            found = self._client.search_for_instances(*uids, fields=PLACE_FIELDS)
            return [place for each in found if (place := _place_of(_fields(each, PLACE_FIELDS))) is not None]

    def headers(self, series: Dataset, keywords: Iterable[str]) -> list[Dataset]:
        """Those of their elements that the instances of a series have."""
        uids = str(series.StudyInstanceUID), str(series.SeriesInstanceUID)
        with _sensible():
            return [_fields(each, keywords) for each in self._client.retrieve_series_metadata(*uids)]

    def download(self, series: Dataset, folder: Path) -> None:
        """The instances of a series as files in a folder: all of them, or what was there before."""
        unfinished, earlier = (folder.with_name(f".{folder.name}.{uuid4().hex}") for _ in range(2))
        unfinished.mkdir(parents=True)
        try:
            with _sensible():
                self._download(series, unfinished)
            if folder.is_dir():
                folder.replace(earlier)
            unfinished.replace(folder)
        finally:
            for left in (unfinished, earlier):
                shutil.rmtree(left, ignore_errors=True)

    def _download(self, series: Dataset, folder: Path) -> None:
        study, uid = str(series.StudyInstanceUID), str(series.SeriesInstanceUID)
        uids, patient = set(), str(series.get("PatientID") or "")
        for instance in self._client.iter_series(study, uid, media_types=AS_STORED):
            patient = patient or str(instance.get("PatientID") or "")
            self._refuse_other(instance, study, uid, patient)
            uids.add(_checked_uid(instance))
            instance.save_as(folder / f"{_checked_uid(instance)}.dcm")
        said = series.get("NumberOfSeriesRelatedInstances")
        if not uids or (said and len(uids) < int(said)):
            raise ArchiveError(f"the archive delivered {len(uids)} of {said} instances of series {uid}; try again")

    def segs(self) -> list[StoredSeg]:
        """Every SEG series of the archive that could be described.

        Each is described once. One whose description cannot be had is left out until it can, and keeps none of the
        others from being found.
        """
        found = self.series_like({"Modality": "SEG"})
        for each in found:
            uid = str(each.SeriesInstanceUID)
            if uid not in self._segs and str(each.get("Modality")) == "SEG":
                self._describe(str(each.StudyInstanceUID), uid)
        present = {str(each.SeriesInstanceUID) for each in found}
        return [seg for uid, seg in self._segs.items() if uid in present]

    def store(self, path: Path) -> str:
        """Store one instance, and return its series' UID; the same instance again does no harm.

        It has arrived when the archive says so of this instance, or lists its series: a page to log in at, with status
        200, says neither.
        """
        data: Any = pydicom.dcmread(path)
        series = str(data.SeriesInstanceUID)
        try:
            receipt = self._sent(data)
            if not _names(receipt, data) and self.series(series) is None:
                raise ArchiveError("the archive took the label, and does not list it")
        except RequestException as error:
            raise ArchiveError(sentence_of(error)) from error
        return series

    def _sent(self, data: Dataset) -> Dataset:
        """What the archive says of an instance that it was sent."""
        with _sensible():
            receipt: Dataset = self._client.store_instances([data])
        for failed in receipt.get("FailedSOPSequence") or ():
            reason = int(failed.get("FailureReason") or 0)
            if reason != DUPLICATE:
                raise ArchiveError(f"the archive refused the label (DICOM reason {reason:04X}H)")
        return receipt

    def _describe(self, study: str, uid: str) -> None:
        try:
            self._segs[uid] = self._described(study, uid)
        except requests.ConnectionError:
            raise  # the archive is away, and the others would wait for it in vain
        except (RequestException, ValueError, TypeError, KeyError, AttributeError) as error:
            if uid not in self._undescribed:
                logger.warning("SEG series %s is left out while the archive does not describe it: %s", uid, error)
            self._undescribed.add(uid)

    def _described(self, study: str, uid: str) -> StoredSeg:
        instances = self._client.retrieve_series_metadata(study, uid)
        header = _fields(instances[0], SEG_FIELDS) if instances else Dataset()
        references = header.get("ReferencedSeriesSequence") or ()
        names, problem = _drawn(header) if references else ((), "it does not say what it was drawn on")
        return StoredSeg(
            series=uid,
            study=study,
            patient=str(header.get("PatientID") or ""),
            image=str(references[0].SeriesInstanceUID) if references else "",
            names=names,
            when=_when(header),
            problem=problem,
            frames=frozenset(source_frames(header)) if references else frozenset(),
        )

    @staticmethod
    def _refuse_other(instance: Dataset, study: str, series: str, patient: str) -> None:
        said = (str(instance.StudyInstanceUID), str(instance.SeriesInstanceUID))
        if said != (study, series) or str(instance.get("PatientID") or "") != patient:
            raise ArchiveError(f"the archive delivered an instance of another patient or series as one of {series}")


@contextmanager
def _sensible() -> Iterator[None]:
    """What an archive says that makes no sense, and breaks whoever reads it, is an InvalidJSONError."""
    try:
        yield
    except (RequestException, ArchiveError):
        raise
    except NONSENSE as error:
        raise InvalidJSONError(f"the archive's answer makes no sense ({type(error).__name__})") from error


def _series_in(said: Mapping[str, Any]) -> Dataset | None:
    """What an archive says of a series; None if that makes no sense, or tells it from no other."""
    try:
        series = _dataset(said)
        return series if is_uid(str(series["SeriesInstanceUID"].value)) else None
    except NONSENSE:
        return None


def _place_of(said: Dataset) -> Place | None:
    """Where an instance lies; None where the archive does not say."""
    position, orientation = said.get("ImagePositionPatient"), said.get("ImageOrientationPatient")
    frames = int(said.get("NumberOfFrames") or 1)
    if not position or not orientation:
        return Place(frames) if frames > 1 else None
    return Place(frames, tuple(map(float, position)), tuple(map(float, orientation)))


def _checked_uid(instance: Dataset) -> str:
    uid = str(instance.SOPInstanceUID)
    if not is_uid(uid):
        raise ArchiveError(f"the archive delivered an instance whose UID is {uid[:80]!r}")
    return uid


def describe(series: Dataset) -> dict[str, str]:
    """What MONAI Label notes about an image."""
    info = {"SeriesInstanceUID": str(series.SeriesInstanceUID)}
    return info | {field: str(series[field].value) if series.get(field) else "UNK" for field in INFO_FIELDS}


def _drawn(header: Dataset) -> tuple[tuple[str, ...], str]:
    """The names of the segments that are drawn in a SEG, and why it cannot be read."""
    try:
        refuse_header(header, "it")
        return tuple(sorted(drawn_names(header))), ""
    except LabelError as error:
        return (), str(error)


def _fields(instance: Mapping[str, Any], keywords: Iterable[str]) -> Dataset:
    """Those of an instance's elements, which are DICOM JSON, that it has; what is only given a URL is left empty."""
    tags = [f"{tag_for_keyword(keyword):08X}" for keyword in keywords]
    return _dataset({tag: instance[tag] for tag in tags if tag in instance})


def _names(receipt: Dataset, data: Dataset) -> bool:
    """Whether an archive's receipt says that it has an instance."""
    sequences = (receipt.get(keyword) or () for keyword in ("ReferencedSOPSequence", "FailedSOPSequence"))
    named = {str(each.get("ReferencedSOPInstanceUID")) for sequence in sequences for each in sequence}
    return str(data.SOPInstanceUID) in named


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
    if isinstance(error, InvalidJSONError):
        return "the archive answered what makes no sense"
    return f"the archive did not answer ({type(error).__name__})"
