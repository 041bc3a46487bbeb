"""What the engine costs beside our own work, and what a second worker brings; ratios of one run.

python benchmarks/cluster.py                    empty and sleeping orders: no processor is needed, any machine will do
python benchmarks/cluster.py --images DIR       scores of the images of a folder, too: only where nothing else runs
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from support.cluster_farm import farm, is_installed, scheduler, workers
from support.report import report

if TYPE_CHECKING:
    from lib.cluster.dask_client import DaskCluster
    from lib.cluster.orders import Order

# Seconds that a sleeping order sleeps: a score of the demo model on one core took 3 to 5.
SLEEP_S = 1.0


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--images", type=Path, help="a folder of NIfTI files, scored by one worker and by two")
    options.add_argument("--empty", type=int, default=5000, help="orders without any work, for their cost and memory")
    options.add_argument("--sleeping", type=int, default=20, help="sleeping orders for each worker")
    args = options.parse_args()
    if not is_installed():
        return
    with scheduler() as address:
        rates = {}
        for count in (1, 2):
            with farm(address, count):
                rates[count] = _sleeping(address, count, args.sleeping * count)
                if count == 2:
                    _empty(address, args.empty)
        report(
            "cluster_sleeping",
            images_a_second=rates,
            two_to_one=round(rates[2] / rates[1], 3),
            share_outside_of_work={count: round(1 - rate * SLEEP_S / count, 4) for count, rate in rates.items()},
            load=round(os.getloadavg()[0], 1),
        )
        if args.images:
            _scores(address, args.images.resolve())


def _sleeping(address: str, count: int, n_orders: int) -> float:
    cluster = _connected(address, count)
    list(cluster.executor().stream(_orders(count, 0.0)))  # whatever is made at first use
    start = time.perf_counter()
    n_done = sum(1 for _ in cluster.executor().stream(_orders(n_orders, SLEEP_S)))
    rate = n_done / (time.perf_counter() - start)
    cluster.close()
    return round(rate, 4)


def _empty(address: str, n_orders: int) -> None:
    """Milliseconds an order that does nothing, and the driver's memory over very many of them."""
    cluster = _connected(address, 2)
    start_mib = _resident_mib()
    mib, ends = [], [time.perf_counter()]
    for number, _ in enumerate(cluster.executor().stream(_orders(n_orders, 0.0))):
        if number % 50 == 49:
            ends.append(time.perf_counter())
            mib.append(_resident_mib() - start_mib)
    cluster.close()
    half = len(mib) // 2
    report(
        "cluster_empty_orders",
        orders=n_orders,
        ms_an_order=round(1000 * (ends[-1] - ends[0]) / n_orders, 2),
        median_ms_an_order=round(20 * median(b - a for a, b in pairwise(ends)), 2),
        driver_mib_at_half=round(mib[half], 1),
        driver_mib_at_end=round(mib[-1], 1),
        load=round(os.getloadavg()[0], 1),
    )


def _scores(address: str, folder: Path) -> None:
    """The scores of real images by the demo model: one worker, then two, in the same run."""
    from lib.cluster.orders import Failure, ImageReference
    from lib.cluster.travelling import Weights
    from lib.scoring.image_score import ScoreSettings
    from lib.settings import Settings
    from lib.works.score import score_order

    weights = Weights.named(Settings())
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.nii.gz"))
    seconds = {}
    for count in (1, 2):
        with workers(address, count, folder):
            cluster = _connected(address, count)
            orders = [score_order(path, ImageReference(path), ScoreSettings(), "auto", 2048) for path in paths]
            list(cluster.executor(weights).stream(orders[:count]))
            start = time.perf_counter()
            outcomes = [outcome for _, outcome in cluster.executor(weights).stream(orders)]
            seconds[count] = round(time.perf_counter() - start, 2)
            cluster.close()
        n_failed = sum(isinstance(outcome, Failure) for outcome in outcomes)
    report(
        "cluster_scores",
        images=len(paths),
        failed=n_failed,
        seconds=seconds,
        two_to_one=round(seconds[1] / seconds[2], 3),
        load=round(os.getloadavg()[0], 1),
    )


def _connected(address: str, count: int) -> DaskCluster:
    from lib.cluster.dask_client import DaskCluster
    from lib.cluster.security import Access

    cluster = DaskCluster(Access(address), patience_s=60.0)
    while cluster.width != count:
        time.sleep(0.2)
    return cluster


def _orders(count: int, seconds: float) -> Iterator[Order]:
    from lib.cluster.orders import ImageReference, Order

    for number in range(count):
        settings = {"seconds": seconds, "size": 700}
        yield Order("sleep", str(number), ImageReference(f"patient{number:06}/ct.nii.gz"), settings)


def _resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()
