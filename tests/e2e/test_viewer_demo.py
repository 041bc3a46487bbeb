"""`make demo` in a fresh clone ends in OHIF with a mask, without root's rights and without an archive of one's own."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import BrowserContext

from measured import figures
from viewer import VOLUME, Viewer

CHECKOUT = Path(__file__).parents[2]
START_LIMIT_S = 600.0
# The clone gets no environment of its own, but this one, which `make setup` made here.
ENVIRONMENT = Path(sys.prefix)
LOCKS = ("torch", "packages", "source")  # as requirements/install.sh reads them


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The last commit, as a user gets it."""
    if not (CHECKOUT / ".git").exists():
        pytest.skip("this folder is no git checkout, of which a clone could be made")
    settings = tmp_path / "gitconfig"
    settings.write_text("[safe]\n\tdirectory = *\n")  # the checkout may be somebody else's
    place = tmp_path / "sam3d"
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": str(settings)}
    subprocess.run(["git", "clone", "--quiet", "--no-local", str(CHECKOUT), str(place)], env=environment, check=True)
    return place


@pytest.fixture
def demo(clone: Path, tmp_path: Path) -> Iterator[str]:
    """The address at which `make demo` serves, in a home that holds nothing; all it started ends with it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = tmp_path / "home"
    home.mkdir()
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "http_proxy": "http://127.0.0.1:9",  # nothing listens there: whatever the demo would fetch, it does not get
        "https_proxy": "http://127.0.0.1:9",
    }
    command = ["make", "demo", f"VENV={ENVIRONMENT}", f"PORT={port}", f"CPU={build_installed(clone)}"]
    log = tmp_path / "demo.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*without_rights(), *command],
            cwd=clone,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for_instructions(process, log)
        assert f"http://127.0.0.1:{port}/ohif/" in log.read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGINT)  # what Ctrl+C does
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(60)


def build_installed(clone: Path) -> str:
    """Which of PyTorch's builds the environment has, as `make setup` calls it.

    Only where the clone would set up the very same: else it would replace the environment that these tests run in.
    """
    stamp = ENVIRONMENT.joinpath(".installed")
    build, _, locks = (stamp.read_text() if stamp.exists() else "").partition(" ")
    wanted = b"".join((clone / "requirements" / f"{name}.lock").read_bytes() for name in LOCKS)
    if not locks.startswith(hashlib.sha256(wanted).hexdigest()):
        pytest.skip(f"{ENVIRONMENT} is not what `make setup` of the last commit makes: run it first")
    return build.removeprefix("cpu=")


def without_rights() -> list[str]:
    """What, before a command, takes root's rights away; nothing where there are none, or none may be taken."""
    if os.geteuid() != 0:
        return []
    command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
    may_take = shutil.which("setpriv") and subprocess.run([*command, "true"], check=False).returncode == 0
    figures.append(f"make demo    run by root{', without its rights' if may_take else ', with its rights'}")
    return command if may_take else []


def wait_for_instructions(process: subprocess.Popen[bytes], log: Path) -> None:
    limit = time.monotonic() + START_LIMIT_S
    while "Stop    Ctrl+C" not in log.read_text():
        assert process.poll() is None, f"make demo ended:\n{log.read_text()[-3000:]}"
        assert time.monotonic() < limit, f"no instructions within {START_LIMIT_S:.0f} s:\n{log.read_text()[-3000:]}"
        time.sleep(0.2)


def test_the_demo_ends_with_a_mask_after_one_click(demo: str, clone: Path, window: BrowserContext) -> None:
    target, *_ = json.loads((clone / "demo" / "studies" / "demo_clicks.json").read_text())
    viewer = Viewer(window.new_page(), demo)
    viewer.open_study_list().open("DEMO-1")
    viewer.choose("lesion")
    voxel = tuple(target["click"])
    place = viewer.page.evaluate(f"(ijk) => Array.from({VOLUME}.imageData.indexToWorld(ijk))", target["click"])
    viewer.click_at(place)
    before = viewer.coloured_pixels()
    run = viewer.run()
    assert run.status == 200
    errors = np.abs(np.array(run.params["lesion"]) - voxel)
    assert errors.max() <= 1
    shown = viewer.labelmap()["lesion"]
    assert shown[tuple(run.params["lesion"][0])]
    gained = viewer.coloured_pixels() - before
    figures.append(f"make demo    one click, {int(shown.sum())} voxels in the mask, {gained} pixels in its colour")
    assert gained > 20
    viewer.page.close()
