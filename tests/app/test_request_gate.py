"""Who may ask: pages, names, machines and logins; and what the audit log says about it."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from archives import DemoArchive
from lib.access_tokens import read_token
from lib.demo import free_port
from lib.errors import SettingsError
from lib.images.dicom_writing import SeriesInfo, write_series
from lib.serving.browser_logins import COOKIE, BrowserLogins
from lib.serving.front_door import _local
from lib.serving.served import ROUTES
from lib.serving.visitors import Role
from serving import Server, make_case, write_study

pytestmark = pytest.mark.app

TOKEN = "a-token-of-a-lab-0123456789"
ARRAY = np.random.default_rng(0).integers(0, 90, (12, 10, 6)).astype(np.int16)


def outer_address() -> str:
    """An address of this machine that is not its loopback's; empty if it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:
            return ""
        address = str(probe.getsockname()[0])
    return "" if address.startswith("127.") else address


def studies_of(folder: Path) -> Path:
    (folder / "studies").mkdir()
    write_study(folder / "studies" / "case.nii.gz", *make_case())
    return folder / "studies"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Started as the README does, on every interface."""
    folder = tmp_path_factory.mktemp("plain")
    conf = {"model_folder": str(folder / "model")}
    with Server(folder / "server", studies_of(folder), conf, host="0.0.0.0") as running:
        yield running


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With further names and pages, and without a login for anybody."""
    folder = tmp_path_factory.mktemp("named")
    conf = {
        "model_folder": str(folder / "model"),
        "allow_anonymous": "true",
        "allowed_hosts": "Label.example.org,other",
    }
    conf["allowed_origins"] = "https://viewer.example.org:8443"
    with Server(folder / "server", studies_of(folder), conf, host="0.0.0.0") as running:
        yield running


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Without a login, behind a proxy on this machine that asks by another name."""
    folder = tmp_path_factory.mktemp("proxied")
    conf = {"model_folder": str(folder / "model"), "allowed_hosts": "label.example.org"}
    with Server(folder / "server", studies_of(folder), conf, host="0.0.0.0") as running:
        yield running


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An archive's server, with a token."""
    folder = tmp_path_factory.mktemp("guarded")
    write_series(
        folder / "files", ARRAY, np.diag([-2.0, -2.0, 3.0, 1.0]), SeriesInfo("P-77", "Doe^Jane"), list(range(6))
    )
    (folder / "token").write_text(TOKEN + "\n")
    conf = {"model_folder": str(folder / "model"), "access_token_file": str(folder / "token")}
    with (
        DemoArchive(folder / "files", free_port(0)) as archive,
        Server(folder / "server", archive.url, conf, host="0.0.0.0", token=TOKEN) as running,
    ):
        yield running


def ask(server: Server, method: str, path: str, url: str = "", **headers: str) -> requests.Response:
    """A request of somebody who has no token unless one is named."""
    with requests.Session() as http:
        http.trust_env = False
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        return http.request(method, f"{url or server.url}{path}", headers=told, timeout=60, allow_redirects=False)


def outside_of(server: Server) -> str:
    address = outer_address()
    if not address:
        pytest.skip("this machine has no address but its loopback's")
    return f"http://{address}:{server.url.rpartition(':')[2]}"


