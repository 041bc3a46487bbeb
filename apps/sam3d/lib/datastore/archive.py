"""A DICOMweb archive as datastore: labels are kept here first, and reach the archive as DICOM SEG when they can."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
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

from lib.datastore.archive_client import NONSENSE, ArchiveClient, StoredSeg, describe, sentence_of
from lib.datastore.arrivals import Counts, content_of, fetched_instances
from lib.datastore.contents import Content
from lib.datastore.dicom_folder import VOLUME_MODALITIES
from lib.datastore.history import ARCHIVE, Version, digest
from lib.datastore.intake import value_names
from lib.datastore.outbox import OUTBOX_FOLDER, ArchiveError, Outbox, Parcel
from lib.datastore.phases import REST_S, PhaseSurvey, PhaseTable, SeriesPhases, known_phases
from lib.datastore.refreshed import Refreshed
from lib.datastore.starts import Start
from lib.datastore.versioned import FINAL, VersionedDatastore, as_sentences
from lib.dicomweb.server import LocalServer
from lib.errors import LabelError, Sam3DError, VolumeError
from lib.images.dicom_places import may_hold_phases
from lib.images.dicom_series import read_phases
from lib.images.dicom_slices import TAGS, slices_in
from lib.images.dicom_stacks import phases_among
from lib.images.nifti_writing import save_nifti
from lib.images.volumes import Volume, open_volume
from lib.infers.failures import answer, as_answers
from lib.labels.dicom_seg_writing import SegInfo, write_seg
from lib.labels.masks import read_label
from lib.learning.cases import Case
from lib.naming import is_series_image, series_and_phase
from lib.settings import SUBMITTED

logger = logging.getLogger(__name__)

# How old the lists of images and labels may be, and how long a reply to a client waits for the archive.
LISTS_TTL_S = 2.0
SEND_WAIT_S = 5.0
SEG_SERIES_NUMBER = 300
SEGS_FOLDER, PHASES_FILE = "segs", ".phases.json"
# What is noted of an image: its instances, sentences about it, and of how many instances it was before it grew.
CONTENT, NOTES, GROWN_FROM = "series_content", "notes", "grown_from"
# More names than this help nobody.
NAMED = 20


@dataclass(frozen=True)
class LocalFolder:
    """A folder of DICOM files that this process serves to itself, and where labels and copies of it are kept."""

    server: LocalServer
    state: Path


class ArchiveDatastore(DICOMWebDatastore, VersionedDatastore):
    """Images come from the archive, labels go there. `labels` are the names that a SEG must have one of to count."""

    def __init__(
        self,
        client: DICOMwebClient,
        search_filter: Mapping[str, Any],
        labels: Iterable[str],
        cache_path: str | None = None,
        served: Callable[[], str] = lambda: "",
        local: LocalFolder | None = None,
    ) -> None:
        self._local = local
        self.archive = ArchiveClient(client)
        self._labels = frozenset(labels)
        # SEGs that were tried and cannot be used, and all that do not count, each with the reason.
        self._failed: dict[str, str] = {}
        self._unused: dict[str, str] = {}
        self._unused_segs: tuple[StoredSeg, ...] = ()
        # Study and patient of the images that are listed.
        self._owners: dict[str, tuple[str, str]] = {}
        self._outdated_known: dict[str, tuple[object, frozenset[str]]] = {}
        self._counts = Counts(self._count)
        self._is_away = False
        self._fetching: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        if local is None:
            DICOMWebDatastore.__init__(self, client, dict(search_filter), cache_path)
        else:  # not by the address, whose port is another one at each start
            self._client, self._search_filter = client, dict(search_filter)
            self._fetch_by_frame, self._convert_to_nifti = False, True
            VersionedDatastore.__init__(self, datastore_path=str(local.state), auto_reload=True)
        self._served = served
        self._known_labels = tuple(labels)
        self._phases = PhaseTable(Path(self._datastore_path) / PHASES_FILE)
        rest_s = REST_S if local is None else 0.0
        self._survey = PhaseSurvey(self._phases, self._look_for_phases, (RequestException, ArchiveError), rest_s)
        self._images: Refreshed[list[str] | None] = Refreshed(self._fetch_images, None, LISTS_TTL_S)
        self._segs: Refreshed[list[StoredSeg]] = Refreshed(self._fetch_segs, [], LISTS_TTL_S)
        self._outbox = Outbox(Path(self._datastore_path) / OUTBOX_FOLDER, self._deliver)
        self._outbox.start()

    # The folder is this server's own: images by the UIDs of their series, and phases, which name their content.
    IS_NESTED = False

    save_label = VersionedDatastore.save_label

    def _content(self, image_id: str) -> Content | None:
        return None

    def _digest(self, image_id: str) -> str:
        return ""

    def waiting(self) -> list[Parcel]:
        """The labels that the archive has not got yet, and why."""
        return self._outbox.waiting()

    def close(self) -> None:
        """End the threads that send labels and look for new files; for those who open more than one datastore."""
        self._survey.stop()
        self._outbox.stop()
        super().close()
        if self._local is not None:
            self._local.server.close()

    @property
    def own_address(self) -> tuple[str, tuple[str, str]] | None:
        """Address and login of the archive that this process serves; None where the archive is another's."""
        return (self._local.server.url, self._local.server.login) if self._local is not None else None

    @property
    def shared_address(self) -> str:
        """Where other machines find the archive; empty where this process serves it to itself."""
        return str(self._client.base_url) if self._local is None else ""

    # ----------------------------------------------------------------- images

    def list_images(self) -> list[str]:
        """The series that match the search filter, with their further phases as far as these are known; at most some
        seconds old, and the last known if the archive is away."""
        listed = self._images.get()
        objects = list(self._datastore.objects)
        series = dict.fromkeys(objects if listed is None else listed)
        opened = [image for image in objects if series_and_phase(image)[0] in series]
        return list(dict.fromkeys([*(image for uid in series for image in self._phases.images(uid)), *opened]))

    def at_hand(self) -> list[str]:
        """The images of the list that have been fetched, by whoever opened them."""
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
        series, _ = series_and_phase(image_id)
        with _archive_asked(series):
            return {**info, **describe(self._series(series))}

    def _image_file(self, image_id: str) -> Path:
        if not is_series_image(image_id):
            raise answer(404, f"there is no image {image_id[:80]!r} here: name the UID of a series")
        uid, _ = series_and_phase(image_id)
        with self._fetching[uid]:
            known, folder = self._fetched(image_id), self._instances(image_id)
            if known is not None and self._counts.of(uid) <= len(fetched_instances(folder)):
                return known
            series = self._series(uid)
            before = len(fetched_instances(folder)) if folder.is_dir() else 0
            if self.archive.count(series) > before:
                try:
                    self.archive.download(series, folder)
                except ArchiveError as error:
                    raise answer(502, str(error)) from error
            n_instances = len(fetched_instances(folder))
            phases = self._phases.get(uid)
            if phases is None or phases.n_instances != n_instances:
                self._phases.put(uid, known_phases(n_instances, read_phases(folder)))
            if 0 < before < n_instances:
                self._renew_others(image_id, series, before)
            return self._converted(image_id, series, before)

    def _renew_others(self, image_id: str, series: Any, before: int) -> None:
        """Read the other phases of a series that grew again, as far as they were opened: none is of fewer instances."""
        uid, _ = series_and_phase(image_id)
        opened = [image for image in self._datastore.objects if image != image_id and series_and_phase(image)[0] == uid]
        for image in opened:
            try:
                self._converted(image, series, before)
            except (VolumeError, HTTPException) as error:
                logger.warning("%s is no image any more: %s", image, getattr(error, "detail", error))
                with self._locked():
                    self._set_aside(image)
                    (Path(self._datastore.image_path()) / f"{image}.nii").unlink(missing_ok=True)
                    self._list_again()

    def _opened(self, image_id: str) -> Volume:
        """The volume of a series that is fetched, or of one of its phases; HTTPException if it has no such phase."""
        uid, phase = series_and_phase(image_id)
        images = self._phases.images(uid)
        if image_id not in images:
            raise answer(404, f"there is no image {image_id[:80]!r} here: that series is opened as {', '.join(images)}")
        volume = open_volume(self._instances(image_id), phase=phase)
        others = [each for each in images if each != image_id]
        note = (f"its other phases are images of their own: {', '.join(others[:NAMED])}",) if others else ()
        return replace(volume, notes=(*volume.notes, *note))

    def _converted(self, image_id: str, series: Any, before: int) -> Path:
        """The image as one file, which clients of MONAI Label can download; `before` it had so many instances."""
        volume = self._opened(image_id)
        path = Path(self._datastore.image_path()).resolve() / f"{image_id}.nii"
        n_instances = len(fetched_instances(self._instances(image_id)))
        with TemporaryDirectory(dir=self._datastore_path, prefix=".image-") as place:
            unfinished = Path(place) / path.name
            save_nifti(unfinished, volume.array, volume.affine)
            with self._locked():
                known = self._datastore.objects.get(image_id)
                notes = list(volume.notes)
                info: dict[str, Any] = {**describe(series), "name": path.name, NOTES: notes}
                info[CONTENT] = content_of(self._instances(image_id))
                if known is not None and GROWN_FROM in known.image.info:
                    info[GROWN_FROM] = known.image.info[GROWN_FROM]
                if 0 < before < n_instances:
                    info[GROWN_FROM] = before
                    self._set_aside(image_id)
                if GROWN_FROM in info:
                    notes.append(
                        f"the series grew from {info[GROWN_FROM]} to {n_instances} instances after it was first opened;"
                        " labels drawn before are kept, but do not count: draw them again"
                    )
                unfinished.replace(path)
                labels = self._datastore.objects[image_id].labels if known else {}
                image = DataModel(info=info, ext=".nii")
                self._datastore.objects[image_id] = ImageLabelModel(image=image, labels=labels)
                self._update_datastore_file(lock=False)
        return path

    def _set_aside(self, image_id: str) -> None:
        """What was drawn on fewer slices stays in the history, but is no label any more. The lock is held."""
        known = self._datastore.objects.get(image_id)
        for tag in sorted({*(known.labels if known else ()), *self.history.tags(image_id, "")}):
            self._keep_stray(image_id, tag)
            if self.history.newest(image_id, tag) is not None:
                logger.warning("series %s has grown: its %s label was drawn on fewer slices", image_id, tag)
                self.history.remove(image_id, tag)
            for path in self.current.files(image_id, tag):
                path.unlink(missing_ok=True)
        if known:
            self._datastore.objects[image_id] = ImageLabelModel(image=known.image, labels={})

    def _count(self, image_id: str) -> int:
        series = self.archive.series(image_id)
        return self.archive.count(series) if series is not None else 0

    def image_notes(self, image_id: str) -> list[str]:
        """What to know of an image: what of its series was left out or mended, and whether it grew."""
        return list(LocalDatastore.get_image_info(self, image_id).get(NOTES) or ())

    def reference(self, image_id: str) -> str:
        """What names the content of an image without opening it."""
        info = LocalDatastore.get_image_info(self, image_id)
        return f"series {image_id}" + (f" {info.get(CONTENT)}" if GROWN_FROM in info else "")

    def _instances(self, image_id: str) -> Path:
        return Path(self._datastore.image_path()).resolve() / series_and_phase(image_id)[0]

    def _look_for_phases(self, series: Any) -> SeriesPhases:
        """The phases of a series that may never have been opened. The headers are asked for only where places say that
        there may be several: they are long."""
        uid = str(series.SeriesInstanceUID)
        if self._local is not None:
            found = self._local.server.archive.find(str(series.StudyInstanceUID), uid)
            places = [each.header.place for each in found]
        else:
            places = self.archive.places(series)
        count = _n_instances(series) or len(places)
        if not may_hold_phases(places):
            return SeriesPhases(count)
        headers = self.archive.headers(series, TAGS)
        try:
            files = [(header, Path(f"{header.get('SOPInstanceUID')}.dcm")) for header in headers if "Rows" in header]
            return known_phases(count, phases_among([each for file in files for each in slices_in(*file)]))
        except NONSENSE as error:
            logger.debug("the headers of series %s make no sense, which is said when it is opened: %s", uid, error)
            return SeriesPhases(count)

    def _series(self, image_id: str) -> Any:
        series = self.archive.series(image_id)
        if series is None:
            raise answer(404, f"the archive has no series {image_id[:64]}: reload the study")
        return series

    def _known_image(self, image_id: str) -> Path:
        with _archive_asked(image_id):
            return self._image_file(image_id)

    def _fetch_images(self) -> list[str] | None:
        try:
            found = self.archive.series_like(self._search_filter)
        except (RequestException, ArchiveError) as error:
            self._note_absence(error)
            return self._images.known
        self._is_away = False
        self._owners = {
            str(each.SeriesInstanceUID): (str(each.get("StudyInstanceUID") or ""), str(each.get("PatientID") or ""))
            for each in found
        }
        listed = [each for each in found if self._search_filter or str(each.get("Modality")) in VOLUME_MODALITIES]
        self._survey.ask((str(each.SeriesInstanceUID), _n_instances(each), each) for each in listed)
        return [str(each.SeriesInstanceUID) for each in listed]

    # ----------------------------------------------------------- what is labelled

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """The images with a final label, each once: stored here, or as a SEG in the archive."""
        # By the history, for the fetched image may have been cleared away, and is fetched again when it is needed.
        stored = self.history.labelled(FINAL)
        segs = ((seg, self._drawn_on_image(seg)) for seg in self._segs.get())
        drawn_on = {image for seg, image in segs if image and seg.series not in self._outdated(image)}
        return [image for image in self.list_images() if image in stored | drawn_on]

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        labelled = set(self.get_labeled_images())
        return [image for image in self.list_images() if image not in labelled]

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        """Images and labels as files, the archive's fetched first."""
        cases = self.annotated_cases()
        return [{"image": str(case.image), "label": self.get_label_uri(case.id, FINAL)} for case in cases]

    def get_label_uri(self, label_id: str, label_tag: str, image_id: str = "") -> str:
        return VersionedDatastore.get_label_uri(self, label_id, label_tag)

    def newest_case(self, image_id: str, train_on: str = SUBMITTED) -> Case | None:
        """As for a folder, after the archive's labels of the image have been fetched; None, logged, if that fails."""
        try:
            with as_answers():
                self._fetch_labels(image_id)
                return super().newest_case(image_id, train_on)
        except (HTTPException, RequestException, ArchiveError, OSError) as error:  # the other images can be used
            logger.warning("image %s cannot be used: %s", image_id, getattr(error, "detail", error))
            return None

    def _drawn_on_image(self, seg: StoredSeg) -> str | None:
        """The image that a SEG was drawn on: of a series with several phases the one whose slices it names."""
        return self._phases.drawn_on(seg.image, seg.frames)

    def _know_labels(self, image_id: str) -> None:
        with _archive_asked(image_id), as_answers():
            self._fetch_labels(image_id)

    def series_folder(self, image_id: str) -> Path | None:
        return self._instances(image_id)

    def _fetch_segs(self) -> list[StoredSeg]:
        try:
            found = self.archive.segs()
        except (RequestException, ArchiveError) as error:
            self._note_absence(error)
            return self._segs.known
        unused = {seg.series: reason for seg in found if (reason := self._why_unused(seg))}
        for uid in unused.keys() - self._unused.keys():
            logger.info("SEG %s does not count as a label: %s", uid, unused[uid])
        self._unused = unused
        self._unused_segs = tuple(seg for seg in found if seg.series in unused)
        return [seg for seg in found if seg.series not in unused]

    def _why_unused(self, seg: StoredSeg) -> str:
        """Why training cannot use a SEG; empty where it can, as far as is known without fetching it."""
        if reason := self._why_unreadable(seg):
            return reason
        known = self._labels & set(seg.names)
        return "" if known else f"it holds {', '.join(seg.names)}, and no label of this server"

    def _why_unreadable(self, seg: StoredSeg) -> str:
        """Why a SEG cannot be put on its image, whatever its names."""
        if reason := self._failed.get(seg.series) or seg.problem:
            return reason
        if self._owners.get(seg.image, (seg.study, seg.patient)) != (seg.study, seg.patient):
            return "it is of another patient or study than the image it names"
        if self._drawn_on_image(seg) is None:
            return f"it does not say which of the phases of series {seg.image} it was drawn on"
        return ""

    def shown(self) -> dict[str, Any]:
        """For /info/, counted and named: the archive's SEGs that are no labels here, with the reason, and the images
        that are further phases of a series."""
        unused = sorted(self._unused.items())
        names = [f"{uid}: {reason}" for uid, reason in unused[:NAMED]]
        phases = [image for image in self.list_images() if series_and_phase(image)[1] is not None]
        return {
            "unused_segs": {"count": len(unused), "names": names},
            "phases": {"count": len(phases), "names": phases[:NAMED]},
        }

    def _outdated(self, image_id: str) -> frozenset[str]:
        """The SEG series of versions that were drawn on other instances than the image now has."""
        versions, instances = self.history.folder / image_id / FINAL, self._instances(image_id)
        if not (versions.is_dir() and instances.is_dir()):
            return frozenset()
        state = (versions.stat().st_mtime_ns, instances.stat().st_mtime_ns)
        known = self._outdated_known.get(image_id)
        if known is None or known[0] != state:
            content = content_of(instances)
            drawn = self.history.versions(image_id, FINAL)
            others = [each for each in drawn if each.info.get(CONTENT, content) != content]
            known = (state, frozenset(_series_of(each) for each in others) - {""})
            self._outdated_known[image_id] = known
        return known[1]

    def _note_absence(self, error: Exception) -> None:
        """Log once that the archive is away; the lists are asked for every few seconds."""
        if not self._is_away:
            logger.warning("the archive does not list what it has, and what is known counts: %s", error)
        self._is_away = True

    def _fetch_labels(self, image_id: str) -> None:
        """Make a version of each of the archive's SEGs of an image that is not known here."""
        uid, _ = series_and_phase(image_id)
        if not any(seg.image == uid for seg in self._segs.get()):
            return
        image = self._known_image(image_id)  # from now on the phases of its series are known
        segs = [seg for seg in self._segs.get() if seg.image == uid and self._drawn_on_image(seg) == image_id]
        owner = _owner(min(self._instances(image_id).glob("*.dcm")))
        known = {_series_of(each) for each in self.history.versions(image_id, FINAL)}
        for seg in sorted(segs, key=lambda each: each.when):
            if seg.series in known or seg.series in self._failed:
                continue
            if (seg.study, seg.patient) != owner:
                self._fail(seg, "it is of another patient or study than the image it names")
                continue
            self._fetch_label(seg, image_id, open_volume(image))

    def _fail(self, seg: StoredSeg, reason: str) -> None:
        logger.warning("SEG %s of %s cannot be used: %s", seg.series, seg.image, reason)
        self._failed[seg.series] = reason
        self._segs.expire()

    def _seg_file(self, seg: StoredSeg) -> Path | None:
        """A SEG as a file, fetched once; None if the archive has it no more."""
        folder = Path(self._datastore_path) / SEGS_FOLDER / seg.series
        series = self.archive.series(seg.series)
        if series is None:
            return None
        if not folder.is_dir():
            folder.parent.mkdir(exist_ok=True)
            self.archive.download(series, folder)
        return min(folder.glob("*.dcm"))

    def _fetch_label(self, seg: StoredSeg, image_id: str, volume: Volume) -> None:
        path = self._seg_file(seg)
        if path is None:
            return
        try:
            masks = read_label(path, volume, seg.names).masks
        except LabelError as error:
            self._fail(seg, str(error))
            return
        values = np.zeros(volume.shape, dtype=np.uint8, order="F")
        for value, mask in enumerate(masks.values(), start=1):
            values[mask] = value
        with TemporaryDirectory(dir=self._datastore_path, prefix=".label-") as place, self._locked():
            current = Path(place) / "label.nii.gz"
            save_nifti(current, values, volume.affine)
            names = [{"name": name} for name in masks]
            info: dict[str, Any] = {
                "label_info": names,
                "SeriesInstanceUID": seg.series,
                "current_sha256": digest(current),
            }
            info[CONTENT] = content_of(self._instances(image_id))
            self._keep_stray(image_id, FINAL)
            version = self.history.add(
                *(image_id, FINAL, path, ".dcm", info), source=ARCHIVE, when=_utc(seg.when), series=seg.series
            )
            newest = self.history.newest(image_id, FINAL)
            if newest is not None and newest.number == version.number:
                self._make_current(version, current, ".nii.gz")

    # ----------------------------------------------------- labels to start from

    def starts(self, image_id: str) -> list[Start]:
        """As for a folder, and the archive's SEGs of the image that are no labels here, but can be read."""
        versions = super().starts(image_id)
        return [*versions, *(Start(seg.names, _utc(seg.when), seg=seg.series) for seg in self._foreign_segs(image_id))]

    def stored_seg(self, image_id: str, uid: str) -> Case:
        for seg in self._foreign_segs(image_id):
            if seg.series == uid:
                image = self._known_image(image_id)
                if (seg.study, seg.patient) != _owner(min(self._instances(image_id).glob("*.dcm"))):
                    raise answer(409, f"SEG {uid} is of another patient or study than the image it names: start anew")
                with _archive_asked(image_id):
                    path = self._seg_file(seg)
                return Case(image_id, image, path) if path is not None else super().stored_seg(image_id, uid)
        return super().stored_seg(image_id, uid)

    def _foreign_segs(self, image_id: str) -> list[StoredSeg]:
        """The SEGs of an image that are no labels here, and can be read."""
        self._images.get()  # by which it is known whose they are
        self._segs.get()
        found = [seg for seg in self._unused_segs if not self._why_unreadable(seg)]
        return [seg for seg in found if self._drawn_on_image(seg) == image_id]

    # --------------------------------------------------------- to the archive

    def _store(self, image_id: str, label: Path, tag: str, info: Mapping[str, Any]) -> Version:
        self._known_image(image_id)  # so that it is the whole series, whose instances are noted
        version = super()._store(image_id, label, tag, {**info, CONTENT: content_of(self._instances(image_id))})
        if tag == FINAL:
            # Behind others that wait, this one does not arrive soon either.
            is_first = len(self._outbox.waiting()) <= 1
            self._outbox.wake()
            waiting = self._outbox.wait_for(Parcel(image_id, tag, version.number), SEND_WAIT_S if is_first else 0.0)
            self._segs.expire()
            remarks = self._notes[image_id]["remarks"]
            self._notes[image_id] = {
                "version": version.number,
                "archive": "waiting" if waiting else "stored",
                "note": " ".join([_note(version, waiting), *as_sentences(remarks)]),
                "remarks": remarks,
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
                names = value_names(version.info) or dict(enumerate(self._known_labels, start=1))
                masks = read_label(version.file, volume, sorted(set(names.values())), names).masks
                about = SegInfo(version.client, f"sam3d version {version.number}", SEG_SERIES_NUMBER + version.number)
                series, (_, phase) = self._instances(parcel.image), series_and_phase(parcel.image)
                write_seg(masks, volume.affine, series, version.seg, about, phase)
        except Sam3DError as error:
            raise ArchiveError(f"the label does not become a DICOM SEG: {error}") from error
        except HTTPException as error:
            raise ArchiveError(str(error.detail)) from error
        self.archive.store(version.seg)


@contextmanager
def _archive_asked(image_id: str) -> Iterator[None]:
    """Turn what an archive fails to do for one of its series into an HTTPException with a sentence."""
    try:
        yield
    except ArchiveError as error:
        raise answer(502, str(error)) from error
    except RequestException as error:
        sentence = f"the archive does not deliver series {image_id[:64]} ({sentence_of(error)}): try again later"
        raise answer(503, sentence) from error


def _note(version: Version, waiting: Parcel | None) -> str:
    if waiting is None:
        return f"It is version {version.number} of this label, and in the archive."
    reason = waiting.error or "the archive takes long"
    return (
        f"It is version {version.number} of this label, stored on this server; the archive has not got it yet "
        f"({reason}) and gets it as soon as it takes it."
    )


def _n_instances(series: Any) -> int:
    """How many instances an archive says that a series has; 0 if it does not say."""
    try:
        return int(series.get("NumberOfSeriesRelatedInstances") or 0)
    except NONSENSE:
        return 0


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
