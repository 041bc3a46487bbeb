"""The demonstration: studies of our own making, a server for them on this machine, and what to click there."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from lib.image_files import ITK_ENDINGS, NIFTI_ENDINGS
from lib.synthesis.phantoms import DemoStudy, write_studies

HOST = "127.0.0.1"
CLICKS_FILE = "demo_clicks.json"  # beside the studies; the server lists images only
POLL_S = 0.2


def prepare(folder: Path) -> list[DemoStudy]:
    """Write demo studies into a `folder` without images, and return those that are there with their clicks.

    A folder with images of the user's own is left as it is, and gives an empty list.
    """
    if not any(path.name.endswith(NIFTI_ENDINGS + ITK_ENDINGS) for path in folder.glob("[!.]*")):
        clicks = {study.path.name: study.click for study in write_studies(folder)}
        folder.joinpath(CLICKS_FILE).write_text(json.dumps(clicks))
    if not folder.joinpath(CLICKS_FILE).exists():
        return []
    clicks = json.loads(folder.joinpath(CLICKS_FILE).read_text())
    return [DemoStudy(folder / name, (i, j, k)) for name, (i, j, k) in clicks.items() if folder.joinpath(name).exists()]


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


def instructions(url: str, folder: Path, studies: Sequence[DemoStudy]) -> str:
    """What to open and what to click, with a ready command for the first of the studies."""
    lines = [
        f"sam3d is serving {folder} at {url}",
        "",
        f"Open    {url}/info/  the models, labels and studies of this server",
        f"        3D Slicer, module MONAI Label (an extension): server {url}, connect, Next Sample",
    ]
    if studies:
        first, *_ = studies
        image, (i, j, k) = first.path.name.removesuffix(".nii.gz"), first.click
        params = json.dumps({"lesion": [[i, j, k]], "background": [], "result_extension": ".nii.gz"})
        post = ["curl", "-F", f"params={params}", f"{url}/infer/sam3d?image={image}&output=image", "-o", "mask.nii.gz"]
        lines += [
            "Click   in SmartEdit (model sam3d, label lesion), on the lesion at voxel (i, j, k):",
            *(f"            {study.path.name}  {study.click}" for study in studies),
            "        or post that click without a viewer; the mask comes back as a file:",
            f"            {shlex.join(post)}",
        ]
    return "\n".join([*lines, "", "Stop    Ctrl+C", ""])


def serve(app: Path, folder: Path, port: int, studies: Sequence[DemoStudy]) -> int:
    """Run the server until it ends or is interrupted; print the instructions once it answers. Returns an exit code."""
    program = [sys.executable, "-m", "monailabel.main", "start_server"]
    places = ["--app", str(app), "--studies", str(folder), "--host", HOST, "--port", str(port)]
    # The server calls `itkimage2segimage`, which is installed beside Python, by name.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no server is left behind
    with subprocess.Popen([*program, *places], env={**os.environ, "PATH": path}) as server:
        try:
            url = f"http://{HOST}:{port}"
            while server.poll() is None and not _answers(url):
                time.sleep(POLL_S)
            if server.poll() is None:
                print(f"\n{instructions(url, folder, studies)}", flush=True)
            return server.wait()
        except KeyboardInterrupt:
            server.terminate()
            server.wait()
            return 0


def _answers(url: str) -> bool:
    """Whether the server at `url` lists its models already. Proxies of the environment are not asked."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/info/", timeout=30) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False
