"""OHIF behind a login: opened by a link, logged in by the page, annotated, stored, and logged out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext

from series import Case
from serving import Serve, Server
from stored import newest_version
from viewer import Viewer

TOKEN = "the-word-of-a-lab-0123456789"


@pytest.fixture(scope="module")
def server(serve: Serve, archive: str, cases: dict[str, Case], tmp_path_factory: pytest.TempPathFactory) -> Server:
    secret = tmp_path_factory.mktemp("secret") / "token"
    secret.write_text(TOKEN)
    return serve(archive, {"access_token_file": str(secret)}, token=TOKEN)


def test_a_link_leads_by_the_login_to_the_case_which_is_annotated_and_stored(
    viewer: Viewer, cases: dict[str, Case], server: Server, window: BrowserContext
) -> None:
    case, page = cases["oblique"], viewer.page
    page.goto(f"{server.url}/ohif/viewer?StudyInstanceUIDs={case.study}", wait_until="domcontentloaded")
    assert page.url.startswith(f"{server.url}/login?next=")
    page.get_by_label("Token").fill("not the word")
    page.get_by_role("button", name="Log in").click()
    assert page.get_by_role("alert").inner_text() == "This is not the token."
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(f"{server.url}/ohif/viewer?StudyInstanceUIDs={case.study}")
    viewer.open(case.study)
    viewer.annotate("lesion", case.lps_mm(case.deepest("lesion")))
    assert viewer.submit().startswith("Stored: lesion")
    assert newest_version(server, case)[0]["lesion"].any()
    (cookie,) = (each for each in window.cookies(server.url) if each["name"] == "sam3d_login")
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Lax")
    assert page.evaluate("document.cookie").find("sam3d_login") == -1
    audit = Path(server.conf["model_folder"]) / "audit.jsonl"
    deeds = {line["deed"] for line in map(json.loads, audit.read_text().splitlines()) if line["status"] == 200}
    assert deeds >= {"read archive", "infer", "store label"}

    page.goto(f"{server.url}/")
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url(f"{server.url}/login")
    page.goto(f"{server.url}/ohif/", wait_until="domcontentloaded")
    assert page.url.startswith(f"{server.url}/login?next=")
