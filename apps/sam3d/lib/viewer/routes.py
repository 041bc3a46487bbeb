"""What is served in front of MONAI Label's own routes, so that its OHIF works; no file of its wheel is changed.

Each route names the fault that it mends, and can go when a release mends it. `--conf viewer_fixes false` leaves the
page script away.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from monailabel.config import settings
from monailabel.endpoints import ohif
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from lib.infers.failures import answer
from lib.naming import is_below
from lib.viewer.dicom_proxy import DicomProxy

OHIF = Path(ohif.__file__).resolve().parent / "static" / "ohif"
# In the order in which they need each other; the page reads them as one.
PAGE_SCRIPTS = tuple(
    Path(__file__).with_name(f"{name}.js")
    for name in (
        *("body", "cases", "connection", "drafts", "keys", "painting", "palette", "replies", "slices", "starts"),
        *("strokes", "training", "scores", "styles", "keys_dialog", "choice_dialog", "labelmap", "layout"),
        *("case_section", "page"),
    )
)
# What no page of the viewer is called.
FILE_SUFFIXES = frozenset({".js", ".css", ".map", ".wasm", ".json", ".png", ".svg", ".ico", ".woff", ".woff2"})
# Google's archive wants a token that only the stock proxy knows how to get.
STOCK_PROXY_ONLY = "googleapis.com"


def viewer_routes(has_page_script: bool = True, own: tuple[str, tuple[str, str]] | None = None) -> APIRouter:
    """The routes, for `put_first`. `own` is the address and the login of the archive that this process serves itself
    from a folder of DICOM files."""
    router = APIRouter(include_in_schema=False)
    if has_page_script:
        router.add_api_route("/ohif/app-config.js", _app_config, methods=["GET"])
    router.add_api_route("/ohif/{path:path}", _file_of_viewer, methods=["GET"])
    if STOCK_PROXY_ONLY not in settings.MONAI_LABEL_STUDIES:
        _add_proxy(router, own)
    return router


def _app_config() -> Response:
    """OHIF's configuration with our scripts behind it: it is read before the viewer's own code, from every page."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in (OHIF / "app-config.js", *PAGE_SCRIPTS))
    return Response(text, media_type="text/javascript", headers={"Cache-Control": "no-store"})


def _file_of_viewer(path: str) -> Response:
    """A file of the viewer, or its page: the viewer makes pages of its own of addresses that name no file.

    The stock route joins names with `:`, answers with the page for what is in a folder, and with a 500 for a folder.
    """
    is_plain = "\0" not in path and ".." not in path.split("/")
    file = OHIF / path.lstrip("/") if is_plain else OHIF
    if file.is_file() and is_below(file, OHIF) and file.name != "index.html":
        return FileResponse(file)
    if path.startswith("assets/") or Path(path).suffix in FILE_SUFFIXES:
        raise answer(404, f"the viewer has no file {path[:80]!r}")
    # Asked for each time: after the login has ended, a kept page would show itself, empty, in place of the login.
    return FileResponse(OHIF / "index.html", headers={"Cache-Control": "no-store"})


def _add_proxy(router: APIRouter, own: tuple[str, tuple[str, str]] | None) -> None:
    root = own[0] if own else settings.MONAI_LABEL_STUDIES
    if not root.startswith(("http://", "https://")):
        router.add_api_route("/proxy/dicom/{path:path}", _no_archive, methods=["GET", "POST"])
        return
    prefixes = (
        {"wado": "", "qido": "", "stow": ""}
        if own
        else {
            "wado": settings.MONAI_LABEL_WADO_PREFIX or "",
            "qido": settings.MONAI_LABEL_QIDO_PREFIX or "",
            "stow": settings.MONAI_LABEL_STOW_PREFIX or "",
        }
    )
    name, password = settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
    login = own[1] if own else (name, password) if name and password else None
    proxy = DicomProxy(root, prefixes, login)

    async def hand_on(request: Request, path: str) -> Response:
        service, _, rest = path.partition("/")
        return await (
            proxy.forward(request, service, rest) if service in prefixes else proxy.forward(request, "", path)
        )

    router.add_api_route("/proxy/dicom/{path:path}", hand_on, methods=["GET", "POST"], response_model=None)


def _no_archive(path: str) -> Response:
    raise answer(
        404, "the studies of this server are image files in a folder, and OHIF shows DICOM studies only: use 3D Slicer"
    )
