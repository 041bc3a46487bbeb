"""OHIF behind an OpenID provider, on a site of its own: logged in by its pages, annotated, stored, logged out; and what
somebody tries who did not log in."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from fastapi import HTTPException
from playwright.sync_api import BrowserContext

from lib.demo import free_port
from lib.serving.code_flow import CodeFlow
from lib.serving.openid import visitor_in
from lib.serving.openid_provider import CLOCKS_APART_S, OpenIdProvider
from lib.serving.served import ROUTES
from lib.serving.visitors import Role
from measured import figures
from provider import CLIENT_ID, Person, Provider
from series import Case
from served_paths import path_for
from serving import Serve, Server
from stored import newest_version
from viewer import Viewer

TOKEN_S = 20  # an ID token of so many seconds is renewed within a spec
NOWHERE = "http://127.0.0.1:9"
SECRET = "a secret with / + and = in it"
ROLES = {
    "ursula": ["monailabel-user"],
    "anna": ["monailabel-annotator"],
    "rita": ["monailabel-reviewer"],
    "adam": ["monailabel-admin"],
    "nora": ["of-another-system"],
}


@pytest.fixture(scope="module")
def issuer() -> str:
    if not Provider.is_installed():
        pytest.skip("no OpenID provider beside the specs: requirements/e2e.sh installs it with npm")
    return f"http://127.0.0.2:{free_port(0)}"


@pytest.fixture(scope="module")
def server(serve: Serve, archive: str, cases: dict[str, Case], issuer: str) -> Server:
    environment = {
        "MONAI_LABEL_AUTH_ENABLE": "true",
        "MONAI_LABEL_AUTH_REALM_URI": issuer,
        "MONAI_LABEL_AUTH_CLIENT_ID": CLIENT_ID,
        **dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1,127.0.0.2"),
    }
    return serve(archive, environment=environment)


@pytest.fixture(scope="module")
def provider(server: Server, issuer: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    with Provider(tmp_path_factory.mktemp("provider"), issuer, server.url, TOKEN_S) as running:
        yield running


@pytest.fixture(autouse=True)
def accounts(provider: Provider) -> None:
    provider.set_accounts(ROLES)


def audit(server: Server) -> list[dict[str, object]]:
    path = Path(server.conf["model_folder"]) / "audit.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_link_leads_by_the_provider_to_the_case_which_is_annotated_and_stored(
    viewer: Viewer, cases: dict[str, Case], server: Server, provider: Provider, window: BrowserContext
) -> None:
    case, page = cases["oblique"], viewer.page
    page.goto(f"{server.url}/ohif/viewer?StudyInstanceUIDs={case.study}", wait_until="domcontentloaded")
    assert page.url.startswith(provider.issuer)
    page.locator("[name=login]").fill("anna")
    page.locator("[name=password]").fill("any")
    page.locator("[type=submit]").click()
    page.get_by_role("button", name="Continue").click()
    page.wait_for_url(f"{server.url}/ohif/viewer?StudyInstanceUIDs={case.study}")
    viewer.open(case.study)
    viewer.annotate("lesion", case.lps_mm(case.deepest("lesion")))
    time.sleep(TOKEN_S + 1)
    assert viewer.submit().startswith("Stored: lesion")
    assert newest_version(server, case)[0]["lesion"].any()
    assert "granted refresh_token" in provider.log()
    done = {(line["who"], line["deed"]) for line in audit(server) if line["status"] == 200}
    assert done >= {("anna", "read archive"), ("anna", "infer"), ("anna", "store label")}

    (cookie,) = (each for each in window.cookies(server.url) if each["name"] == "sam3d_login")
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Lax")
    kept = page.evaluate("document.cookie + JSON.stringify(localStorage) + JSON.stringify(sessionStorage)")
    told = server.log.read_text() + json.dumps(audit(server))
    for secret in (cookie["value"], "eyJ"):  # how every JSON web token begins
        assert secret not in kept
        assert secret not in told

    page.goto(f"{server.url}/")
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url(f"{provider.issuer}/session/end*")
    page.get_by_role("button", name="Yes").click()
    page.wait_for_url(f"{server.url}/")
    page.goto(f"{server.url}/ohif/viewer?StudyInstanceUIDs={case.study}", wait_until="domcontentloaded")
    assert page.url.startswith(provider.issuer)  # and not the page that the browser kept
    assert page.locator("[name=login]").is_visible()


PEOPLE = {Role.USER: "ursula", Role.ANNOTATOR: "anna", Role.REVIEWER: "rita", Role.ADMIN: "adam"}


def wrongly_answered(person: Person, role: Role | None) -> list[tuple[str, str, int]]:
    """The routes that do not answer as they should: 401 to a stranger, 403 to too small a role, neither to others."""
    wrong = []
    for route in ROUTES:
        path = path_for(route)
        if route.role == Role.PUBLIC:
            continue
        status = person.get(path, route.method).status_code
        expected = 401 if role is None else 403 if role < route.role else None
        if status != expected if expected else status in (401, 403) or status >= 500:
            wrong.append((route.method, path, status))
    return wrong


def test_every_route_lets_in_by_cookie_whom_it_should(server: Server) -> None:
    people = {role: Person(server.url) for role in PEOPLE}
    for role, person in people.items():
        assert person.log_in(PEOPLE[role]).status_code == 303
    wrong = {role.name: wrongly_answered(person, role) for role, person in people.items()}
    n_wrong = sum(map(len, wrong.values()))
    figures.append(f"OpenID by cookie: {len(ROUTES)} routes, {len(wrong)} roles: {n_wrong} wrong")
    assert wrong == {role.name: [] for role in people}


def test_every_route_lets_in_by_bearer_token_whom_it_should(server: Server, provider: Provider) -> None:
    expired = Person(server.url).bring_token(provider, "adam")
    time.sleep(TOKEN_S + CLOCKS_APART_S + 1)
    tokens = {role: Person(server.url).bring_token(provider, name) for role, name in PEOPLE.items()}
    _, claims, signature = tokens[Role.ADMIN].split(".")
    unsigned = base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
    cases: dict[str, tuple[str, Role | None]] = {
        "none": ("", None),
        "expired": (expired, None),
        "alg none": (f"{unsigned}.{claims}.", None),
        "alg none, signed": (f"{unsigned}.{claims}.{signature}", None),
        "wrong audience": (Person(server.url).bring_token(provider, "adam", "another-client"), None),
        **{role.name: (token, role) for role, token in tokens.items()},
    }
    wrong = {}
    for name, (token, role) in cases.items():
        person = Person(server.url)
        if token:
            person.http.headers["Authorization"] = f"Bearer {token}"
        wrong[name] = wrongly_answered(person, role)
    figures.append(
        f"OpenID by bearer: {len(ROUTES)} routes, {len(cases)} tokens: {sum(map(len, wrong.values()))} wrong"
    )
    assert wrong == {name: [] for name in cases}


def test_only_the_browser_that_began_a_login_ends_it_and_once(server: Server, provider: Provider) -> None:
    anna, mallory = Person(server.url), Person(server.url)
    back = anna.come_back("anna")
    assert parse_qs(urlsplit(back).query).keys() >= {"code", "state"}
    stolen = mallory.get(back.removeprefix(server.url))
    assert (stolen.status_code, "sam3d_login" in stolen.cookies) == (400, False)
    assert "no login of this browser began so" in stolen.text
    assert anna.get(back.removeprefix(server.url)).status_code == 400  # what was tried is used up
    back = anna.come_back("anna")
    assert anna.get(back.removeprefix(server.url)).status_code == 303
    assert anna.get(back.removeprefix(server.url)).status_code == 400
    # Mallory logs in, and would have Anna work under that name.
    given = mallory.come_back("ursula")
    assert anna.get(given.removeprefix(server.url)).status_code == 400


@pytest.mark.parametrize(
    ("query", "status", "sentence"),
    [
        ("", 400, "no login of this browser"),
        ("?state=x&code=x", 400, "no login of this browser"),
        ("?state={state}", 401, "let nobody in (no code)"),
        ("?state={state}&code=guessed", 401, "does not know the code"),
        ("?state={state}&error=access_denied&error_description=%3Cb%3Eno", 401, "let nobody in (&lt;b&gt;no)"),
    ],
)
def test_what_no_provider_sent_is_refused_in_words(server: Server, query: str, status: int, sentence: str) -> None:
    person = Person(server.url)
    sent = parse_qs(urlsplit(person.get("/login").headers["Location"]).query)
    assert sent["code_challenge_method"] == ["S256"]
    reply = person.get(f"/login/callback{query.format(state=sent['state'][0])}")
    assert (reply.status_code, "sam3d_login" in reply.cookies) == (status, False)
    assert sentence in reply.text
    assert person.get("/info/").status_code == 401


def test_another_persons_code_is_not_exchanged(server: Server) -> None:
    """By PKCE: the provider wants the verifier of the login that the code was given for."""
    anna, mallory = Person(server.url), Person(server.url)
    code = parse_qs(urlsplit(anna.come_back("anna")).query)["code"][0]
    state = parse_qs(urlsplit(mallory.get("/login").headers["Location"]).query)["state"][0]
    reply = mallory.get(f"/login/callback?state={state}&code={code}")
    assert (reply.status_code, "does not know the code" in reply.text) == (401, True)


@pytest.mark.parametrize(
    ("target", "place"),
    [("/ohif/%3Fa=1", "/ohif/?a=1"), ("https://evil.example", "/"), ("//evil.example", "/"), ("/%5Cevil", "/")],
)
def test_a_login_leads_to_pages_of_this_server_only(server: Server, target: str, place: str) -> None:
    assert Person(server.url).log_in("anna", target).headers["Location"] == place


def test_somebody_without_a_role_is_told_so(server: Server) -> None:
    person = Person(server.url)
    reply = person.log_in("nora")
    assert (reply.status_code, "nora has no role here" in reply.text) == (403, True)
    assert "realm_access.roles" in reply.text
    assert person.get("/info/").status_code == 401


@pytest.fixture
def secretive(issuer: str, tmp_path: Path) -> Iterator[Provider]:
    """A provider whose client has a secret, at an address of its own."""
    with Provider(tmp_path, f"http://127.0.0.2:{free_port(0)}", NOWHERE, secret=SECRET) as running:
        running.set_accounts(ROLES)
        yield running


def finish(flow: CodeFlow, change: Callable[[str], str] = str) -> tuple[str, str]:
    """Anna's login, by an address of the provider that is changed on its way."""
    person = Person(NOWHERE)
    address = change(flow.begin("a browser", "/ohif/", f"{NOWHERE}/login/callback"))
    back = person.follow(person.http.get(address, timeout=60, allow_redirects=False), "anna")
    return flow.finish("a browser", {name: value for name, (value, *_) in parse_qs(urlsplit(back).query).items()})


