"""The demonstration: studies of our own making, servers for them on this machine, and what to click there."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from lib.images.dicom_writing import SeriesInfo, on_dicom_grid, write_series
from lib.images.files import ITK_ENDINGS, NIFTI_ENDINGS
from lib.synthesis.phantoms import Phantom, make_phantom, suggested_click

HOST = "127.0.0.1"
CLICKS_FILE = "demo_clicks.json"  # beside the studies, which are what the servers look at
POLL_S = 0.2
LESION = "lesion"  # the label of what is to be clicked
# Spacing and size are those of `make_phantom`; the axes lie as scanners lay them, instances in three orders. The first
# one's lesion is found by one click.
DEMO_SERIES = ((9, "LPS", "ascending"), (8, "LPS", "descending"), (10, "RPS", "shuffled"))


@dataclass(frozen=True)
class Target:
    """A lesion to click: the image's id and a name for people, a voxel (i, j, k), and the study if it is DICOM."""

    image: str
    name: str
    click: tuple[int, int, int]
    study: str = ""


@dataclass(frozen=True)
class Demo:
    """What is to be served: a folder of NIfTI or other image files, or one of DICOM instances."""

    folder: Path
    is_dicom: bool
    targets: tuple[Target, ...] = ()


def prepare(folder: Path) -> Demo:
    """What a folder holds; demo studies are written as DICOM series into one that holds nothing.

    A folder with images of the user's own is left as it is, and has no targets.
    """
    has_files = any(path.name.endswith(NIFTI_ENDINGS + ITK_ENDINGS) for path in folder.glob("[!.]*"))
    if not has_files and not any(folder.rglob("*.dcm")):
        _write_demo(folder)
    return Demo(folder, not has_files, _targets(folder))


def free_port(preferred: int) -> int:
    """`preferred` if nothing listens there, else a port that the system picks."""
    for port in (preferred, 0):
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind((HOST, port))
            except OSError:
                continue
            return int(trial.getsockname()[1])
    raise OSError(f"no port of {HOST} is free")


def instructions(url: str, demo: Demo, labels: Sequence[str] = ()) -> str:
    """What to open and what to click, with a ready command for the first of the targets.

    Its label is a lesion's, or the first of the server's `labels` where they lack that.
    """
    lines = [f"sam3d is serving {demo.folder} at {url}", ""]
    if demo.is_dicom and demo.targets:
        address = f"{url}/ohif/monai-label?StudyInstanceUIDs={demo.targets[0].study}"
        lines.append(f"Open    {address}  the first study in OHIF: click on the lesion")
    if demo.is_dicom:
        lines.append(f"Open    {url}/ohif/  OHIF: a study, the mode MONAI Label, and click")
    lines += [
        f"Open    {url}/info/  the models, labels and studies of this server",
        f"        3D Slicer, module MONAI Label (an extension): server {url}, connect, Next Sample",
    ]
    if demo.targets:
        first, *_ = demo.targets
        label = LESION if LESION in labels or not labels else labels[0]
        params = json.dumps({label: [list(first.click)], "background": [], "result_extension": ".nii.gz"})
        address = f"{url}/infer/sam3d?image={first.image}&output=image"
        lines += [
            f"Click   with label {label}, on the lesion at voxel (i, j, k):",
            *(f"            {target.name}  {target.click}" for target in demo.targets),
            "        or post that click without a viewer; the mask comes back as a file:",
            f"            {shlex.join(['curl', '-F', f'params={params}', address, '-o', 'mask.nii.gz'])}",
        ]
    return "\n".join([*lines, "", "Stop    Ctrl+C", ""])


