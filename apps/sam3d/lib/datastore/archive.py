"""A DICOMweb archive as datastore: labels are kept here first, and reach the archive as DICOM SEG when they can."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pydicom
from dicomweb_client import DICOMwebClient
from fastapi import HTTPException
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore
from requests import RequestException

from lib.datastore.archive_client import ArchiveClient, StoredSeg, describe, is_uid, sentence_of
from lib.datastore.history import ARCHIVE, Version, digest
from lib.datastore.intake import save_nifti, value_names
from lib.datastore.outbox import ArchiveError, Outbox, Parcel
from lib.datastore.refreshed import Refreshed
from lib.datastore.versioned import FINAL, VersionedDatastore
from lib.errors import LabelError, Sam3DError
from lib.images.volumes import Volume, open_volume
from lib.infers.failures import answer, as_answers
from lib.labels.dicom_seg_writing import SegInfo, write_seg
from lib.labels.masks import read_label
from lib.learning.cases import Case

logger = logging.getLogger(__name__)

# How old the lists of images and labels may be, and how long a reply to a client waits for the archive.
LISTS_TTL_S = 2.0
SEND_WAIT_S = 5.0
SEG_SERIES_NUMBER = 300
OUTBOX_FOLDER, SEGS_FOLDER = "outbox", "segs"


class ArchiveDatastore(DICOMWebDatastore, VersionedDatastore):
    """Images come from the archive, labels go there. `labels` are the names that a SEG must have one of to count."""

    def __init__(
        self,
        client: DICOMwebClient,
        search_filter: Mapping[str, Any],
        labels: Iterable[str],
        cache_path: str | None = None,
        served: Callable[[], str] = lambda: "",
    ) -> None:
        self.archive = ArchiveClient(client)
        self._labels = frozenset(labels)
        self._unusable: set[str] = set()
        self._is_away = False
        self._fetching: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        super().__init__(client, dict(search_filter), cache_path)
        self._served = served
        self._images: Refreshed[list[str] | None] = Refreshed(self._fetch_images, None, LISTS_TTL_S)
        self._segs: Refreshed[list[StoredSeg]] = Refreshed(self._fetch_segs, [], LISTS_TTL_S)
        self._outbox = Outbox(Path(self._datastore_path) / OUTBOX_FOLDER, self._deliver)
        self._outbox.start()

    save_label = VersionedDatastore.save_label

    def waiting(self) -> list[Parcel]:
        """The labels that the archive has not got yet, and why."""
        return self._outbox.waiting()

    def close(self) -> None:
        """End the threads that send labels and look for new files; for those who open more than one datastore."""
        self._outbox.stop()
        super().close()

    # ----------------------------------------------------------------- images

    def list_images(self) -> list[str]:
        """The series that match the search filter, at most some seconds old; the last known if the archive is away."""
        listed = self._images.get()
        return list(self._datastore.objects if listed is None else listed)

    def at_hand(self) -> list[str]:
        """The series of the list that have been fetched, by whoever opened them."""
        return [image for image in self.list_images() if self._fetched(image) is not None]

    def _fetched(self, image_id: str) -> Path | None:
        known = Path(LocalDatastore.get_image_uri(self, image_id) or "/")
        return known if known.is_file() and self._instances(image_id).is_dir() else None

    def get_image_uri(self, image_id: str) -> str:
        """The image as a file on the grid that viewers show; HTTPException if the archive's series is no volume, or not
        to be had."""
        with as_answers():
            return str(self._known_image(image_id))

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        info: dict[str, Any] = LocalDatastore.get_image_info(self, image_id)
        if info.get("StudyInstanceUID"):
            return info
        series = self._series(image_id)
        return {**info, **describe(series)}

    def _image_file(self, image_id: str) -> Path:
        if not is_uid(image_id):
            raise answer(404, f"there is no image {image_id[:80]!r} here: name the UID of a series")
        with self._fetching[image_id]:
            known = self._fetched(image_id)
            if known is not None:
                return known
            series = self._series(image_id)
            folder = self._instances(image_id)
            if not folder.is_dir():
                try:
                    self.archive.download(series, folder)
                except ArchiveError as error:
                    raise answer(502, str(error)) from error
            return self._converted(image_id, series, open_volume(folder))

    def _converted(self, image_id: str, series: Any, volume: Volume) -> Path:
        """The image as one file, which clients of MONAI Label can download."""
        path = Path(self._datastore.image_path()).resolve() / f"{image_id}.nii"
        with TemporaryDirectory(dir=self._datastore_path, prefix=".image-") as place:
            unfinished = Path(place) / path.name
            save_nifti(unfinished, volume.array, volume.affine)
            with self._locked():
                unfinished.replace(path)
                known = self._datastore.objects.get(image_id)
                image = DataModel(info={**describe(series), "name": path.name}, ext=".nii")
                labels = known.labels if known else {}
                self._datastore.objects[image_id] = ImageLabelModel(image=image, labels=labels)
                self._update_datastore_file(lock=False)
        return path

    def _instances(self, image_id: str) -> Path:
        return Path(self._datastore.image_path()).resolve() / image_id

    def _series(self, image_id: str) -> Any:
        series = self.archive.series(image_id)
        if series is None:
            raise answer(404, f"the archive has no series {image_id[:64]}: reload the study")
        return series

    def _known_image(self, image_id: str) -> Path:
        try:
            return self._image_file(image_id)
        except RequestException as error:
            sentence = f"the archive does not deliver series {image_id[:64]} ({sentence_of(error)}): try again later"
            raise answer(503, sentence) from error

    def _fetch_images(self) -> list[str] | None:
        try:
            found = self.archive.series_like(self._search_filter)
        except (RequestException, ValueError) as error:
            self._note_absence(error)
            return self._images.known
        self._is_away = False
        return [str(each.SeriesInstanceUID) for each in found]

    # ----------------------------------------------------------- what is labelled

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """The images with a final label, each once: stored here, or as a SEG in the archive."""
        stored = set(VersionedDatastore.get_labeled_images(self))
        drawn_on = {seg.image for seg in self._segs.get()}
        return [image for image in self.list_images() if image in stored | drawn_on]

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        labelled = set(self.get_labeled_images())
        return [image for image in self.list_images() if image not in labelled]

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        """Images and labels as files, the archive's fetched first."""
        cases = self.annotated_cases()
        return [{"image": str(case.image), "label": self.get_label_uri(case.id, FINAL)} for case in cases]

    def get_label_uri(self, label_id: str, label_tag: str, image_id: str = "") -> str:
        uri: str = LocalDatastore.get_label_uri(self, label_id, label_tag)
        return uri

    def newest_case(self, image_id: str) -> Case | None:
        """As for a folder, after the archive's labels of the image have been fetched; None, logged, if that fails."""
        try:
            with as_answers():
                self._fetch_labels(image_id)
                return super().newest_case(image_id)
        except (HTTPException, RequestException, ArchiveError, OSError) as error:  # the other images can be used
            logger.warning("image %s cannot be used: %s", image_id, getattr(error, "detail", error))
            return None

    def _fetch_segs(self) -> list[StoredSeg]:
        try:
            found = self.archive.segs()
        except (RequestException, ValueError, KeyError) as error:
            self._note_absence(error)
            return self._segs.known
        return [seg for seg in found if seg.series not in self._unusable and self._labels & set(seg.names)]

    def _note_absence(self, error: Exception) -> None:
        """Log once that the archive is away; the lists are asked for every few seconds."""
        if not self._is_away:
            logger.warning("the archive does not list what it has, and what is known counts: %s", error)
        self._is_away = True

    def _fetch_labels(self, image_id: str) -> None:
        """Make a version of each of the archive's SEGs of an image that is not known here."""
        segs = [seg for seg in self._segs.get() if seg.image == image_id]
        if not segs:
            return
        image = self._known_image(image_id)
        owner = _owner(next(iter(sorted(self._instances(image_id).glob("*.dcm")))))
        known = {_series_of(each) for each in self.history.versions(image_id, FINAL)}
        for seg in sorted(segs, key=lambda each: each.when):
            if seg.series in known or seg.series in self._unusable:
                continue
            if (seg.study, seg.patient) != owner:
                logger.warning("SEG %s is of another patient or study than the image it names", seg.series)
                self._unusable.add(seg.series)
                continue
            self._fetch_label(seg, open_volume(image))

    def _fetch_label(self, seg: StoredSeg, volume: Volume) -> None:
        folder = Path(self._datastore_path) / SEGS_FOLDER / seg.series
        series = self.archive.series(seg.series)
        if series is None:
            return
        if not folder.is_dir():
            folder.parent.mkdir(exist_ok=True)
            self.archive.download(series, folder)
        (path, *_) = sorted(folder.glob("*.dcm"))
        try:
            masks = read_label(path, volume, seg.names).masks
        except LabelError as error:
            logger.warning("SEG %s of %s cannot be used: %s", seg.series, seg.image, error)
            self._unusable.add(seg.series)
            return
        values = np.zeros(volume.shape, dtype=np.uint8, order="F")
        for value, mask in enumerate(masks.values(), start=1):
            values[mask] = value
        with TemporaryDirectory(dir=self._datastore_path, prefix=".label-") as place, self._locked():
            current = Path(place) / "label.nii.gz"
            save_nifti(current, values, volume.affine)
            names = [{"name": name} for name in masks]
            info = {"label_info": names, "SeriesInstanceUID": seg.series, "current_sha256": digest(current)}
            self._keep_stray(seg.image, FINAL)
            version = self.history.add(
                *(seg.image, FINAL, path, ".dcm", info), source=ARCHIVE, when=_utc(seg.when), series=seg.series
            )
            newest = self.history.newest(seg.image, FINAL)
            if newest is not None and newest.number == version.number:
                self._make_current(version, current, ".nii.gz")

    # --------------------------------------------------------- to the archive

    def _store(self, image_id: str, label: Path, tag: str, info: Mapping[str, Any]) -> Version:
        version = super()._store(image_id, label, tag, info)
        if tag == FINAL:
            # Behind others that wait, this one does not arrive soon either.
            is_first = len(self._outbox.waiting()) <= 1
            self._outbox.wake()
            waiting = self._outbox.wait_for(Parcel(image_id, tag, version.number), SEND_WAIT_S if is_first else 0.0)
            self._segs.expire()
            self._notes[image_id] = {
                "version": version.number,
                "archive": "waiting" if waiting else "stored",
                "note": _note(version, waiting),
            }
        return version

    def _announce(self, image_id: str, tag: str, number: int) -> None:
        if tag == FINAL:
            self._outbox.add(image_id, tag, number)

    def _deliver(self, parcel: Parcel) -> None:
        """Make the SEG of a version, if it is not there yet, and store it in the archive."""
        with self._locked():  # a version that is being stored is there after this, or never
            version = self.history.get(parcel.image, parcel.tag, parcel.number)
        if version is None:
            return  # the label itself was not stored, and its client was told so
        try:
            if not version.seg.exists():
                volume = open_volume(self._known_image(parcel.image))
                names = value_names(version.info) or dict(enumerate(sorted(self._labels), start=1))
                masks = read_label(version.file, volume, sorted(set(names.values())), names).masks
                about = SegInfo(version.client, f"sam3d version {version.number}", SEG_SERIES_NUMBER + version.number)
                write_seg(masks, volume.affine, self._instances(parcel.image), version.seg, about)
        except Sam3DError as error:
            raise ArchiveError(f"the label does not become a DICOM SEG: {error}") from error
        except HTTPException as error:
            raise ArchiveError(str(error.detail)) from error
        self.archive.store(version.seg)


