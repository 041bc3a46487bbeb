"""`.venv/bin/monailabel` works by its path alone, and hands arguments on as they were given."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).parents[2] / "requirements"


def test_the_launcher_runs_the_python_beside_it_with_its_arguments(tmp_path: Path) -> None:
    place = tmp_path / "a folder" / "bin"
    place.mkdir(parents=True)
    launcher, python = place / "monailabel", place / "python"
    launcher.write_bytes((REQUIREMENTS / "monailabel").read_bytes())
    # In place of the environment's Python: it tells what it was asked.
    show = 'import os, sys; print(sys.argv[1:], os.environ["PATH"])'
    python.write_text(f"#!{sys.executable}\n{show}\n")
    for program in (launcher, python):
        program.chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin", "HOME": os.environ.get("HOME", "/")}
    command = [str(launcher), "start_server", "--conf", "labels", "left lung,tumour"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    expected = ["-m", "monailabel.main", *command[1:]]
    assert run.stdout.strip() == f"{expected} {place}:/usr/bin:/bin"
