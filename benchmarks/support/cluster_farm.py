"""A scheduler as `cli.py` starts it, and any number of simulated workers: real ones but for their work, which sleeps.

python -m support.cluster_farm ADDRESS N        N workers in one process; prints a line when all have joined
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

CLI = Path(__file__).parents[2] / "apps" / "sam3d" / "cli.py"


def is_installed() -> bool:
    """Whether there is an engine to measure; says what installs it where not, for `make bench` goes on."""
    from lib.cluster.security import check_installed
    from lib.errors import SettingsError

    try:
        check_installed()
    except SettingsError as error:
        print(f"nothing is measured: {error}", file=sys.stderr)
        return False
    return True


@contextmanager
def scheduler() -> Iterator[str]:
    """The address of one that runs as long as the block."""
    with _process([sys.executable, str(CLI), "scheduler", "--port", "0"]) as said:
        yield said.split()[-1]


@contextmanager
def workers(address: str, count: int, root: Path) -> Iterator[None]:
    """Real ones, a process each, over the studies of `root`."""
    if count == 0:
        yield
        return
    command = [sys.executable, str(CLI), "worker", address, "--root", str(root), "--device", "cpu"]
    with _process(command), workers(address, count - 1, root):
        yield


@contextmanager
def farm(address: str, count: int) -> Iterator[None]:
    """Simulated workers, all in one process of their own."""
    with _process([sys.executable, "-m", "support.cluster_farm", address, str(count)]):
        yield


@contextmanager
def _process(command: list[str]) -> Iterator[str]:
    here = str(Path(__file__).parents[1])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=here)
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said, f"{command} ended"
        yield said
    finally:
        process.terminate()
        process.wait(60)


def sleep(task: Any) -> dict[str, object]:
    """Work of a known length: `seconds` of sleep, and an answer of `size` bytes."""
    settings = task.order.settings
    time.sleep(settings["seconds"])
    return {"answer": bytes(settings["size"])}


async def _farm(address: str, count: int) -> None:
    from lib.cluster.carrying import Place, take_orders
    from lib.cluster.dask_nodes import make_worker, quieten
    from lib.cluster.security import Access

    quieten()
    take_orders({"sleep": sleep}, Place())
    async with AsyncExitStack() as stack:
        for start in range(0, count, 10):
            joining = (
                stack.enter_async_context(make_worker(Access(address), "127.0.0.1", {}))
                for _ in range(min(10, count - start))
            )
            await asyncio.gather(*joining)
        print("all have joined", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_farm(sys.argv[1], int(sys.argv[2])))
