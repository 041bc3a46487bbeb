"""The form of a request for a mask: its JSON, and the image sent along, if one was.

Whatever is wrong with it is told in one sentence, and nothing is read beyond the limits: the body of a request is the
one thing that anybody may send.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import HTTPException, Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import FormParser, MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from lib.images.files import ITK_ENDINGS, NIFTI_ENDINGS
from lib.infers.failures import answer

# A hundred thousand clicks, the most that may be allowed, fill half of it.
PARAMS_LIMIT_BYTES = 4 * 2**20
# The viewers send three at most: params, file and label.
MAX_PARTS = 16
MULTIPART, URL_ENCODED = b"multipart/form-data", b"application/x-www-form-urlencoded"
IMAGE_ENDINGS = tuple(sorted((*NIFTI_ENDINGS, *ITK_ENDINGS), key=len, reverse=True))
UNNAMED = "image.nii.gz"


@dataclass(frozen=True)
class InferForm:
    """What was sent: the JSON object of the field `params`, and the file of the field `file`.

    A file in the field `label` (scribbles) is taken and dropped: no task of ours reads one.
    """

    params: dict[str, Any]
    image: UploadFile | None

    @contextmanager
    def image_on_disk(self) -> Iterator[Path | None]:
        """The image as a temporary file, named as MONAI Label names uploads, which is gone at the end."""
        if self.image is None:
            yield None
            return
        name = (self.image.filename or UNNAMED).lower()
        ending = next((ending for ending in IMAGE_ENDINGS if name.endswith(ending)), None)
        if ending is None:
            raise answer(422, f"the file sent along is {name[-40:]!r}: its name must end in {sorted(IMAGE_ENDINGS)}")
        with tempfile.NamedTemporaryFile(suffix=ending) as file:
            shutil.copyfileobj(self.image.file, file)
            file.flush()
            yield Path(file.name)


@asynccontextmanager
async def read_form(request: Request, limit_bytes: int) -> AsyncIterator[InferForm]:
    """The form of a request; HTTPException 413 if its body is longer than `limit_bytes`, 422 if it is no form."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit_bytes:
        raise _too_long(limit_bytes)
    try:
        form, has_bytes = await _parse(request, limit_bytes)
    except ClientDisconnect:
        raise HTTPException(499, "the client went away while it sent its request") from None
    except MultiPartException as error:
        if "maximum size" in error.message:
            raise answer(413, f"a field of the form is longer than {PARAMS_LIMIT_BYTES} bytes") from error
        raise answer(422, f"the form cannot be read: {error.message[:200]}") from error
    try:
        image = form.get("file")
        if isinstance(image, str):
            raise answer(422, "file is a text: send the image as a file, with a file name, or leave it away")
        is_given = image is not None and bool(image.filename or image.size)
        yield InferForm(_params(form.get("params"), has_bytes), image if is_given else None)
    finally:
        await form.close()


async def _parse(request: Request, limit_bytes: int) -> tuple[FormData, bool]:
    """The fields of the body, as they are if it has none of the two kinds of forms; and whether they hold raw bytes."""
    kind, options = parse_options_header(request.headers.get("content-type"))
    stream = _limited(request, limit_bytes)
    if kind == URL_ENCODED:
        fields = FormParser(request.headers, stream, max_fields=MAX_PARTS, max_part_size=PARAMS_LIMIT_BYTES)
        return await fields.parse(), False
    if kind == MULTIPART:
        # Read as Latin-1 every byte is kept: the parser itself would do so only where UTF-8 fails, and not tell.
        boundary = options.get(b"boundary", b"").decode("latin-1")
        headers = Headers({"content-type": f'multipart/form-data; boundary="{boundary}"; charset=latin-1'})
        parser = MultiPartParser(
            headers if boundary else request.headers,
            stream,
            max_files=MAX_PARTS,
            max_fields=MAX_PARTS,
            max_part_size=PARAMS_LIMIT_BYTES,
        )
        form = await parser.parse()
        if not form:
            raise answer(422, "the form holds no field: send params, or no body at all")
        return form, True
    async for chunk in stream:
        if chunk:
            raise answer(422, f"the body is {kind.decode('latin-1')[:40]!r}: send a form, multipart/form-data")
    return FormData(), False


async def _limited(request: Request, limit_bytes: int) -> AsyncGenerator[bytes, None]:
    n_bytes = 0
    async for chunk in request.stream():
        n_bytes += len(chunk)
        if n_bytes > limit_bytes:
            raise _too_long(limit_bytes)
        yield chunk


def _too_long(limit_bytes: int) -> HTTPException:
    return answer(
        413,
        f"the request is longer than {limit_bytes} bytes: send a smaller image, or start the server with a larger "
        "max_upload_mib",
    )


def _params(field: str | UploadFile | None, has_bytes: bool) -> dict[str, Any]:
    if isinstance(field, UploadFile):
        raise answer(422, "params is a file: send it as a field of text")
    if not field:
        return {}
    try:
        text = field.encode("latin-1").decode("utf-8") if has_bytes else field
        params = json.loads(text)
        # Half a surrogate pair can be read, but neither logged nor sent back.
        json.dumps(params, ensure_ascii=False).encode("utf-8")
    except UnicodeError as error:
        raise answer(422, f"params is not text in UTF-8: {str(error)[-80:]}") from error
    except json.JSONDecodeError as error:
        raise answer(422, f"params is no JSON: {error.msg} at character {error.pos}") from error
    except (ValueError, RecursionError) as error:
        raise answer(422, "params is JSON of numbers too long, or of lists too deep, to be read") from error
    if not isinstance(params, dict):
        raise answer(422, f"params is {text[:40]!r}: it must be a JSON object, as in {{}}")
    return params
