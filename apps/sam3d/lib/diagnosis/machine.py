"""Python with its packages, the disks and the GPU of this machine."""

from __future__ import annotations

import importlib
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement

from lib.diagnosis.findings import Finding, good, note, wrong
from lib.locks import fault_of_locks

OLDEST, NEWEST = (3, 10), (3, 12)
# What pyproject.toml names: it is not there where only the app's folder was copied.
REQUIREMENTS = (
    *("monailabel==0.8.5", "monai==1.6.1", "torch==2.13.0", "torchvision==0.28.0", "segment-anything==1.0"),
    *("authlib", "einops", "httpx", "matplotlib", "nibabel", "numpy"),
    *("safetensors", "scikit-image", "scipy", "SimpleITK"),
    *("pydicom<3", "dicomweb-client<0.61", "pynetdicom<3", "dcmqi==1.5.7"),
)
# Those with compiled parts, which may be there and not load.
LOADED = ("torch", "torchvision", "SimpleITK", "numpy", "scipy", "pydicom")
# The program `monailabel` calls the second by name; labels become DICOM SEG by the third for some clients.
PROGRAMS = ("monailabel", "python", "itkimage2segimage")
LEAST_BYTES, FEW_BYTES, LEAST_FILES = 200 * 2**20, 5 * 2**30, 1000


def environment() -> Iterator[Finding]:
    """Python, the packages as they are pinned, and the programs that are called by name."""
    python = ".".join(map(str, sys.version_info[:3]))
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        yield wrong("environment", f"this is Python {python}", "use Python 3.10, 3.11 or 3.12: make setup PYTHON=...")
    amiss = [*_versions_amiss(), *_broken()]
    for sentence in amiss:
        yield wrong("environment", sentence, "install the locked packages: make setup")
    beside = Path(sys.executable).parent
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), str(beside)])
    missing = [name for name in PROGRAMS if not shutil.which(name, path=path)]
    if missing:
        yield note("environment", f"not found on PATH: {', '.join(missing)}", f"put {beside} in front of PATH")
    if not amiss:
        yield good("environment", f"Python {python} with {len(REQUIREMENTS)} packages as pinned")


def _versions_amiss() -> Iterator[str]:
    for each in map(Requirement, REQUIREMENTS):
        try:
            found = version(each.name).partition("+")[0]
        except PackageNotFoundError:
            yield f"the package {each.name} is not installed"
            continue
        if not each.specifier.contains(found, prereleases=True):
            yield f"the package {each.name} is {found}, and {each.specifier} is needed"


def _broken() -> Iterator[str]:
    for name in LOADED:
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever it is: this is what is looked for
            yield f"the package {name} does not load: {type(error).__name__}: {str(error)[:200]}"


def disks(folders: Mapping[str, Path]) -> Iterator[Finding]:
    """Room in each folder that the server writes to, and in the one for temporary files."""
    for what, folder in {**folders, "temporary files": Path(tempfile.gettempdir())}.items():
        place = next(path for path in (folder, *folder.parents) if path.exists())
        free, state = shutil.disk_usage(place).free, os.statvfs(place)
        sentence = f"{free / 2**30:.1f} GiB free for {what} in {place}"
        if free < LEAST_BYTES:
            yield wrong("disk", sentence, "free some: labels and masks are refused where there is no room")
        elif state.f_files and state.f_favail < LEAST_FILES:
            yield wrong(
                "disk", f"only {state.f_favail} more files fit for {what} in {place}", "remove some files there"
            )
        elif free < FEW_BYTES:
            yield note("disk", sentence, "watch it: a training run may need more")
        else:
            yield good("disk", sentence)


def locks(folders: Mapping[str, Path]) -> Iterator[Finding]:
    """Whether the locks that keep two servers, or two trainings, apart are seen by other machines."""
    for what, folder in folders.items():
        if fault := fault_of_locks(folder):
            yield note("locks", f"for {what}: {fault}")


def gpu(device: str) -> Iterator[Finding]:
    """What clicks are computed on, tried out."""
    import torch

    has_driver = Path("/proc/driver/nvidia/version").exists() or bool(shutil.which("nvidia-smi"))
    if not torch.cuda.is_available():
        if device.startswith("cuda"):
            yield wrong(
                "gpu", f"device is {device}, and PyTorch finds none", "use --conf device auto, or mend the driver"
            )
        elif has_driver:
            yield note(
                "gpu",
                "there is an NVIDIA driver, and PyTorch cannot use it",
                "install PyTorch's CUDA build: make setup",
            )
        else:
            yield good("gpu", f"none; clicks are computed on {torch.get_num_threads()} threads of the CPU")
        return
    chosen = torch.device("cuda" if device == "auto" else device)
    if chosen.type == "cpu":
        yield note("gpu", "there is one, and device is cpu", "use --conf device auto")
        return
    try:
        free, total = torch.cuda.mem_get_info(chosen)
        (torch.ones(1024, 1024, device=chosen) @ torch.ones(1024, 1024, device=chosen)).sum().item()
    except (RuntimeError, AssertionError) as error:
        yield wrong("gpu", f"{device} does not compute: {str(error).splitlines()[0]}", "end what else runs on it")
        return
    name = torch.cuda.get_device_name(chosen)
    yield good("gpu", f"{name} with {free / 2**30:.1f} of {total / 2**30:.1f} GiB free")


def port(number: int) -> Iterator[Finding]:
    """Whether a server could listen."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", number))
        except OSError as error:
            yield note(
                "port", f"{number} cannot be had: {error.strerror}", "a server runs there, or use another --port"
            )
            return
    yield good("port", f"{number} is free")
