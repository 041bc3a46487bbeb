"""What is served in front of MONAI Label's own routes, so that its OHIF works; no file of its wheel is changed.

Each route names the fault that it mends, and can go when a release mends it. `--conf viewer_fixes false` leaves all of
them away.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Depends
from monailabel.config import settings
from monailabel.endpoints import ohif
from monailabel.endpoints.user.auth import RBAC
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.staticfiles import StaticFiles

from lib.infers.failures import answer
from lib.viewer.dicom_proxy import DicomProxy

OHIF = Path(ohif.__file__).resolve().parent / "static" / "ohif"
ASSETS = StaticFiles(directory=OHIF / "assets")
PAGE_SCRIPT = Path(__file__).with_name("page.js")
# Google's archive wants a token that only the stock proxy knows how to get.
STOCK_PROXY_ONLY = "googleapis.com"


def viewer_routes() -> APIRouter:
    """The routes, for `put_first`."""
    router = APIRouter(dependencies=[Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))], include_in_schema=False)
    router.add_api_route("/ohif/app-config.js", _app_config, methods=["GET"])
    router.add_api_route("/ohif/assets/{path:path}", _asset, methods=["GET"])
    if STOCK_PROXY_ONLY not in settings.MONAI_LABEL_STUDIES:
        _add_proxy(router)
    return router


def _app_config() -> Response:
    """OHIF's configuration with our script behind it: it is read before the viewer's own code, from every page."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in (OHIF / "app-config.js", PAGE_SCRIPT))
    return Response(text, media_type="text/javascript", headers={"Cache-Control": "no-store"})


async def _asset(request: Request, path: str) -> Response:
    """A file below a folder, where the stock route, which joins names with `:`, answers with the index page instead."""
    return await ASSETS.get_response(path, request.scope)


def _add_proxy(router: APIRouter) -> None:
    root = settings.MONAI_LABEL_STUDIES
    if not root.startswith(("http://", "https://")):
        router.add_api_route("/proxy/dicom/{path:path}", _no_archive, methods=["GET", "POST"])
        return
    prefixes = {
        "wado": settings.MONAI_LABEL_WADO_PREFIX or "",
        "qido": settings.MONAI_LABEL_QIDO_PREFIX or "",
        "stow": settings.MONAI_LABEL_STOW_PREFIX or "",
    }
    name, password = settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
    proxy = DicomProxy(root, prefixes, (name, password) if name and password else None)

    async def hand_on(request: Request, path: str) -> StreamingResponse:
        service, _, rest = path.partition("/")
        return await (
            proxy.forward(request, service, rest) if service in prefixes else proxy.forward(request, "", path)
        )

    router.add_api_route("/proxy/dicom/{path:path}", hand_on, methods=["GET", "POST"], response_model=None)


def _no_archive(path: str) -> Response:
    raise answer(
        404, "the studies of this server are files in a folder, and OHIF shows DICOMweb studies only: use 3D Slicer"
    )
