"""The pages of our own: the start, the login, and what Slicer asks to find out that there is one."""

from __future__ import annotations

import secrets
from html import escape
from pathlib import Path
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import FileResponse, PlainTextResponse, RedirectResponse, Response
from monailabel.config import settings as server_settings
from monailabel.endpoints import ohif
from starlette.concurrency import run_in_threadpool

from lib.infers.failures import answer
from lib.serving.browser_logins import COOKIE, drop_cookie, set_cookie
from lib.serving.code_flow import ATTEMPT_S
from lib.serving.forms import read_words
from lib.serving.logins import NoLogin, TokenLogin
from lib.serving.openid import OpenIdLogin
from lib.serving.pages import NOT_KEPT, page
from lib.serving.visitors import visitor_of

START = """<h1>sam3d</h1><p>A MONAI Label server: clicks in a viewer become a 3D mask.</p>
<ul><li><a href="ohif/">OHIF</a>, for studies in a DICOMweb archive
<li><a href="cases/list">The cases</a>, and how far each is
<li>3D Slicer: give its MONAI Label module the address of this page
<li><a href="openapi.json">openapi.json</a>, what can be asked</ul>"""
LOGOUT = """<form method="post" action="logout"><button>Log out</button></form>"""
FORM = """<h1>sam3d: log in</h1>{alert}<form method="post" action="login">
<input type="hidden" name="next" value="{next}">
<p><label>Token <input type="password" name="token" autocomplete="current-password" autofocus required></label>
<button>Log in</button></form>"""
REFUSED = """<h1>sam3d: not logged in</h1><p role="alert">{sentence}</p><p><a href="/login">Log in</a></p>"""
LOGGED_OUT = """<h1>sam3d: logged out</h1><p><a href="login">Log in again</a></p>"""
AT_PROVIDER_TOO = """<meta http-equiv="refresh" content="0;url={address}">
<p><a href="{address}">Log out of the provider too</a></p>"""
# The browser's own secret while it is at the provider.
ATTEMPT_COOKIE = "sam3d_login_attempt"
ICON = Path(ohif.__file__).resolve().parent / "static" / "favicon.ico"
MAX_LOG_LINES = 10_000


def front_door(login: NoLogin | TokenLogin | OpenIdLogin) -> APIRouter:
    """The routes."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    def start(request: Request) -> Response:
        return page(START + (LOGOUT if login.is_asked_for and COOKIE in request.cookies else ""))

    @router.get("/favicon.ico")
    def icon() -> Response:
        return FileResponse(ICON, media_type="image/x-icon")

    @router.get("/logs/")
    def logs(lines: int = 300) -> Response:
        # The stock page, which loads scripts from elsewhere, shows the same text.
        return PlainTextResponse(_last_lines(Path(server_settings.MONAI_LABEL_APP_DIR) / "logs" / "app.log", lines))

    @router.get("/auth/")
    def about_login() -> dict[str, Any]:
        return {"enabled": login.is_asked_for}

    @router.get("/auth/token/valid")
    def who(request: Request) -> dict[str, Any]:
        shown: dict[str, Any] = visitor_of(request).stock_user.model_dump()
        return shown

    if isinstance(login, TokenLogin):
        _add_login(router, login)
    elif isinstance(login, OpenIdLogin):
        _add_provider(router, login)
    return router


def _add_provider(router: APIRouter, login: OpenIdLogin) -> None:
    @router.get("/login")
    async def ask(request: Request, next: str = "/") -> Response:
        browser = request.cookies.get(ATTEMPT_COOKIE) or secrets.token_urlsafe(32)
        callback = str(request.url.replace(path=f"{request.url.path}/callback", query="", fragment=""))
        address = await run_in_threadpool(login.flow.begin, browser, _local(next), callback)
        reply = RedirectResponse(address, 303, headers=NOT_KEPT)
        # Sent with the way back only, which is a link from the provider's site: so not "strict".
        reply.set_cookie(
            ATTEMPT_COOKIE,
            browser,
            max_age=ATTEMPT_S,
            path=request.url.path,
            httponly=True,
            samesite="lax",
            secure=request.url.scheme == "https",
        )
        return reply

    @router.get("/login/callback")
    async def come_back(request: Request) -> Response:
        browser = request.cookies.get(ATTEMPT_COOKIE, "")
        try:
            cookie, target = await run_in_threadpool(login.flow.finish, browser, request.query_params)
        except HTTPException as error:
            return page(REFUSED.format(sentence=escape(str(error.detail))), error.status_code)
        reply = RedirectResponse(target, 303, headers=NOT_KEPT)
        set_cookie(reply, cookie, request.url.scheme == "https")
        return reply

    @router.post("/logout")
    async def log_out(request: Request) -> Response:
        back = str(request.url.replace(path=request.url.path.removesuffix("logout"), query="", fragment=""))
        address = await run_in_threadpool(login.flow.close, request.cookies.get(COOKIE, ""), back)
        # Not a redirect: a form of ours may lead to pages of ours only.
        reply = page(LOGGED_OUT + (AT_PROVIDER_TOO.format(address=escape(address)) if address else ""))
        drop_cookie(reply)
        return reply

    @router.post("/auth/token")
    async def token(request: Request) -> dict[str, Any]:
        """Slicer's name and password, for the provider."""
        words = await read_words(request)
        return await run_in_threadpool(login.token_for, words.get("username", ""), words.get("password", ""))


def _add_login(router: APIRouter, login: TokenLogin) -> None:
    @router.get("/login")
    def ask(next: str = "/") -> Response:
        return page(FORM.format(alert="", next=escape(_local(next))))

    @router.post("/login")
    async def log_in(request: Request) -> Response:
        words = await read_words(request)
        target = _local(words.get("next", "/"))
        if not login.is_right(words.get("token", "").strip()):
            return page(FORM.format(alert='<p role="alert">This is not the token.</p>', next=escape(target)), 401)
        reply = RedirectResponse(target, 303)
        set_cookie(reply, login.open(), request.url.scheme == "https")
        return reply

    @router.post("/logout")
    def log_out(request: Request) -> Response:
        login.close(request.cookies.get(COOKIE, ""))
        reply = RedirectResponse("/login", 303)
        drop_cookie(reply)
        return reply

    @router.post("/auth/token")
    async def token(request: Request) -> dict[str, str]:
        """Slicer has a name and a password to give: the token is the password, and any name will do."""
        given = (await read_words(request)).get("password", "").strip()
        if not login.is_right(given):
            raise answer(401, "this is not the token: give it as the password, with any user name")
        return {"access_token": given, "token_type": "Bearer"}


def _local(target: str) -> str:
    """A path of this server: anything else would make the login lead to somewhere else."""
    is_local = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if is_local else "/"


def _last_lines(path: Path, count: int) -> str:
    """The last lines of the log, as far as its last megabyte has them."""
    if not path.is_file():
        raise answer(404, "the server keeps no log where it was started")
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 2**20))
        lines = file.read().decode("utf-8", "replace").splitlines()
    return "\n".join(lines[-max(1, min(count, MAX_LOG_LINES)) :]) + "\n"
