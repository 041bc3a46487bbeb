"""One browser for all specs, an archive and a server for each file of them, a page for each spec.

Of a spec that fails a trace and a picture are kept.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ViewportSize, sync_playwright

from archive import Orthanc, orthanc_program, store
from archives import DemoArchive
from lib.demo import free_port
from measured import figures
from series import LAYOUTS, Case, write_cases
from serving import Serve, Server
from viewer import Viewer

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
CHROMIUM_ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
    *("--ignore-gpu-blocklist", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
    # The viewer asks for a font of the internet: what is not on this machine is not there.
    # 127.0.0.2 is another site than 127.0.0.1.
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE 127.0.0.2",
]
LIMIT_S = 2400  # for one spec, a training included, on a busy machine
SIZE = ViewportSize(width=1280, height=800)
REPORTS = Path(__file__).parents[2] / "build" / "e2e"
CONF = {
    "labels": "lesion,liver",
    "max_clicks": "8",
    "max_epochs": "2",
    "steps_per_epoch": "1",
    "train_batch_size": "1",
    "click_rounds": "1",
    # So small a step changes no mask, and a version that loses nothing is published: the loop is tested, not learning.
    "learning_rate": "1e-8",
    "publish_margin": "0",
    "trust_labels": "true",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.timeout(LIMIT_S))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if figures:
        terminalreporter.section("what the browser measured")
        terminalreporter.write_line("\n".join(figures))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a DICOMweb server that holds nothing yet."""
    folder = tmp_path_factory.mktemp("archive") / "instances"
    running: AbstractContextManager[Orthanc | DemoArchive]
    if orthanc_program():
        running = Orthanc(folder, free_port(0))
    else:
        folder.mkdir()
        running = DemoArchive(folder, free_port(0))
    with running as started:
        archive_used = f"archive: {type(started).__name__}"
        if archive_used not in figures:
            figures.append(archive_used)
        yield started.url


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Case]]:
    """A series of each layout, as files."""
    folder = tmp_path_factory.mktemp("series")
    return folder, write_cases(folder, LAYOUTS, 100)


@pytest.fixture(scope="module")
def cases(archive: str, written: tuple[Path, dict[str, Case]]) -> dict[str, Case]:
    """A series of each layout, in the archive."""
    folder, cases = written
    store(archive, folder)
    return cases


@pytest.fixture(scope="module")
def conf() -> dict[str, str]:
    """What the server is started with."""
    return CONF


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds nothing yet, for files of which the server itself is the archive."""
    return tmp_path_factory.mktemp("folder") / "studies"


@pytest.fixture(scope="module")
def serve(conf: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Starts the app on an archive or a folder, with further settings; it ends with the last spec of the file."""
    with ExitStack() as running:

        def start(studies: str | Path, own: Mapping[str, str] | None = None, **how: Any) -> Server:
            folder = tmp_path_factory.mktemp("server")
            settings = {**conf, "model_folder": str(folder / "model"), **(own or {})}
            return running.enter_context(Server(folder, studies, settings, **how))

        yield start


@pytest.fixture(scope="module")
def server(serve: Serve, archive: str, cases: dict[str, Case]) -> Server:
    """The app on the archive, with a training that takes seconds."""
    return serve(archive)


@pytest.fixture(scope="session")
def window() -> Iterator[BrowserContext]:
    """A window of Chromium, which is not Playwright's own. Its cache holds the viewer's code from spec to spec."""
    if not CHROMIUM:
        pytest.skip("no Chromium: install Debian's package chromium, or name a program in CHROMIUM")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        context = chromium.new_context(viewport=SIZE)
        context.tracing.start()
        yield context
        chromium.close()


@pytest.fixture
def viewer(window: BrowserContext, server: Server, request: pytest.FixtureRequest) -> Iterator[Viewer]:
    """A page of the viewer; what it did is kept in build/e2e if the spec fails."""
    failed_before = request.session.testsfailed
    window.tracing.start_chunk()
    opened = Viewer(window.new_page(), server.url)
    yield opened
    if request.session.testsfailed > failed_before:
        kept = REPORTS / re.sub(r"\W+", "-", request.node.name)
        kept.mkdir(parents=True, exist_ok=True)
        opened.page.screenshot(path=kept / "page.png")
        (kept / "console.txt").write_text("\n".join(opened.console))
        (kept / "server.log").write_text(server.log_tail())
        window.tracing.stop_chunk(path=kept / "trace.zip")
    else:
        window.tracing.stop_chunk()
    if opened.page.url.startswith(server.url):  # the next spec begins without what this one left unsubmitted
        opened.page.evaluate("indexedDB.deleteDatabase('sam3d')")
    opened.page.close()


@pytest.fixture
def emil(window: BrowserContext, server: Server) -> Iterator[Viewer]:
    """Somebody else's browser."""
    browser = window.browser
    assert isinstance(browser, Browser)
    context = browser.new_context(viewport=SIZE)
    context.add_init_script("window.localStorage.setItem('sam3d.name', 'Emil')")
    yield Viewer(context.new_page(), server.url)
    context.close()
