"""/cases/: how far each case is, who has one open, what reviewers say, what there is to start from; labels as files.

MONAI Label has nothing like it.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import Response
from monailabel.interfaces.datastore import Datastore

from lib.activelearning.case_states import STATES, CaseStates, submitter
from lib.activelearning.leases import Leases
from lib.activelearning.presence import OPEN_S
from lib.datastore.reviews import APPROVED, SENT_BACK
from lib.datastore.starts import Start
from lib.datastore.versioned import FINAL, VersionedDatastore
from lib.images.volumes import open_volume
from lib.infers.failures import answer, as_answers
from lib.labels.dicom_seg_writing import SegInfo
from lib.labels.downloads import FORMATS, write_download
from lib.learning.cases import Case
from lib.naming import is_series_image, series_and_phase
from lib.serving.visitors import Role, client_of, name_of, visitor_of

# Of DICOM series that labels are downloaded as, before the number of the version.
SERIES_NUMBER = 300


class CasesApp(Protocol):
    """What the routes need of the app."""

    def datastore(self) -> Datastore: ...


def cases_door(app: CasesApp, states: CaseStates, leases: Leases) -> APIRouter:
    """The routes; endpoints that are no coroutines are run in threads."""
    router, kinds = APIRouter(), ", ".join(FORMATS)

    @router.get("/cases/", summary="All cases, or those of a state, with who did what")
    def all_cases(state: str = "") -> list[dict[str, Any]]:
        if state and state not in STATES:
            raise answer(422, f"state is {state[:40]!r}: it must be one of {list(STATES)}")
        found = states.all(app.datastore())
        return [each.as_json() for each in found if state in ("", each.state)]

    @router.get("/cases/starts", summary="What there is of a case to start from: versions, drafts, SEGs of the archive")
    def starts(image: str) -> list[dict[str, Any]]:
        return [_start_as_json(each) for each in _reviewed_store_with(app, image).starts(image)]

    @router.get(
        "/cases/download",
        summary=f"A label as a file ({kinds}): the newest version of a tag (`final`) unless one is named, or a SEG",
    )
    def download(
        image: str, format: str, version: int | None = None, tag: str | None = None, seg: str | None = None
    ) -> Response:
        if format not in FORMATS:
            raise answer(422, f"format is {format[:40]!r}: it must be one of {list(FORMATS)}")
        if seg is not None and (version is not None or tag is not None):
            raise answer(422, f"seg is {seg[:64]!r} beside a version or a tag: name either the SEG or the version")
        store = _reviewed_store_with(app, image)
        if seg is None:
            return _download_version(store, image, format, version, FINAL if tag is None else tag)
        return _download(store, store.stored_seg(image, seg), f"seg_{seg}", format, SegInfo())

    @router.post("/cases/open", summary="A client has a case open: how far it is, and who else has it open")
    def keep_open(request: Request, image: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        client, name = _who(request, params)
        store = store_with(app, image)
        states.presence.note(image, client, name, OPEN_S)
        return {
            **states.of(image, store).as_json(),
            "also_open": states.presence.others(image, client),
            "may_review": visitor_of(request).role >= Role.REVIEWER and isinstance(store, VersionedDatastore),
        }

    @router.post("/cases/leave", summary="A client closes a case")
    def leave(request: Request, image: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        states.presence.leave(image, _who(request, params)[0])
        return {}

    def review(request: Request, image: str, verdict: str, params: dict[str, Any] | None) -> dict[str, Any]:
        store, number = _reviewed_store_with(app, image), (params or {}).get("version")
        if number is not None and type(number) is not int:
            raise answer(422, f"version is {str(number)[:40]!r}: send the number of the label that was looked at")
        store.review(image, verdict, _who(request, params)[1], (params or {}).get("comment"), number)
        return states.of(image, store).as_json()

    @router.post("/cases/approve", summary="The newest label of a case is right: its version, and a comment, if any")
    def approve(request: Request, image: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        return review(request, image, APPROVED, params)

    @router.post("/cases/send_back", summary="The newest label of a case must be drawn anew: its version and a comment")
    def send_back(request: Request, image: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        told = review(request, image, SENT_BACK, params)
        leases.reopen(image)
        return told

    return router


def _who(request: Request, params: dict[str, Any] | None) -> tuple[str, str]:
    """The client, and what others call it."""
    said = params or {}
    return client_of(request, said.get("client_id")), name_of(request, said.get("client_name"), said.get("client_id"))


def _start_as_json(start: Start) -> dict[str, Any]:
    """`kind` is label, draft or seg; the others are what /cases/download takes, who made it, when, and its names."""
    told = {"labels": list(start.labels), "when": start.when}
    if start.version is None:
        return {"kind": "seg", "seg": start.seg, **told}
    version = start.version
    kind = "label" if version.tag == FINAL else "draft"
    by = submitter(version) or " ".join(part for part in (version.model, version.model_version) if part)
    return {"kind": kind, "tag": version.tag, "version": version.number, "by": by, **told}


def _download_version(store: VersionedDatastore, image: str, kind: str, number: int | None, tag: str) -> Response:
    case, version = store.stored_label(image, number, tag)
    about = SegInfo(submitter(version), f"sam3d version {version.number}", SERIES_NUMBER + version.number)
    name = f"v{version.number}" if tag == FINAL else f"{tag}_v{version.number}"
    return _download(store, case, name, kind, about)


def _download(store: VersionedDatastore, case: Case, name: str, kind: str, about: SegInfo) -> Response:
    with as_answers(), TemporaryDirectory() as folder:
        masks = store.label_masks(case).masks
        path = Path(folder) / f"label{FORMATS[kind]}"
        series, (_, phase) = store.series_folder(case.id), series_and_phase(case.id)
        write_download(kind, masks, open_volume(case.image).affine, series, path, about, phase)
        # Names in a header are Latin-1 but for this form of them.
        file_name = quote(f"{case.id}_{name}{FORMATS[kind]}")
        headers = {"content-disposition": f"attachment; filename*=utf-8''{file_name}"}
        return Response(path.read_bytes(), media_type="application/octet-stream", headers=headers)


def _reviewed_store_with(app: CasesApp, image: str) -> VersionedDatastore:
    """The datastore, which has this image and keeps versions; HTTPException if it does not."""
    store = store_with(app, image)
    if not isinstance(store, VersionedDatastore):
        raise answer(409, "this server's datastore keeps no versions: serve a folder, or a DICOMweb archive")
    return store


def store_with(app: CasesApp, image: str) -> Datastore:
    """The datastore, which has this image; HTTPException 404 if it has not."""
    store = app.datastore()
    if image in store.list_images() or (isinstance(store, VersionedDatastore) and is_series_image(image)):
        return store
    raise answer(404, f"there is no image {image[:80]!r} here: name one that /datastore/ lists")
