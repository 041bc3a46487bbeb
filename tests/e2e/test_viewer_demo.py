"""`make demo` in a fresh clone ends in OHIF with a mask, without root's rights and without an archive of one's own."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import BrowserContext, expect
from scipy import ndimage

from film import Film
from lib.demo import DEMO_SERIES
from lib.evaluation.metrics import dice
from lib.images.dicom_writing import on_dicom_grid
from lib.synthesis.phantoms import make_phantom
from measured import figures
from series import deepest
from viewer import SHOW, VOLUME, Run, Viewer

# Set, it names a folder for the picture of README.md.
PICTURES = os.environ.get("E2E_PICTURES")
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
    """The first address that `make demo` prints, in a home that holds nothing; all it started ends with it."""
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
        (address, *_) = re.findall(r"^Open +(\S+)", log.read_text(), flags=re.MULTILINE)
        assert address.startswith(f"http://127.0.0.1:{port}/ohif/")
        yield address
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


def test_the_first_minute(demo: str, clone: Path, window: BrowserContext) -> None:
    """The printed address, one press that is answered, a correction, and Enter."""
    seed, orientation, _ = DEMO_SERIES[0]
    phantom = make_phantom(seed, orientation=orientation)
    label_map, _ = on_dicom_grid(phantom.label_map, phantom.affine)
    parts, _ = ndimage.label(label_map == phantom.names.index("lesion") + 1)
    target, *_ = json.loads((clone / "demo" / "studies" / "demo_clicks.json").read_text())
    viewer = Viewer(window.new_page(), demo.partition("/ohif/")[0])
    viewer.page.goto(demo, wait_until="domcontentloaded")
    viewer.wait_until_ready(is_answered_at_once=True)
    film = Film(viewer.page)
    film.take(1500)

    voxel = tuple(target["click"])
    lesion = parts == parts[voxel]
    at = where(viewer, voxel)
    before = viewer.coloured_pixels()
    film.take(1000, at)
    run = press(viewer, at)
    film.take(2000, at)
    assert run.status == 200
    (clicked,) = run.params["lesion"]
    assert np.abs(np.array(clicked) - voxel).max() <= 1
    shown = viewer.labelmap()["lesion"]
    assert shown[tuple(clicked)]
    gained = viewer.coloured_pixels() - before
    assert gained > 20

    # Where most is wrong: a press on what is missing, or with Alt on what is too much.
    wrong = deepest(shown ^ lesion)
    at = where(viewer, wrong)
    film.take(1500, at)
    if shown[wrong]:
        viewer.page.keyboard.down("Alt")
    press(viewer, at)
    viewer.page.keyboard.up("Alt")
    film.take(2000, at)
    corrected = viewer.labelmap()["lesion"]
    assert corrected[wrong] != shown[wrong]
    agreements = [dice(mask, lesion) for mask in (shown, corrected)]
    figures.append(
        f"make demo    one press, {int(shown.sum())} voxels in the mask, {gained} pixels in its colour; "
        f"Dice {agreements[0]:.2f} by one press, {agreements[1]:.2f} by two"
    )
    assert agreements[0] > 0.7

    viewer.page.keyboard.press("Enter")
    expect(viewer.status).to_have_text(re.compile("^Stored: lesion"))
    expect(viewer.case_state).to_contain_text("Submitted by")
    film.take(3000)
    if PICTURES:
        film.save(Path(PICTURES) / "first-minute.webp")
    viewer.page.close()


def where(viewer: Viewer, voxel: Sequence[int]) -> tuple[float, float]:
    """Where on the page a voxel is, once the axial viewport shows it."""
    lps_mm = viewer.page.evaluate(f"(ijk) => Array.from({VOLUME}.imageData.indexToWorld(ijk))", list(voxel))
    place = viewer.page.evaluate(SHOW, lps_mm)["mpr-axial"]
    return place["x"], place["y"]


def press(viewer: Viewer, at: tuple[float, float]) -> Run:
    """One press of the mouse, and what was asked and answered."""
    with viewer.answered() as answers:
        viewer.page.mouse.click(*at)
    return answers[0]
