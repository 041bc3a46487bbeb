"""The form of a request: its fields of text, and the files sent along.

Whatever is wrong with it is told in one sentence, and no field is longer than its limit; the body as a whole is bounded
by the gate.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException, Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import FormParser, MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from lib.infers.failures import answer, as_answers
from lib.strict_json import read_object

# A hundred thousand clicks, the most that may be allowed, fill half of it.
PARAMS_LIMIT_BYTES = 4 * 2**20
# The viewers send three at most: params, file and label.
MAX_PARTS = 16
MULTIPART, URL_ENCODED = b"multipart/form-data", b"application/x-www-form-urlencoded"


@dataclass(frozen=True)
class Form:
    """What was sent. Texts of a multipart form are as the bytes stand there, in Latin-1; `is_raw` says so."""

    data: FormData
    is_raw: bool

    def object(self, name: str, *, allows_nan: bool = False) -> dict[str, Any]:
        """The JSON object of a field; empty if there is none. HTTPException 422 if it is something else."""
        field = self.data.get(name)
        if isinstance(field, UploadFile):
            raise answer(422, f"{name} is a file: send it as a field of text")
        if not field:
            return {}
        with as_answers():
            return read_object(field.encode("latin-1") if self.is_raw else field, name, allows_nan=allows_nan)

    def file(self, name: str) -> UploadFile | None:
        """The file of a field; None if none was sent. HTTPException 422 if the field is a text."""
        field = self.data.get(name)
        if isinstance(field, str):
            raise answer(422, f"{name} is a text: send it as a file, with a file name, or leave it away")
        if field is None or not (field.filename or field.size):
            return None
        return self._named(field)

    def _named(self, file: UploadFile) -> UploadFile:
        """The file with its name as it was meant, which is UTF-8 in all that viewers and scripts send."""
        if self.is_raw and file.filename:
            file.filename = file.filename.encode("latin-1", "replace").decode("utf-8", "replace")
        return file

    def needed_file(self, name: str) -> UploadFile:
        """The file of a field; HTTPException 422 if none was sent."""
        file = self.file(name)
        if file is None:
            raise answer(422, f"the form has no file {name!r}: send one, with a file name")
        return file

    def files(self, name: str) -> list[UploadFile]:
        """All files of a field, which may come several times."""
        return [self._named(field) for field in self.data.getlist(name) if isinstance(field, UploadFile)]


@asynccontextmanager
async def read_form(request: Request, max_files: int = MAX_PARTS) -> AsyncIterator[Form]:
    """The form of a request; HTTPException 413 for a field that is too long, 422 if the body is no form."""
    try:
        form = await _parse(request, max_files)
    except ClientDisconnect:
        raise HTTPException(499, "the client went away while it sent its request") from None
    except MultiPartException as error:
        if "maximum size" in error.message:
            raise answer(413, f"a field of the form is longer than {PARAMS_LIMIT_BYTES} bytes") from error
        raise answer(422, f"the form cannot be read: {error.message[:200]}") from error
    try:
        yield form
    finally:
        await form.data.close()


async def read_words(request: Request) -> dict[str, str]:
    """The fields of text of a short form."""
    async with read_form(request) as form:
        texts = {name: value for name, value in form.data.items() if isinstance(value, str)}
    try:
        return {name: text.encode("latin-1").decode() if form.is_raw else text for name, text in texts.items()}
    except UnicodeError as error:
        raise answer(422, f"the form is not text in UTF-8: {str(error)[-80:]}") from error


async def _parse(request: Request, max_files: int) -> Form:
    """The fields of the body: none, if it is empty and of no kind of form."""
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind == URL_ENCODED:
        fields = FormParser(request.headers, request.stream(), max_fields=MAX_PARTS, max_part_size=PARAMS_LIMIT_BYTES)
        return Form(await fields.parse(), is_raw=False)
    if kind == MULTIPART:
        # Read as Latin-1 every byte is kept: the parser itself would do so only where UTF-8 fails, and not tell.
        boundary = options.get(b"boundary", b"").decode("latin-1")
        headers = Headers({"content-type": f'multipart/form-data; boundary="{boundary}"; charset=latin-1'})
        parser = MultiPartParser(
            headers if boundary else request.headers,
            request.stream(),
            max_files=max_files,
            max_fields=MAX_PARTS,
            max_part_size=PARAMS_LIMIT_BYTES,
        )
        form = await parser.parse()
        if not form:
            raise answer(422, "the form holds no field: send params, or no body at all")
        return Form(form, is_raw=True)
    async for chunk in request.stream():
        if chunk:
            raise answer(422, f"the body is {kind.decode('latin-1')[:40]!r}: send a form, multipart/form-data")
    return Form(FormData(), is_raw=False)
