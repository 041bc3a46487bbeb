"""/datastore/: the stock contract, with ids, tags and files checked before anything is written, and sentences.

The stock endpoints join ids to paths as they come, keep whatever JSON they are sent, replace images in silence, answer
200 with nothing for what is not there, and leave the files of refused labels behind.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import IO, Any, Protocol

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from monailabel.config import settings as server_settings
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.interfaces.datastore import Datastore
from monailabel.utils.others.generic import file_checksum
from requests import RequestException
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from lib.datastore.intake import ENDINGS
from lib.datastore.outbox import ArchiveError
from lib.images.volumes import open_volume
from lib.infers.failures import answer, as_answers
from lib.labels.raw import RAW
from lib.naming import check_image_id, check_tag, ending_of, is_series_image
from lib.serving.forms import read_form
from lib.serving.gate import tell
from lib.serving.uploads import IMAGE_ENDINGS, on_disk
from lib.serving.visitors import visitor_of
from lib.strict_json import finite

CHECKSUMS = {"MD5": 32, "SHA256": 64, "SHA512": 128}
FINAL = "final"
UNNAMED_LABEL = "label.nii.gz"
PIECE_BYTES = 2**20


class DatastoreApp(Protocol):
    """What the routes need of the app."""

    def datastore(self) -> Datastore: ...

    def on_save_label(self, image_id: str, label_id: str) -> dict[str, Any] | None: ...


class Output(str, Enum):
    """What GET /datastore/ can tell."""

    train = "train"
    stats = "stats"
    all = "all"


class DatastoreDoor:
    """What the routes do, each in a thread; those that change something one at a time, as ever."""

    def __init__(self, app: DatastoreApp, limit_volume_bytes: int) -> None:
        self._app, self._limit = app, limit_volume_bytes
        self._changing = threading.Lock()

    def tell(self, output: Output) -> Any:
        """Counts; or all images and labels; or those to train on, as files."""
        with _archive_asked():
            store = self._app.datastore()
            told = {Output.all: store.json, Output.train: store.datalist, Output.stats: store.status}[output]()
        return JSONResponse(finite(told))

    # ----------------------------------------------------------------- images

    def add_image(self, image: str, upload: UploadFile, info: dict[str, Any], is_replaced: bool) -> str:
        store = self._app.datastore()
        if isinstance(store, DICOMWebDatastore):
            raise answer(409, "the studies of this server are in a DICOMweb archive: store images there")
        name = _utf8(upload.filename or "image.nii.gz")
        endings = tuple(each for each in IMAGE_ENDINGS if f"*{each}" in server_settings.MONAI_LABEL_DATASTORE_FILE_EXT)
        with as_answers():
            ending = ending_of(name, endings, "the image")
            image_id = check_image_id(image or Path(name).name[: -len(ending)])
        with self._changing, on_disk(upload, endings, "the image") as file, as_answers():
            self._refuse_known(store, image_id, is_replaced)
            open_volume(file, self._limit)
            added: str = store.add_image(image_id, str(file), info)
        return added

    def remove_image(self, image: str) -> None:
        with self._changing:
            store = self._store_with(image)
            if isinstance(store, DICOMWebDatastore):
                raise answer(409, "the studies of this server are in a DICOMweb archive: delete images there")
            store.remove_image(image)

    def image_file(self, image: str) -> Path:
        store = self._store_with(image)
        with _archive_asked():
            path = Path(str(store.get_image_uri(image)))
        if not path.is_file():
            raise answer(404, f"the file of image {image[:80]!r} is gone: see the folder of studies")
        return path

    def image_info(self, image: str) -> dict[str, Any]:
        store = self._store_with(image)
        with _archive_asked():
            info: dict[str, Any] = finite(dict(store.get_image_info(image)))
        return info

    def update_image_info(self, image: str, info: dict[str, Any]) -> None:
        with self._changing:
            store = self._store_with(image)
            if image not in store._datastore.objects:
                raise answer(404, f"image {image[:80]!r} was not opened yet, and keeps no info: open it first")
            store.update_image_info(image, info)

    # ----------------------------------------------------------------- labels

    def save_label(self, image: str, tag: str, upload: UploadFile, info: dict[str, Any]) -> dict[str, Any]:
        with as_answers():
            check_tag(tag)
        with on_disk(upload, (*ENDINGS, RAW), "the label") as file, self._changing:
            store = self._store_with(image)
            with _archive_asked():
                label_id = store.save_label(image, str(file), tag, info)
            told = self._app.on_save_label(image, label_id) or {}
        return {**told, "image": image, "label": label_id}

    def remove_label(self, image: str, tag: str) -> None:
        with self._changing:
            self.label_file(image, tag)
            self._app.datastore().remove_label(image, tag)

    def label_file(self, image: str, tag: str) -> Path:
        store = self._store_with(image)
        with as_answers():
            check_tag(tag)
        path = Path(str(store.get_label_uri(image, tag) or "/"))
        if not path.is_file():
            raise answer(404, f"image {image[:80]!r} has no label {tag!r}")
        return path

    def label_info(self, image: str, tag: str) -> dict[str, Any]:
        self.label_file(image, tag)
        info: dict[str, Any] = finite(dict(self._app.datastore().get_label_info(image, tag)))
        return info

    def update_label_info(self, image: str, tag: str, info: dict[str, Any]) -> None:
        with self._changing:
            self.label_file(image, tag)
            self._app.datastore().update_label_info(image, tag, info)

    def dataset(self, limit_cases: int | None) -> IO[bytes]:
        """All images and labels as one open ZIP archive, whose file nobody else can see."""
        store = self._app.datastore()
        with _archive_asked():
            if not store.datalist():
                raise answer(404, "no image has a final label yet: a dataset would be empty")
            path = Path(store.get_dataset_archive(limit_cases))
        file = path.open("rb")
        path.unlink()
        return file

    def _store_with(self, image: str) -> Datastore:
        """The datastore, which has this image; HTTPException 404 if it has not."""
        store = self._app.datastore()
        with _archive_asked():
            is_known = image in store.list_images()
        # A series that the search filter leaves out can be open in a viewer all the same.
        if is_known or (isinstance(store, DICOMWebDatastore) and is_series_image(image)):
            return store
        raise answer(404, f"there is no image {image[:80]!r} here: name one that /datastore/ lists")

    @staticmethod
    def _refuse_known(store: Datastore, image: str, is_replaced: bool) -> None:
        if not is_replaced and image in store.list_images():
            raise answer(
                409,
                f"there is an image {image[:80]!r} already: choose another id, or send replace=true, and its labels "
                "count no more",
            )


def datastore_door(app: DatastoreApp, limit_volume_bytes: int) -> APIRouter:
    """The routes; an image that is uploaded must open as a volume of at most `limit_volume_bytes`."""
    router, door = APIRouter(include_in_schema=False), DatastoreDoor(app, limit_volume_bytes)
    _add_reading(router, door)
    _add_images(router, door)
    _add_labels(router, door)
    return router


def _add_reading(router: APIRouter, door: DatastoreDoor) -> None:
    @router.get("/datastore/")
    def tell_all(output: Output = Output.stats) -> Response:
        shown: Response = door.tell(output)
        return shown

    @router.get("/datastore/image")
    def image(image: str) -> Response:
        path = door.image_file(image)
        return FileResponse(path, media_type="application/octet-stream", filename=path.name)

    @router.head("/datastore/image")
    def has_image(image: str, check_sum: str = "") -> Response:
        path = door.image_file(image)
        if check_sum and not _is_sum_of(path, check_sum):
            raise answer(404, f"image {image[:80]!r} has another checksum")
        return Response()

    @router.get("/datastore/image/info")
    def image_info(image: str) -> dict[str, Any]:
        return door.image_info(image)

    @router.get("/datastore/label")
    def label(label: str, tag: str) -> Response:
        path = door.label_file(label, tag)
        return FileResponse(path, media_type="application/octet-stream", filename=path.name)

    @router.head("/datastore/label")
    def has_label(image: str, tag: str) -> Response:
        door.label_file(image, tag)
        return Response()

    @router.get("/datastore/label/info")
    def label_info(label: str, tag: str) -> dict[str, Any]:
        return door.label_info(label, tag)

    @router.get("/datastore/dataset")
    def dataset(limit_cases: int | None = None) -> Response:
        headers = {"content-disposition": 'attachment; filename="dataset.zip"'}
        return StreamingResponse(_pieces(door.dataset(limit_cases)), media_type="application/zip", headers=headers)


def _add_images(router: APIRouter, door: DatastoreDoor) -> None:
    @router.put("/datastore/")
    @router.put("/datastore/image")
    async def add(request: Request, image: str = "", replace: bool = False) -> dict[str, str]:
        async with read_form(request) as form:
            upload, info = form.needed_file("file"), form.object("params")
            added = await run_in_threadpool(door.add_image, image, upload, info, replace)
        tell(request, image=added)
        return {"image": added}

    @router.delete("/datastore/image")
    def remove(id: str) -> dict[str, str]:
        door.remove_image(id)
        return {}

    @router.put("/datastore/image/info")
    async def update(request: Request, image: str) -> None:
        async with read_form(request) as form:
            await run_in_threadpool(door.update_image_info, image, form.object("info"))


def _add_labels(router: APIRouter, door: DatastoreDoor) -> None:
    @router.put("/datastore/label")
    async def save(request: Request, image: str, tag: str = FINAL) -> dict[str, Any]:
        async with read_form(request) as form:
            upload, info = form.needed_file("label"), form.object("params")
            visitor = visitor_of(request)
            # What a client says of itself is no proof, a login is.
            info = {**info, "user": visitor.name} if visitor.is_one_person else info
            upload.filename = upload.filename or UNNAMED_LABEL
            return await run_in_threadpool(door.save_label, image, tag or FINAL, upload, info)

    @router.delete("/datastore/label")
    def remove(id: str, tag: str) -> dict[str, str]:
        door.remove_label(id, tag)
        return {}

    @router.put("/datastore/label/info")
    async def update(request: Request, label: str, tag: str) -> None:
        async with read_form(request) as form:
            await run_in_threadpool(door.update_label_info, label, tag, form.object("info"))


def _is_sum_of(path: Path, check_sum: str) -> bool:
    kind, _, digits = check_sum.rpartition(":")
    kind = (kind or "SHA256").upper()
    if len(digits) != CHECKSUMS.get(kind):
        raise answer(
            422, f"check_sum is {check_sum[:40]!r}: write it as in SHA256:..., or with one of {sorted(CHECKSUMS)}"
        )
    return bool(digits.lower() == file_checksum(str(path), algo=kind))


def _utf8(name: str) -> str:
    """A file's name of a multipart form, which is read as Latin-1."""
    try:
        return name.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return name


async def _pieces(file: IO[bytes]) -> AsyncIterator[bytes]:
    with file:
        while piece := await run_in_threadpool(file.read, PIECE_BYTES):
            yield piece


@contextmanager
def _archive_asked() -> Iterator[None]:
    """What the core refuses, and what an archive does not deliver, as answers."""
    try:
        with as_answers():
            yield
    except (RequestException, ArchiveError) as error:
        raise answer(
            503, f"the archive does not deliver what is needed for this ({type(error).__name__}): try later"
        ) from error
