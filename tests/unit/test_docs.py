"""What the README says of commands and settings is what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cli import COMMANDS
from lib.settings import CONF_KEYS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_every_setting_stands_in_the_table_with_its_help() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", README, flags=re.MULTILINE))
    assert rows == {key: conf.help for key, conf in CONF_KEYS.items()}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_named(command: str) -> None:
    assert f"`{command}" in README or f"cli.py {command}" in README


def test_every_linked_file_exists() -> None:
    for page in [
        ROOT / "README.md",
        ROOT / "ARCHITECTURE.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "SECURITY.md",
        *ROOT.glob("docs/**/*.md"),
    ]:
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
