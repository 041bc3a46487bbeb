"""What of the page's scripts needs no page: `node --test` over tests/page, by the Node that Playwright brings along."""

from __future__ import annotations

import subprocess
from pathlib import Path

from playwright._impl._driver import compute_driver_executable

PAGE_TESTS = Path(__file__).parents[1] / "page"


def test_what_needs_no_page() -> None:
    node, _ = compute_driver_executable()
    run = subprocess.run([node, "--test", *sorted(PAGE_TESTS.glob("*.test.js"))], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
    assert "# fail 0" in run.stdout or "fail 0" in run.stdout
