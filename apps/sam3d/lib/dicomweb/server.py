"""The routes of the DICOMweb server of a folder: QIDO, WADO and STOW (PS3.18) below /dicom-web."""

from __future__ import annotations

import logging
import re
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from pathlib import Path
from secrets import compare_digest, token_urlsafe
from typing import Any

import uvicorn
from python_multipart.exceptions import MultipartParseError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from lib.dicomweb.archive import Archive, Instance, RefusedError, frames_of
from lib.dicomweb.bodies import PartWriter, multipart
from lib.dicomweb.queries import RETRIEVE_URL, QueryError, answer_query, parse_query

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
ROOT = "/dicom-web"
DICOM, JSON, OCTETS = "application/dicom", "application/dicom+json", "application/octet-stream"
MOST_STOW_BYTES = 2 * 2**30
# Attributes of a STOW answer, PS3.18 table I.1-1.
REFERENCED_CLASS, REFERENCED_INSTANCE, FAILURE = "00081150", "00081155", "00081197"
FAILED, STORED = "00081198", "00081199"


class DicomJson(JSONResponse):
    """JSON as DICOMweb calls it."""

    media_type = JSON


def make_app(archive: Archive, login: tuple[str, str] | None = None) -> Starlette:
    """The server of an archive; requests by any other name than this machine's own are refused, and those without the
    name and password of `login` where there is one."""
    study, series, instance = "/studies/{study}", "/studies/{study}/series/{series}", "/instances/{instance}"
    gets: dict[str, Callable[[Archive, Request], Response]] = {
        **{"/studies": _search, "/series": _search, "/instances": _search},
        **{f"{study}/series": _search, f"{study}/instances": _search, f"{series}/instances": _search},
        **{f"{level}/metadata": _metadata for level in (study, series, series + instance)},
        f"{series}{instance}/frames/{{frames}}": _frames,
        **dict.fromkeys((study, series, series + instance), _retrieve),
    }
    routes = [Route(ROOT + path, _threaded(archive, answer)) for path, answer in gets.items()]
    routes += [Route(ROOT + path, _storing(archive), methods=["POST"]) for path in ("/studies", study)]
    guards = [Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])]
    if login is not None:
        guards.append(Middleware(_Login, login=login))
    return Starlette(routes=routes, middleware=guards)