def _note(version: Version, waiting: Parcel | None) -> str:
    if waiting is None:
        return f"It is version {version.number} of this label, and in the archive."
    reason = waiting.error or "the archive takes long"
    return (
        f"It is version {version.number} of this label, stored on this server; the archive has not got it yet "
        f"({reason}) and gets it as soon as it takes it."
    )


def _owner(instance: Path) -> tuple[str, str]:
    """Study and patient of an instance."""
    header: Any = pydicom.dcmread(instance, stop_before_pixels=True, specific_tags=["StudyInstanceUID", "PatientID"])
    return str(header.get("StudyInstanceUID") or ""), str(header.get("PatientID") or "")


def _series_of(version: Version) -> str:
    """The UID of a version's SEG series; empty while there is none."""
    if version.series or not version.seg.exists():
        return version.series
    header: Any = pydicom.dcmread(version.seg, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
    return str(header.SeriesInstanceUID)


def _utc(when: str) -> str:
    """A SEG's date and time, local as DICOM has it, as versions are ordered by."""
    digits = when.partition(".")[0].ljust(14, "0")[:14]
    try:
        return datetime.strptime(digits, "%Y%m%d%H%M%S").astimezone().astimezone(timezone.utc).isoformat()
    except ValueError:
        return datetime.fromtimestamp(0, timezone.utc).isoformat()
