"""The browser's way to the images: its requests are handed on to the DICOMweb server that was configured, and no other.

The stock proxy drops the query string, so that filters and paging do nothing and every study of the archive is listed
as this patient's; and it waits for the archive on the event loop, so that nobody else is answered meanwhile.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Iterable, Mapping

import httpx
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from lib.infers.failures import answer

logger = logging.getLogger(__name__)
# One line for every slice of every image would be all that the log holds.
logging.getLogger("httpx").setLevel(logging.WARNING)

# What a DICOMweb path is made of. Nothing else may follow the configured address: `..` would leave it.
PATH = re.compile(r"(?!\.{1,2}(?:/|$))[\w.~,@:+=-]+(?:/(?!\.{1,2}(?:/|$))[\w.~,@:+=-]+)*/?", re.ASCII)
# What is below a DICOMweb address: an archive may have services of its own beside them, which send patients elsewhere.
RESOURCES = re.compile(r"(?:studies|series|instances|bulkdata)(?:/|$)")
STORING = re.compile(r"studies(?:/[0-9.]{1,64})?/?")
REQUEST_HEADERS = ("accept", "content-type", "content-length", "if-none-match", "if-modified-since", "range")
# Cookies, log-in prompts and redirects of the archive are not the browser's business.
REPLY_HEADERS = (
    *("content-type", "content-length", "content-encoding", "content-range", "accept-ranges"),
    *("etag", "last-modified", "cache-control", "warning"),
)
# What an archive may send to the browser. All else is not passed on, above all a page, which would be one of ours.
DATA_TYPES = frozenset(
    {
        *("application/dicom", "application/dicom+json", "application/json", "application/dicom+xml"),
        *("multipart/related", "application/octet-stream"),
        *("image/jpeg", "image/jp2", "image/jpx", "image/jphc", "image/jls", "image/png", "image/gif"),
        *("image/dicom-rle", "image/x-jls", "image/x-jp2", "image/x-dicom-rle"),
        *("video/mpeg", "video/mp2", "video/mp4", "video/h265"),
    }
)
HAS_NO_BODY = frozenset({204, 304})
TIMEOUT = httpx.Timeout(60.0, connect=5.0)
LOOPBACK = ("127.0.0.1", "::1", "localhost")
LIMITS = httpx.Limits(max_connections=64, max_keepalive_connections=16)


class DicomProxy:
    """Hands requests on to `root`, a DICOMweb address, with the server's own user name and password if it has them."""

    def __init__(self, root: str, prefixes: Mapping[str, str], login: tuple[str, str] | None) -> None:
        """prefixes: what the address of each service (`wado`, `qido`, `stow`) has after `root`; often nothing."""
        self._root = root.rstrip("/")
        self._prefixes = prefixes
        # No proxy of the environment leads to this machine.
        is_own = httpx.URL(self._root).host in LOOPBACK
        self._client = httpx.AsyncClient(
            auth=login, timeout=TIMEOUT, limits=LIMITS, follow_redirects=False, trust_env=not is_own
        )

    async def forward(self, request: Request, service: str, path: str) -> Response:
        """The archive's answer, handed on as it arrives. HTTPException: 400 for a path that is none of DICOMweb, 502 if
        the archive cannot be reached, refuses this server or sends a page, 504 if it is too slow."""
        if request.method == "POST" and not STORING.fullmatch(path):
            raise answer(400, f"{path[:80]!r} is not where instances are stored: it is studies, or studies/UID")
        asked = self._client.build_request(
            request.method,
            self._url(service, path, request.scope["query_string"]),
            # Bodies pass as they are, so only an encoding that the browser knows may be asked for.
            headers={"accept-encoding": "identity", **_kept(request.headers, (*REQUEST_HEADERS, "accept-encoding"))},
            content=request.stream() if request.method == "POST" else None,
        )
        try:
            reply = await self._client.send(asked, stream=True)
        except httpx.TimeoutException as error:
            raise answer(504, f"{self._name} did not answer in time: try again, or see how it is doing") from error
        except httpx.TransportError as error:
            raise answer(502, f"{self._name} cannot be reached: see whether it runs") from error
        if reply.status_code in (401, 403) or reply.has_redirect_location:
            await reply.aclose()
            raise answer(502, self._refusal(reply))
        if reply.status_code in HAS_NO_BODY:
            await reply.aclose()
            return Response(status_code=reply.status_code)
        kind = reply.headers.get("content-type", "application/octet-stream").partition(";")[0].strip().lower()
        if kind not in DATA_TYPES:
            await reply.aclose()
            raise answer(*self._no_data(reply.status_code, kind))
        return StreamingResponse(_body(reply), reply.status_code, _headers_of(reply))

    @property
    def _name(self) -> str:
        """The archive without the user name and password that an address may hold."""
        url = httpx.URL(self._root)
        return f"the DICOMweb server {url.host}:{url.port or (443 if url.scheme == 'https' else 80)}"

    def _url(self, service: str, path: str, query: bytes) -> httpx.URL:
        if not PATH.fullmatch(path) or not RESOURCES.match(path):
            raise answer(400, f"{path[:80]!r} is not a DICOMweb path: it begins with studies, series or instances")
        # Some viewers ask for metadata where they query.
        prefix = self._prefixes.get("wado" if path.endswith("metadata") else service, "").strip("/")
        url = httpx.URL("/".join(part for part in (self._root, prefix, path) if part))
        return url.copy_with(query=query) if query else url

    def _refusal(self, reply: httpx.Response) -> str:
        if reply.has_redirect_location:
            return f"{self._name} has moved: start this server with the address that it redirects to"
        return (
            f"{self._name} refused this server ({reply.status_code}): set MONAI_LABEL_DICOMWEB_USERNAME and "
            "MONAI_LABEL_DICOMWEB_PASSWORD as it wants them"
        )

    def _no_data(self, status: int, kind: str) -> tuple[int, str]:
        """Status and sentence in place of what is no DICOM."""
        if status >= 400:
            return (status if status < 500 else 502), f"{self._name} answered {status}"
        return 502, f"{self._name} answered with {kind[:40]!r}, which is no DICOM: see whether its address is right"


def _headers_of(reply: httpx.Response) -> dict[str, str]:
    return {"content-type": "application/octet-stream", **_kept(reply.headers, REPLY_HEADERS)}


def _kept(headers: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    return {name: headers[name] for name in names if name in headers}


async def _body(reply: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in reply.aiter_raw():
            yield chunk
    except httpx.HTTPError as error:
        # Half is on its way already: only a broken connection tells the browser that it is not the whole.
        logger.warning("the DICOMweb server broke off %s: %s", reply.url.path, error)
        raise
    finally:
        await reply.aclose()
