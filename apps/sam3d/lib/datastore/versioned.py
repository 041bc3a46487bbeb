"""A folder datastore whose labels are checked, kept in versions and written whole or not at all."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monailabel.interfaces.datastore import DefaultLabelTag

from lib.datastore.history import Version, copy_atomically
from lib.datastore.intake import ENDINGS, accepted, value_names
from lib.datastore.listed import OURS, ListedFolder
from lib.datastore.listing import ending_of as image_ending
from lib.datastore.reviews import Review, Reviews, check_comment
from lib.datastore.starts import Start, start_of
from lib.images.volumes import open_volume
from lib.infers.failures import answer, as_answers
from lib.labels.masks import LabelMasks, read_whole_label
from lib.learning.cases import Case
from lib.naming import check_image_id, check_tag, is_tag
from lib.settings import REVIEWED, SUBMITTED
from lib.weights.versions import remove_temporaries

FINAL = DefaultLabelTag.FINAL.value


class VersionedDatastore(ListedFolder):
    """`served` names the model version that clicks get while a label is submitted; `labels` are those that training
    knows, in the order of their values."""

    def __init__(
        self, *args: Any, served: Callable[[], str] = lambda: "", labels: Sequence[str] = (), **kwargs: Any
    ) -> None:
        self._served = served
        self._known_labels = tuple(labels)
        self._notes: dict[str, dict[str, Any]] = {}
        self.reviews = Reviews()
        super().__init__(*args, **kwargs)

    def claim(self) -> str:
        """Store here from now on, as the one server that does. A sentence if another one does: then this one only
        reads, and takes its place at the first store after that has ended."""
        if self._rights.claim():
            self.refresh()
            self._clean_leftovers()
        return self.only_reads()

    def only_reads(self) -> str:
        """Which other server stores here, as one sentence; empty if none does."""
        return self._rights.other_server()

    def close(self) -> None:
        super().close()
        self._rights.release()

    def _clean_leftovers(self) -> None:
        """Remove the temporary files of processes that were killed while they stored."""
        with self._locked():
            remove_temporaries(Path(self._datastore_path))
            for top in (self.history.folder, self.current.folder):
                for folder in {path.parent for path in top.rglob(".*")}:
                    remove_temporaries(folder)

    # ---------------------------------------------------------------- images

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """An image at the top of the folder; HTTPException for what would be none. One of the same id is replaced, and
        its labels, which belong to its content, do not follow."""
        ending = image_ending(Path(image_filename).name)
        if ending is None:
            raise answer(
                422, f"{Path(image_filename).name[-60:]!r} is of no format that opens: send NIfTI, NRRD or MHA"
            )
        with as_answers():
            image_id = check_image_id(image_id or Path(image_filename).name[: -len(ending)])
        with self._rights.storing(), self._locked():
            path = Path(self._datastore.image_path()) / f"{image_id}{ending}"
            former = self._files[image_id].files if image_id in self._files else ()
            copy_atomically(Path(image_filename), path)
            for other in former:
                if other != path:
                    other.unlink(missing_ok=True)
            if former:  # the id is the new file's now, whatever it is called
                news = {file.name: file for file in self._find().images}
                self._files[image_id] = news.get(path.name, self._files[image_id])
            self._list_again()
            found = [image for image, file in self._files.items() if file.name == f"{image_id}{ending}"]
            for image in found:
                named = {key: value for key, value in (image_info or {}).items() if key not in OURS}
                self._datastore.objects[image].image.info.update(named)
            self._update_datastore_file(lock=False)
        return found[0] if found else image_id

    def remove_image(self, image_id: str) -> None:
        """Remove an image's file, and note that its labels no longer count; their versions stay."""
        self._known_image(image_id)
        for tag in list(self._datastore.objects[image_id].labels):
            self.remove_label(image_id, tag)
        with self._rights.storing(), self._locked():
            for path in self._files[image_id].files if image_id in self._files else ():
                path.unlink(missing_ok=True)
            self._list_again()

    # ------------------------------------------------------------- labels in

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any], label_id: str = ""
    ) -> str:
        """Store a new version; HTTPException, with a sentence, for a label that cannot be this image's."""
        with as_answers():
            tag = check_tag(str(getattr(label_tag, "value", label_tag)))
        self._store(image_id, Path(label_filename), tag, label_info or {})
        return image_id

    def _store(self, image_id: str, label: Path, tag: str, info: Mapping[str, Any]) -> Version:
        image = self._known_image(image_id)
        with as_answers(), self._rights.storing():
            before = self._content(image_id)
            with (
                accepted(label, open_volume(image), image_id, info, self._known_labels) as (path, ending, remarks),
                self._locked(),
            ):
                content = self._content(image_id)
                if content != before:
                    raise answer(409, f"image {image_id} was replaced while its label came in: open it again")
                self.history.refresh()
                self._bind(image_id, tag, content)
                self._keep_stray(image_id, tag, content)
                version = self.history.add(
                    *(image_id, tag, path, ending, info),
                    of=content,
                    served=self._served(),
                    announce=lambda number: self._announce(image_id, tag, number),
                )
                self._make_current(version)
        note = " ".join([f"It is version {version.number} of this label.", *as_sentences(remarks)])
        self._notes[image_id] = {"version": version.number, "note": note, "remarks": list(remarks)}
        return version

    def _announce(self, image_id: str, tag: str, number: int) -> None:
        """Called before a submitted version is stored."""

    def saved_note(self, image_id: str) -> dict[str, Any]:
        """What to add to the reply to the client that stored the last label of an image."""
        return self._notes.get(image_id, {})

    def _known_image(self, image_id: str) -> Path:
        if image_id not in self._files:
            raise answer(404, f"there is no image {image_id[:80]!r} here: name one that /datastore/ lists")
        return Path(self.get_image_uri(image_id))

    def _make_current(self, version: Version, file: Path | None = None, ending: str = "") -> None:
        """Put a version (or `file`, made of it) where clients of MONAI Label look for the image's label."""
        self.current.put(file or version.file, version.image, version, ending)
        self._drawn_on = self.history.drawn_on()
        alike = [image for image in self._datastore.objects if self._is_drawn_on(image, version)]
        self._list_labels({version.image, *alike})
        self._update_datastore_file(lock=False)

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Note that an image's label no longer counts, and take it out of the labels' folder; its versions stay."""
        tag = str(getattr(label_tag, "value", label_tag))
        if label_id not in self._datastore.objects or not is_tag(tag):
            raise answer(404, f"there is no label {tag[:80]!r} of {label_id[:80]!r} here")
        with self._rights.storing(), self._locked():
            content = self._content(label_id)
            self.history.refresh()
            self._bind(label_id, tag, content)
            self._keep_stray(label_id, tag, content)
            if self.history.newest(label_id, tag, content.digest if content else "") is not None:
                self.history.remove(label_id, tag, content)
            for path in self.current.files(label_id, tag):
                path.unlink(missing_ok=True)
            self._list_again()

    # ------------------------------------------------------------ labels out

    def annotated_cases(self, train_on: str = SUBMITTED) -> list[Case]:
        """Every image with a final label that counts (`newest_case`), by id; one that lies in the folder under two
        names, once."""
        with self._guard:
            self.history.refresh()
            self._drawn_on = self.history.drawn_on()
        drawn_on, by_content = self.history.claims(), dict[str, Case]()
        for image in sorted(set(self.get_labeled_images())):
            case = None
            with suppress(HTTPException):  # it went away since it was listed
                case = self.newest_case(image, train_on)
            if case is not None:
                digest = self._digest(case.id) or case.id
                # The name that it was drawn under, where that is still there: it is in the record of training cases.
                if digest not in by_content or drawn_on.get(case.id) == self._name(case.id):
                    by_content[digest] = case
        return sorted(by_content.values(), key=lambda case: case.id)

    def _name(self, image_id: str) -> str:
        file = self._files.get(image_id)
        return file.name if file else ""

    def drafts(self) -> list[str]:
        """The images that have a draft, made by a network, and no final label."""
        labelled, tag = set(self.get_labeled_images()), DefaultLabelTag.ORIGINAL.value
        return [image for image, each in self._objects().items() if tag in each.labels and image not in labelled]

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        """Images and labels as files."""
        cases = self.annotated_cases()
        return [{"image": str(case.image), "label": self.get_label_uri(case.id, FINAL)} for case in cases]

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """A ZIP file of images and labels, named by image ids, and the list; HTTPException if none is labelled."""
        cases = self.annotated_cases()[: limit_cases or None]
        if not cases:
            raise answer(404, "no image has a final label yet: submit one first")
        with tempfile.NamedTemporaryFile(suffix=".zip", delete=False) as file, zipfile.ZipFile(file, "w") as archive:
            for case in cases:
                label = Path(self.get_label_uri(case.id, FINAL) or case.label)
                ending = next((each for each in ENDINGS if label.name.endswith(each)), label.suffix)
                archive.write(case.image, f"image/{case.id}{image_ending(case.image.name) or case.image.suffix}")
                archive.write(label, f"label/{case.id}{ending}")
            archive.writestr("metadata.json", self._datastore.model_dump_json(exclude={"base_path"}))
        return file.name

    def newest_case(self, image_id: str, train_on: str = SUBMITTED) -> Case | None:
        """An image with the label that counts (`counting_version`); None if it has none."""
        image = self._known_image(image_id)
        files = self.current.files(image_id, FINAL)
        standing = self.current.standing(image_id, FINAL, self._digest(image_id), files)
        if standing.stray is not None and train_on == SUBMITTED:
            names = value_names(self.get_label_info(image_id, FINAL))
            return Case(image_id, image, standing.stray, names or None)
        version = self.counting_version(image_id, train_on)
        if version is None:
            return None
        # A version whose file somebody deleted still lies where clients look.
        copies = (path for path in standing.copies if self.current.digest(path) in version.copies)
        file = version.file if version.file.is_file() else next(copies, version.file)
        return Case(image_id, image, file, value_names(version.info) or None)

    def counting_version(self, image_id: str, train_on: str = SUBMITTED) -> Version | None:
        """The newest version that a reviewer approved; of `submitted` ones the newest, unless it was sent back."""
        versions = self.history.standing(image_id, FINAL, self._digest(image_id))
        said = {each.number: self.reviews.of(each) for each in versions}
        approved = [each for each in versions if (review := said[each.number]) and review.is_approval]
        if train_on == REVIEWED or (versions and (last := said[versions[-1].number]) and not last.is_approval):
            return approved[-1] if approved else None
        return versions[-1] if versions else None

    # --------------------------------------------------------------- reviews

    def standing_label(self, image_id: str) -> tuple[Version | None, Review | None]:
        """The newest version of an image's label, and what a reviewer said of it."""
        version = self.history.newest(image_id, FINAL, self._digest(image_id))
        return version, self.reviews.of(version) if version else None

    def review(self, image_id: str, verdict: str, by: str, comment: object, number: int | None = None) -> Review:
        """Keep what a reviewer says of the newest version, which is the one with this `number`; HTTPException where it
        is another by now, or there is none."""
        self._know_labels(image_id)
        with as_answers(), self._rights.storing(), self._locked():
            text = check_comment(comment, verdict)
            content = self._content(image_id)
            self.history.refresh()
            self._keep_stray(image_id, FINAL, content)
            version = self.history.newest(image_id, FINAL, content.digest if content else "")
            if version is None:
                raise answer(409, f"{image_id[:80]} has no label to review: wait until one is submitted")
            if number not in (None, version.number):
                raise answer(409, f"version {version.number} of this label was submitted meanwhile: look at it first")
            return self.reviews.add(version, verdict, by, text)

    # ------------------------------------------------------- labels to start from

    def newest_version(self, image_id: str, tag: str) -> Version | None:
        """The newest version of an image's label of a tag, or None; HTTPException for an unknown image."""
        self._know_labels(image_id)
        return self.history.newest(image_id, tag, self._digest(image_id))

    def starts(self, image_id: str) -> list[Start]:
        """What an annotation can start from: the versions of the image's label, the newest first, and the newest draft
        of each other tag; HTTPException for an unknown image."""
        self._know_labels(image_id)
        digest = self._digest(image_id)
        labels = reversed(self.history.standing(image_id, FINAL, digest))
        others = sorted(self.history.tags(image_id, digest) - {FINAL})
        drafts = (self.history.newest(image_id, tag, digest) for tag in others)
        return [start_of(version) for version in (*labels, *drafts) if version is not None]

    def stored_label(self, image_id: str, number: int | None = None, tag: str = FINAL) -> tuple[Case, Version]:
        """An image with a version of its label of a tag, the newest unless a number is given; HTTPException 404 where
        there is none."""
        self._know_labels(image_id)
        with as_answers():
            check_tag(tag)
        image, versions = self._known_image(image_id), self.history.standing(image_id, tag, self._digest(image_id))
        found = [each for each in versions if number in (None, each.number)]
        if not found:
            kind = "a label" if tag == FINAL else f"a label tagged {tag}"
            which = f"version {number} of {kind}" if versions else f"{kind.removeprefix('a ')} that is stored"
            raise answer(404, f"image {image_id[:80]} has no {which}: see /cases/starts")
        return Case(image_id, image, found[-1].file, value_names(found[-1].info) or None), found[-1]

    def stored_seg(self, image_id: str, uid: str) -> Case:
        """An image with a DICOM SEG that `starts` lists, as its label; HTTPException 404 where it lists none such."""
        raise answer(404, f"image {image_id[:80]} has no SEG {uid[:64]} to start from: see /cases/starts")

    def series_folder(self, image_id: str) -> Path | None:
        """The folder of the DICOM instances that an image was made of; None for an image file."""
        return None

    def label_masks(self, case: Case) -> LabelMasks:
        """The masks of all names that a case's label has, on the grid of its image; LabelError for one without any."""
        return read_whole_label(case.label, open_volume(case.image), self._known_labels, case.value_names)

    def _know_labels(self, image_id: str) -> None:
        """Called before the versions of an image's label are read, for those that are kept elsewhere."""
        self._known_image(image_id)


def as_sentences(remarks: Sequence[str]) -> list[str]:
    """Remarks as they follow a sentence."""
    return [f"{remark[:1].upper()}{remark[1:]}." for remark in remarks]