def test_a_client_with_a_secret_shows_it(secretive: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1,127.0.0.2")
    provider = OpenIdProvider(secretive.issuer, CLIENT_ID)
    flow = CodeFlow(provider, visitor_in, SECRET)
    cookie, target = finish(flow)
    visitor = flow.visitor(cookie)
    assert visitor is not None
    assert (visitor.name, visitor.role, target) == ("anna", Role.ANNOTATOR, "/ohif/")
    for wrong in (None, "another secret of this length"):
        with pytest.raises(HTTPException, match="does not know the code"):
            finish(CodeFlow(provider, visitor_in, wrong))


def test_an_id_token_of_another_login_is_refused(secretive: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the nonce (OpenID Connect Core 1.0, 3.1.3.7)."""
    monkeypatch.setenv("no_proxy", "127.0.0.1,127.0.0.2")
    flow = CodeFlow(OpenIdProvider(secretive.issuer, CLIENT_ID), visitor_in, SECRET)
    with pytest.raises(HTTPException, match="ID token is not for this login"):
        finish(flow, lambda address: re.sub("nonce=[^&]+", "nonce=of-another-login", address))


def test_who_loses_the_account_or_the_role_loses_the_login(server: Server, provider: Provider) -> None:
    anna, rita = Person(server.url), Person(server.url)
    anna.log_in("anna"), rita.log_in("rita")
    assert (anna.get("/info/").status_code, rita.get("/datastore/dataset").ok) == (200, True)
    provider.set_accounts({"rita": ["monailabel-user"]})
    time.sleep(TOKEN_S + 1)
    assert anna.get("/info/").status_code == 401
    assert (rita.get("/info/").status_code, rita.get("/datastore/dataset").status_code) == (200, 403)
    provider.set_accounts(ROLES)
    assert anna.get("/info/").status_code == 401  # the cookie opens nothing any more


def test_a_log_out_ends_the_login_of_that_browser_only(server: Server) -> None:
    here, there = Person(server.url), Person(server.url)
    here.log_in("anna"), there.log_in("anna")
    cookie = here.http.cookies["sam3d_login"]
    assert "Log out of the provider too" in here.get("/logout", "POST").text
    here.http.cookies.set("sam3d_login", cookie)
    assert (here.get("/info/").status_code, there.get("/info/").status_code) == (401, 200)