def serve(app: Path, demo: Demo, port: int, labels: Sequence[str] = ()) -> int:
    """Run the server until it ends or is interrupted; print the instructions once it answers. Returns an exit code."""
    # The server calls `itkimage2segimage`, which is installed beside Python, by name.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    # Requests to this machine go to no proxy.
    environment = {**os.environ, "PATH": path, "no_proxy": HOST, "NO_PROXY": HOST}
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the server is not left behind
    with ExitStack() as running:
        try:
            places = ["--app", str(app), "--studies", str(demo.folder), "--host", HOST, "--port", str(port)]
            program = [sys.executable, "-m", "monailabel.main", "start_server"]
            conf = ["--conf", "labels", ",".join(labels)] if labels else []
            server = _started(running, [*program, *places, *conf], environment)
            url = f"http://{HOST}:{port}"
            if _wait(server, f"{url}/info/"):
                print(f"\n{instructions(url, demo, labels)}", flush=True)
            return server.wait()
        except KeyboardInterrupt:
            return 0


def _write_demo(folder: Path) -> None:
    """Fill a folder with demo studies, each of them whole."""
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        targets = []
        for number, (seed, orientation, order) in enumerate(DEMO_SERIES, start=1):
            phantom = make_phantom(seed, orientation=orientation)
            info = SeriesInfo(f"DEMO-{number}", f"Demo^Patient {number}", description=f"Synthetic abdomen {number}")
            write_phantom(unfinished / info.study_uid / info.uid(), phantom, info, order)
            targets.append(Target(info.uid(), info.description, dicom_click(phantom), info.study_uid))
        unfinished.joinpath(CLICKS_FILE).write_text(json.dumps([asdict(target) for target in targets]))
        folder.mkdir(parents=True, exist_ok=True)
        # The clicks first: with them alone the studies count as missing, and are written again.
        for path in sorted(unfinished.iterdir(), key=lambda path: path.name != CLICKS_FILE):
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def write_phantom(folder: Path, phantom: Phantom, info: SeriesInfo, order: str = "ascending", seed: int = 0) -> None:
    """A phantom as a DICOM series whose InstanceNumbers run along the slices' normal, against it, or `shuffled`."""
    array, affine = on_dicom_grid(phantom.array, phantom.affine)
    planes = list(range(array.shape[2]))
    orders: Mapping[str, list[int]] = {
        "ascending": planes,
        "descending": planes[::-1],
        "shuffled": [int(k) for k in np.random.default_rng(seed).permutation(planes)],
    }
    write_series(folder, array, affine, info, orders[order])


def dicom_click(phantom: Phantom) -> tuple[int, int, int]:
    """`suggested_click` of a phantom, on the grid of its DICOM series."""
    i, j, k = suggested_click(phantom)
    is_turned = on_dicom_grid(phantom.array, phantom.affine)[1] is not phantom.affine
    return i, j, phantom.array.shape[2] - 1 - k if is_turned else k


def _targets(folder: Path) -> tuple[Target, ...]:
    """The targets of demo studies that are still there; demo studies of NIfTI have theirs by file name."""
    try:
        noted = json.loads(folder.joinpath(CLICKS_FILE).read_text())
    except FileNotFoundError:
        return ()
    if isinstance(noted, dict):
        noted = [{"image": name.removesuffix(".nii.gz"), "name": name, "click": at} for name, at in noted.items()]
    targets = []
    for note in noted:
        place = folder / note["study"] / note["image"] if "study" in note else folder / note["name"]
        if place.exists():
            i, j, k = note["click"]
            targets.append(Target(note["image"], note["name"], (i, j, k), note.get("study", "")))
    return tuple(targets)


def _started(running: ExitStack, command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """A process that is stopped, and waited for, when `running` ends."""
    process = running.enter_context(subprocess.Popen(command, env=environment))
    running.callback(process.terminate)
    return process


def _wait(process: subprocess.Popen[bytes], url: str) -> bool:
    """Whether the server of a process answers at `url`; False once it has ended."""
    while process.poll() is None:
        if _answers(url):
            return True
        time.sleep(POLL_S)
    return False


def _answers(url: str) -> bool:
    """Whether something answers at `url`. Proxies of the environment are not asked."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=30) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False
