"""Write the lock files from pyproject.toml: `make lock` (needs `uv` on PATH and a network).

torch.lock      torch and torchvision with the CUDA libraries, which a CPU-only set-up replaces
packages.lock   every other package that is published as a wheel
source.lock     the few that are published as source only, and are built here
cluster.lock    what the extra `cluster` brings beside all of these

Every line is pinned by version and hash, for Python 3.10 to 3.12 on Linux x86-64, and names no index.
"""

import os
import re
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent
# True wherever these locks are for, so left out of every line's marker.
ALWAYS = {
    "implementation_name == 'cpython'",
    "platform_machine == 'x86_64'",
    "platform_python_implementation != 'PyPy'",
    "sys_platform == 'linux'",
}
TORCH = re.compile(r"(torch|torchvision|triton|nvidia-.*|cuda-.*)$")


def resolve(folder: Path) -> tuple[str, str, str]:
    """Resolve the project in `folder` with the public registry alone: requirements without the extra and with it, and
    the uv.lock, all as texts."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("UV_", "PIP_"))}
    folder.joinpath("pyproject.toml").write_bytes(PROJECT.joinpath("pyproject.toml").read_bytes())
    uv = ["uv", "--no-config", "--quiet", "--directory", str(folder)]
    subprocess.run([*uv, "lock"], env=clean, check=True)
    export = [*uv, "export", "--frozen", "--all-groups", "--no-emit-project", "--no-annotate", "--no-header"]
    plain, extended = (
        subprocess.run([*export, *extra], env=clean, check=True, stdout=subprocess.PIPE, text=True).stdout
        for extra in ([], ["--extra", "cluster"])
    )
    return plain, extended, folder.joinpath("uv.lock").read_text()


def source_only(uv_lock: str) -> set[str]:
    """Names of the packages in a uv.lock that have a source archive and no wheel."""
    names = set()
    for package in uv_lock.split("[[package]]")[1:]:
        match = re.search(r'^name = "(.+)"$', package, re.MULTILINE)
        if match and "\nsdist = " in package and "\nwheels = " not in package:
            names.add(match.group(1))
    return names


def shortened(entry: str) -> str:
    """Leave what is always true out of the marker in the first line of a requirement."""
    first, newline, hashes = entry.partition("\n")
    pin, _, marker = first.removesuffix("\\").rstrip().partition(" ; ")
    kept = [part for part in marker.split(" and ") if part and part not in ALWAYS]
    if any("python_full_version" not in part for part in kept):
        raise SystemExit(f"The marker of {pin} is about more than Python's version: {marker}")
    return " ; ".join([pin, " and ".join(kept)] if kept else [pin]) + " \\" + newline + hashes


def entries(requirements: str) -> dict[str, list[str]]:
    """Group the requirements by the package's name."""
    found: dict[str, list[str]] = {}
    for entry in re.split(r"\n(?=\S)", requirements.strip()):
        found.setdefault(entry.partition("==")[0], []).append(shortened(entry))
    return found


def main() -> None:
    """Resolve, split and write."""
    with tempfile.TemporaryDirectory() as folder:
        requirements, extended, uv_lock = resolve(Path(folder))
    source, always = source_only(uv_lock), entries(requirements)
    files: dict[str, list[str]] = {"torch.lock": [], "packages.lock": [], "source.lock": [], "cluster.lock": []}
    for name, lines in always.items():
        file = "torch.lock" if TORCH.match(name) else "source.lock" if name in source else "packages.lock"
        files[file] += lines
    for name, lines in entries(extended).items():
        if name in always:
            # One environment holds both, so the extra may not move what everybody installs.
            assert lines == always[name], f"the extra `cluster` asks for another {name} than the rest"
        else:
            files["cluster.lock"] += lines
    for file, lines in files.items():
        HERE.joinpath(file).write_text("# Written by `make lock`. Do not edit.\n" + "\n".join(lines) + "\n")
        print(f"{file}: {len(lines)} pins")


if __name__ == "__main__":
    main()