class _Login:
    """Refuses whoever does not know name and password: other users of this machine can reach its ports, too."""

    def __init__(self, app: ASGIApp, login: tuple[str, str]) -> None:
        self._app = app
        self._wanted = b"Basic " + b64encode(":".join(login).encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = dict(scope.get("headers") or ()).get(b"authorization", b"")
        if scope["type"] == "http" and not compare_digest(given, self._wanted):
            await Response("this archive is the server's own", 401)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def serve(folder: Path, port: int) -> None:
    """Serve the instances of a folder on this machine alone until interrupted."""
    archive = Archive(folder)
    archive.wait()
    for name, reason in archive.left_out().items():
        logger.warning("%s is left out: %s", name, reason)
    logger.info(
        "DICOMweb for demos (no login): %d series of %s at http://%s:%d%s",
        *(len(archive.series()), folder, HOST, port, ROOT),
    )
    uvicorn.run(make_app(archive), host=HOST, port=port, log_level="warning", timeout_graceful_shutdown=2)


class LocalServer:
    """An archive served by this process, in a thread, to those who have the `login`."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.login = ("sam3d", token_urlsafe())
        self._socket = socket.create_server((HOST, 0))
        self.url = f"http://{HOST}:{self._socket.getsockname()[1]}{ROOT}"
        # Without a configuration of its own for the log, which is the other server's.
        config = uvicorn.Config(make_app(archive, self.login), log_config=None, access_log=False, lifespan="off")
        self._server = uvicorn.Server(config)
        options = {"sockets": [self._socket]}
        self._thread = threading.Thread(target=self._server.run, kwargs=options, daemon=True, name="dicomweb")
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.01)

    def close(self) -> None:
        """End the threads of server and archive."""
        self._server.should_exit = True
        self._thread.join(5.0)
        self._socket.close()
        self.archive.close()


def _threaded(archive: Archive, answer: Callable[[Archive, Request], Response]) -> Any:
    async def endpoint(request: Request) -> Response:
        try:
            return await run_in_threadpool(answer, archive, request)
        except QueryError as error:
            raise HTTPException(400, str(error)) from error
        except RefusedError as error:
            raise HTTPException(406, str(error)) from error

    return endpoint


def _search(archive: Archive, request: Request) -> Response:
    _refuse_unless_accepted(request, JSON, "application/json")
    query = parse_query(request.query_params.multi_items())
    level = request.url.path.rstrip("/").rpartition("/")[2]
    place = request.path_params
    return DicomJson(answer_query(archive, level, query, _root(request), place.get("study"), place.get("series")))


def _metadata(archive: Archive, request: Request) -> Response:
    _refuse_unless_accepted(request, JSON, "application/json")
    return DicomJson([each.fields() for each in _found(archive, request)])


def _retrieve(archive: Archive, request: Request) -> Response:
    instances = _found(archive, request)
    if "instance" in request.path_params and _first_accepted(request, "multipart/related", DICOM) == DICOM:
        return Response(instances[0].path.read_bytes(), media_type=DICOM)
    _refuse_unless_accepted(request, "multipart/related", part=DICOM)
    kind, body = multipart((each.path.read_bytes() for each in instances), DICOM)
    return StreamingResponse(body, headers={"Content-Type": kind})


def _frames(archive: Archive, request: Request) -> Response:
    _refuse_unless_accepted(request, "multipart/related", part=OCTETS)
    (instance,) = _found(archive, request)
    asked = request.path_params["frames"].split(",")
    if not all(number.isascii() and number.isdecimal() for number in asked):
        raise HTTPException(400, f"frames are {request.path_params['frames'][:40]!r}; name whole numbers from 1 up")
    numbers = [int(number) for number in asked]
    if not all(1 <= number <= instance.frames for number in numbers):
        raise HTTPException(404, f"{instance.uid} has frames 1 to {instance.frames}, not {asked}")
    frames, syntax = frames_of(instance, numbers, _takes(request, instance.header.syntax))
    kind, body = multipart(frames, OCTETS, f"; transfer-syntax={syntax}")
    return StreamingResponse(body, headers={"Content-Type": kind})


def _takes(request: Request, syntax: str) -> bool:
    """Whether a client takes frames in this transfer syntax; who names none is given uncompressed ones."""
    named = re.findall(r'transfer-syntax="?([0-9.]+|\*)', request.headers.get("accept", ""))
    return syntax in named or "*" in named


def _found(archive: Archive, request: Request) -> list[Instance]:
    place = request.path_params
    instances = archive.find(place.get("study"), place.get("series"), place.get("instance"))
    if not instances:
        raise HTTPException(404, f"there is nothing here of {', '.join(str(part)[:64] for part in place.values())}")
    return instances


def _storing(archive: Archive) -> Any:
    async def endpoint(request: Request) -> Response:
        root, study = _root(request), request.path_params.get("study")
        stored: list[dict[str, Any]] = []
        failed: list[dict[str, Any]] = []

        def receive(path: Path) -> None:
            try:
                instance = archive.store(path, study)
                url = f"{root}/studies/{instance.study}/series/{instance.series}/instances/{instance.uid}"
                stored.append({**_reference(instance), RETRIEVE_URL: _element("UR", url)})
            except RefusedError as refusal:
                logger.warning("not stored: %s", refusal)
                reference = _reference(refusal.instance) if refusal.instance else {}
                failed.append({**reference, FAILURE: _element("US", refusal.reason)})

        await _take_apart(request, archive.received, receive)
        answer: dict[str, Any] = {}
        if stored:
            answer[STORED] = {"vr": "SQ", "Value": stored}
        if failed:
            answer[FAILED] = {"vr": "SQ", "Value": failed}
        return DicomJson(answer, 200 if stored and not failed else 202 if stored else 409)

    return endpoint


async def _take_apart(request: Request, folder: Path, receive: Callable[[Path], None]) -> None:
    """Hand each part of the body to `receive` as a file, without ever holding the body in memory."""
    kind = request.headers.get("content-type", "")
    try:
        writer = PartWriter(kind, folder, receive)
    except ValueError as error:
        raise HTTPException(415, f'{error}; send multipart/related; type="{DICOM}"') from error
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > MOST_STOW_BYTES:
                raise HTTPException(413, f"more than {MOST_STOW_BYTES // 2**20} MiB in one request; store in several")
            await run_in_threadpool(writer.write, chunk)
    except MultipartParseError as error:
        raise HTTPException(400, f"the body is no multipart/related ({error})") from error
    finally:
        is_complete = writer.close()
    if not is_complete:
        raise HTTPException(400, "the body ends before its last boundary; send it again")


def _reference(instance: Instance) -> dict[str, Any]:
    return {
        REFERENCED_CLASS: _element("UI", instance.header.sop_class),
        REFERENCED_INSTANCE: _element("UI", instance.uid),
    }


def _element(vr: str, value: object) -> Mapping[str, Any]:
    return {"vr": vr, "Value": [value]}


def _root(request: Request) -> str:
    """This server's own URL: a client may leave the port out of its Host header."""
    _, port = request.scope["server"]
    return f"http://{HOST}:{port}{ROOT}"


def _refuse_unless_accepted(request: Request, *kinds: str, part: str | None = None) -> None:
    if _first_accepted(request, *kinds, part=part) is None:
        offered = f'{kinds[0]}; type="{part}"' if part else kinds[0]
        raise HTTPException(406, f"{request.headers['accept'][:80]!r} is not to be had here; accept {offered}")


def _first_accepted(request: Request, *kinds: str, part: str | None = None) -> str | None:
    """The first of the media types that the Accept header names, in the client's order; None for others.

    `part` is what a multipart body would hold, which the header may name by a `type` of its own.
    """
    header = request.headers.get("accept") or "*/*"
    for wanted in header.split(","):
        kind, *parameters = [word.strip() for word in wanted.split(";")]
        given = dict(word.split("=", 1) for word in parameters if "=" in word)
        inside = given.get("type", "*/*").strip('"')
        if part is not None and inside not in (part, "*/*", f"{part.partition('/')[0]}/*"):
            continue
        for offered in kinds:
            if kind in (offered, "*/*", f"{offered.partition('/')[0]}/*"):
                return offered
        if part is not None and kind == part:  # one part alone is as good as many of one
            return kinds[0]
    return None