# ---------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "10.9.8.7", "*"]
)
def test_a_name_that_is_not_the_server_s_own_is_refused(plain: Server, host: str) -> None:
    """A page whose name was pointed at this machine (DNS rebinding) is of that name's origin, and would read along."""
    for path in ("/info/", "/datastore/", "/ohif/", "/nothing"):
        reply = ask(plain, "GET", path, Host=host)
        assert reply.status_code == 403
        assert "allowed_hosts" in reply.json()["detail"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1", "[::1]:7", socket.gethostname()])
def test_own_names_are_answered(plain: Server, host: str) -> None:
    assert ask(plain, "GET", "/info/", Host=host).status_code == 200


def test_further_names_are_answered_where_they_are_set(named: Server) -> None:
    for host in ("label.example.org", "LABEL.example.org:443", "other"):
        assert ask(named, "GET", "/info/", Host=host).status_code == 200
    assert ask(named, "GET", "/info/", Host="third").status_code == 403


def test_a_request_without_one_host_is_refused(plain: Server) -> None:
    address, port = plain.url.removeprefix("http://").split(":")
    for head in ("", "Host: \r\n", "Host: localhost\r\nHost: evil.example\r\n"):
        with socket.create_connection((address, int(port)), timeout=60) as connection:
            connection.sendall(f"GET /info/ HTTP/1.1\r\n{head}Connection: close\r\n\r\n".encode())
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
        assert answer.split()[1] in (b"400", b"403"), answer[:200]


# ---------------------------------------------------------------------------------------------------------- pages

FOREIGN = (
    "http://evil.example",
    "null",
    "http://127.0.0.1:1",
    "http://localhost.evil.example",
    "https://127.0.0.1:1@x",
    "",
)


@pytest.mark.parametrize("origin", FOREIGN)
def test_a_page_from_elsewhere_neither_reads_nor_changes(plain: Server, origin: str) -> None:
    for method, path in (
        ("GET", "/info/"),
        ("GET", "/datastore/?output=all"),
        ("GET", "/proxy/dicom/studies"),
        ("POST", "/train/"),
        ("PUT", "/datastore/label?image=case"),
        ("DELETE", "/datastore/image?id=case"),
        ("POST", "/activelearning/random"),
        ("OPTIONS", "/datastore/image?id=case"),
    ):
        reply = ask(plain, method, path, Origin=origin, Access_Control_Request_Method="PUT")
        assert reply.status_code == 403, f"{method} {path}"
        assert not [name for name in reply.headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize("site", ["cross-site", "same-site", "nonsense"])
def test_what_a_page_of_another_site_loads_is_refused_but_a_link_is_followed(plain: Server, site: str) -> None:
    """An old-fashioned form or an image of a page elsewhere has no Origin, and the browser says where it stands."""
    for mode, dest in (("no-cors", "image"), ("no-cors", "script"), ("cors", "empty"), ("navigate", "iframe")):
        reply = ask(plain, "GET", "/info/", Sec_Fetch_Site=site, Sec_Fetch_Mode=mode, Sec_Fetch_Dest=dest)
        assert reply.status_code == 403, (mode, dest)
    link = {"Sec_Fetch_Site": site, "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    assert ask(plain, "GET", "/ohif/viewer?StudyInstanceUIDs=1.2", **link).status_code == 200
    assert ask(plain, "POST", "/train/", **link).status_code == 403


def test_own_pages_and_those_who_are_no_pages_are_answered(plain: Server) -> None:
    assert ask(plain, "GET", "/info/", Origin=plain.url, Sec_Fetch_Site="same-origin").status_code == 200
    assert ask(plain, "GET", "/info/", Host="localhost", Origin="http://localhost:80").status_code == 200
    assert ask(plain, "POST", "/activelearning/nope", Origin=plain.url).status_code == 404
    assert ask(plain, "POST", "/activelearning/nope").status_code == 404
    reply = ask(plain, "GET", "/info/")
    assert not [name for name in reply.headers if name.lower().startswith("access-control")]


def test_a_named_page_asks_with_its_visitor_s_cookies_and_no_other_does(named: Server) -> None:
    origin = "https://viewer.example.org:8443"
    wanted = {"Access_Control_Request_Method": "PUT", "Access_Control_Request_Headers": "authorization"}
    preflight = ask(named, "OPTIONS", "/datastore/label", Origin=origin, **wanted)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == origin
    reply = ask(named, "GET", "/info/", Origin=origin, Sec_Fetch_Site="cross-site")
    assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (200, origin)
    for other in ("https://viewer.example.org", "http://viewer.example.org:8443", "https://evil.example"):
        assert ask(named, "GET", "/info/", Origin=other).status_code == 403


# ------------------------------------------------------------------------------------------------------- machines


def test_without_a_login_other_machines_are_told_so(plain: Server) -> None:
    for path in ("/info/", "/", "/ohif/", "/login"):
        reply = ask(plain, "GET", path, outside_of(plain))
        assert reply.status_code == 403
        assert "access_token_file" in reply.json()["detail"]
    # No header makes another machine this one.
    for header in ("X-Forwarded-For", "X-Real-IP", "Forwarded"):
        assert ask(plain, "GET", "/info/", outside_of(plain), **{header: "127.0.0.1"}).status_code == 403
        assert (
            ask(plain, "GET", "/info/", outside_of(plain), Host="localhost", **{header: "127.0.0.1"}).status_code == 403
        )
    assert "who may ask: this machine only" in plain.log.read_text()


def test_a_proxy_of_this_machine_is_answered_by_the_name_that_was_set(plain: Server, proxied: Server) -> None:
    for_other = {"X_Forwarded_For": "10.1.2.3"}
    assert ask(plain, "GET", "/info/", **for_other).status_code == 403
    assert ask(plain, "GET", "/info/", X_Forwarded_For="10.1.2.3:4711").status_code == 403
    assert ask(plain, "GET", "/info/", Via="1.1 proxy").status_code == 403
    assert ask(proxied, "GET", "/info/", **for_other).status_code == 403
    assert ask(proxied, "GET", "/info/", Host="label.example.org", **for_other).status_code == 200
    own = {"Host": "label.example.org", "Origin": "https://label.example.org", "X_Forwarded_Proto": "https"}
    assert ask(proxied, "GET", "/info/", **own, **for_other).status_code == 200
    # The name is no secret: another machine that says it, past the proxy, stays outside.
    beside = outside_of(proxied)
    assert ask(proxied, "GET", "/info/", beside, Host="label.example.org", **for_other).status_code == 403
    assert ask(proxied, "GET", "/info/", beside, Host="label.example.org").status_code == 403


def test_with_a_login_or_without_the_need_of_one_other_machines_are_answered(named: Server, guarded: Server) -> None:
    assert ask(named, "GET", "/info/", outside_of(named)).status_code == 200
    assert "ANYBODY" in named.log.read_text()
    assert ask(guarded, "GET", "/info/", outside_of(guarded)).status_code == 401
    assert ask(guarded, "GET", "/info/", outside_of(guarded), Authorization=f"Bearer {TOKEN}").status_code == 200


# --------------------------------------------------------------------------------------------------------- logins


def logged_in(server: Server) -> str:
    """The cookie of somebody who logged in by the page."""
    with requests.Session() as http:
        http.trust_env = False
        page = http.get(f"{server.url}/login?next=/ohif/", timeout=60)
        assert 'action="login"' in page.text
        assert "<script" not in page.text
        form = {"token": TOKEN, "next": "/ohif/"}
        reply = http.post(f"{server.url}/login", data=form, timeout=60, allow_redirects=False)
    assert (reply.status_code, reply.headers["location"]) == (303, "/ohif/")
    told = reply.headers["set-cookie"]
    assert "HttpOnly" in told
    assert "SameSite=lax" in told
    assert TOKEN not in told
    return told.partition(";")[0]


def test_every_route_asks_for_the_token(guarded: Server) -> None:
    """Routes times visitors; printed, with how many were wrong."""
    cookie = logged_in(guarded)
    headers: dict[str, dict[str, str]] = {
        "none": {},
        "wrong": {"Authorization": "Bearer not-the-token-of-this-lab"},
        "basic": {"Authorization": f"Basic {TOKEN}"},
        "cut": {"Authorization": f"Bearer {TOKEN[:-1]}"},
        "stale cookie": {"Cookie": f"{COOKIE}=nonsense"},
        "wrong beside cookie": {"Authorization": "Bearer no", "Cookie": cookie},
        "token": {"Authorization": f"Bearer {TOKEN}"},
        "cookie": {"Cookie": cookie},
    }
    wrong, n_asked = [], 0
    for route in ROUTES:
        path = (
            route.path.replace("{path:path}", "studies" if "proxy" in route.path else "")
            .replace("{", "")
            .replace("}", "")
        )
        if (route.method, route.path) in (("POST", "/logout"), ("DELETE", "/train/")):
            continue  # the one ends the login that is used here
        for who, sent in headers.items():
            status = ask(guarded, route.method, path, **sent).status_code
            is_in = who in ("token", "cookie") or route.role == Role.PUBLIC
            n_asked += 1
            # 401 from /login and /auth/token says that no token was in the form.
            if route.path not in ("/login", "/auth/token") and (status == 401) == is_in:
                wrong.append((route.method, path, who, status))
    print(f"{len(ROUTES)} routes, {len(headers)} visitors, {n_asked} requests: {len(wrong)} wrong")
    assert wrong == []


def test_a_page_that_asks_for_a_login_comes_back_to_where_it_was(guarded: Server) -> None:
    page = {"Accept": "text/html,*/*", "Sec_Fetch_Mode": "navigate"}
    reply = ask(guarded, "GET", "/ohif/viewer?StudyInstanceUIDs=1.2&x=%22", **page)
    assert reply.status_code == 303
    assert reply.headers["location"] == "/login?next=%2Fohif%2Fviewer%3FStudyInstanceUIDs%3D1.2%26x%3D%2522"
    assert ask(guarded, "GET", "/ohif/app-config.js", Accept="*/*", Sec_Fetch_Mode="no-cors").status_code == 401
    assert _local("/ohif/?a=1") == "/ohif/?a=1"
    for elsewhere in ("//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)", "", "/a\nb"):
        assert _local(elsewhere) == "/"
    for bad in ('"><script>alert(1)</script>', '/"><script>'):
        shown = requests.get(f"{guarded.url}/login", params={"next": bad}, timeout=60, proxies={"http": ""})
        assert "<script" not in shown.text


def test_a_login_ends_when_it_is_ended(guarded: Server) -> None:
    cookie = logged_in(guarded)
    assert ask(guarded, "GET", "/info/", Cookie=cookie).status_code == 200
    foreign = ask(guarded, "POST", "/logout", Cookie=cookie, Origin="http://evil.example")
    assert foreign.status_code == 403
    assert ask(guarded, "POST", "/logout", Cookie=cookie, Origin=guarded.url).status_code == 303
    assert ask(guarded, "GET", "/info/", Cookie=cookie).status_code == 401


def test_the_wrong_word_logs_nobody_in(guarded: Server) -> None:
    for word in ("", "wrong", TOKEN + "x", "ü" * 20):
        with requests.Session() as http:
            http.trust_env = False
            reply = http.post(f"{guarded.url}/login", data={"token": word}, timeout=60, allow_redirects=False)
        assert reply.status_code == 401
        assert "set-cookie" not in reply.headers


def test_slicer_finds_the_login_and_logs_in_by_its_own_means(guarded: Server, plain: Server) -> None:
    assert ask(plain, "GET", "/auth/").json()["enabled"] is False
    assert ask(guarded, "GET", "/auth/").json()["enabled"] is True
    with requests.Session() as http:
        http.trust_env = False
        form = {"username": "anna", "password": TOKEN, "grant_type": "password"}
        token = http.post(f"{guarded.url}/auth/token", data=form, timeout=60).json()
        refused = http.post(f"{guarded.url}/auth/token", data={**form, "password": "x"}, timeout=60)
    assert refused.status_code == 401
    bearer = f"{token['token_type']} {token['access_token']}"
    assert ask(guarded, "GET", "/auth/token/valid", Authorization=bearer).json()["username"] == "holder of the token"
    assert ask(guarded, "GET", "/train/", Authorization=bearer).status_code in (200, 404)


@pytest.mark.parametrize("text", ["", "short", "two words of a token", "a" * 20 + "\n" + "b" * 20, "ü" * 20])
def test_a_token_that_could_be_guessed_or_misread_is_no_token(tmp_path: Path, text: str) -> None:
    (tmp_path / "token").write_text(text)
    with pytest.raises(SettingsError, match="access_token_file"):
        read_token("access_token_file", tmp_path / "token")
    with pytest.raises(SettingsError, match="cannot be read"):
        read_token("access_token_file", tmp_path / "nothing")


def test_old_logins_are_forgotten() -> None:
    logins: BrowserLogins[int] = BrowserLogins(most=3)
    cookies = [logins.open(number) for number in range(5)]
    assert [logins.find(each) for each in cookies] == [None, None, 2, 3, 4]
    short: BrowserLogins[int] = BrowserLogins(length_s=0.2)
    cookie = short.open(1)
    assert short.find(cookie) == 1
    time.sleep(0.3)
    assert short.find(cookie) is None


# ---------------------------------------------------------------------------------------------------------- audit


def lines_of(server: Server) -> list[dict[str, Any]]:
    text = (Path(server.conf["model_folder"]) / "audit.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_the_audit_log_says_who_did_what_and_nothing_of_patients(guarded: Server) -> None:
    series = guarded.http.get(f"{guarded.url}/proxy/dicom/qido/series?PatientName=Doe%5EJane", timeout=60).json()[0]
    uid, study = series["0020000E"]["Value"][0], series["0020000D"]["Value"][0]
    for _ in range(3):
        path = f"/proxy/dicom/wado/studies/{study}/series/{uid}/metadata"
        assert guarded.http.get(f"{guarded.url}{path}", timeout=60).status_code == 200
    assert guarded.infer({"lesion": [[5, 5, 3]], "client_id": "anna"}, image=uid).status == 200
    label = {"label": ("Doe_Jane.bin", ARRAY.astype(np.uint8).clip(0, 1).tobytes(order="F"))}
    params = {"params": (None, json.dumps({"label_info": [{"name": "lesion"}], "user": "Doe^Jane"}))}
    stored = guarded.http.put(
        f"{guarded.url}/datastore/label", params={"image": uid}, files={**label, **params}, timeout=60
    )
    assert stored.status_code == 200, stored.text
    assert guarded.http.post(f"{guarded.url}/activelearning/first", json={}, timeout=60).ok
    ask(guarded, "DELETE", f"/datastore/label?id={uid}&tag=final")
    lines = lines_of(guarded)
    who = {"who": "holder of the token", "from": "127.0.0.1", "status": 200}
    assert [line for line in lines if line["deed"] == "infer"][-1].items() >= {
        **who,
        "image": uid,
        "model": "sam3d",
    }.items()
    assert [line for line in lines if line["deed"] == "store label"][-1].items() >= {**who, "image": uid}.items()
    reads = [line for line in lines if line["deed"] == "read archive" and line.get("series UID") == uid]
    assert len(reads) == 1
    assert reads[0]["studies UID"] == study
    refused = [line for line in lines if line["deed"] == "delete label"][-1]
    assert (refused["who"], refused["status"], refused["id"]) == ("nobody", 401, uid)
    assert all(line["when"].endswith("+00:00") for line in lines)
    text = json.dumps(lines)
    assert TOKEN not in text
    assert "Doe" not in text
    assert "P-77" not in text
    log = guarded.log.read_text()
    assert TOKEN not in log
    assert oct((Path(guarded.conf["model_folder"]) / "audit.jsonl").stat().st_mode)[-3:] == "600"
