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
from starlette.responses import StreamingResponse

from lib.infers.failures import answer

logger = logging.getLogger(__name__)
# One line for every slice of every image would be all that the log holds.
logging.getLogger("httpx").setLevel(logging.WARNING)

# What a DICOMweb path is made of. Nothing else may follow the configured address: `..` would leave it.
PATH = re.compile(r"(?!\.{1,2}(?:/|$))[\w.~,@:+=-]+(?:/(?!\.{1,2}(?:/|$))[\w.~,@:+=-]+)*/?", re.ASCII)
REQUEST_HEADERS = ("accept", "content-type", "content-length", "if-none-match", "if-modified-since", "range")
# Cookies, log-in prompts and redirects of the archive are not the browser's business.
REPLY_HEADERS = (
    *("content-type", "content-length", "content-encoding", "content-range", "accept-ranges"),
    *("etag", "last-modified", "cache-control", "warning"),
)
TIMEOUT = httpx.Timeout(60.0, connect=5.0)
LIMITS = httpx.Limits(max_connections=64, max_keepalive_connections=16)


class DicomProxy:
    """Hands requests on to `root`, a DICOMweb address, with the server's own user name and password if it has them."""

    def __init__(self, root: str, prefixes: Mapping[str, str], login: tuple[str, str] | None) -> None:
        """prefixes: what the address of each service (`wado`, `qido`, `stow`) has after `root`; often nothing."""
        self._root = root.rstrip("/")
        self._prefixes = prefixes
        self._client = httpx.AsyncClient(auth=login, timeout=TIMEOUT, limits=LIMITS, follow_redirects=False)

    async def forward(self, request: Request, service: str, path: str) -> StreamingResponse:
        """The archive's answer, handed on as it arrives. HTTPException: 400 for a path that is none of DICOMweb, 502 if
        the archive cannot be reached or refuses this server, 504 if it is too slow."""
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
        return StreamingResponse(_body(reply), reply.status_code, _kept(reply.headers, REPLY_HEADERS))

    @property
    def _name(self) -> str:
        """The archive without the user name and password that an address may hold."""
        url = httpx.URL(self._root)
        return f"the DICOMweb server {url.host}:{url.port or (443 if url.scheme == 'https' else 80)}"

    def _url(self, service: str, path: str, query: bytes) -> httpx.URL:
        if not PATH.fullmatch(path):
            raise answer(400, f"{path[:80]!r} is not a DICOMweb path: it is made of names and UIDs between slashes")
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
