"""Images a second against workers, 1 to 50 of them: the real scheduler and the real driver, and workers that sleep.

Sleeping takes no processor, so the curve says what the engine and the driver can do, and not what this machine can. The
orders are those of scores: `--seconds` is how long one takes on a card (2 in the calculation of docs/cluster.md), and
`--size` what comes back. With short sleeps the driver is what gives way first, which is the rate to know.

    python benchmarks/cluster_simulation.py
    python benchmarks/cluster_simulation.py --seconds 0.1 --size 300000 --workers 50
"""

from __future__ import annotations

import argparse
import os
import resource
import time

from support.cluster_farm import farm, is_installed, scheduler
from support.report import report

ROUNDS = 4  # of orders for each worker


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--workers", type=int, nargs="+", default=[1, 2, 5, 10, 20, 35, 50])
    options.add_argument("--seconds", type=float, nargs="+", default=[2.0, 0.1])
    options.add_argument("--size", type=int, default=700, help="bytes of an answer: a score has 700, a draft 300,000")
    args = options.parse_args()
    if not is_installed():
        return
    with scheduler() as address:
        for count in args.workers:
            with farm(address, count):
                for seconds in args.seconds:
                    _measure(address, count, seconds, args.size)


def _measure(address: str, count: int, seconds: float, size: int) -> None:
    from lib.cluster.dask_client import DaskCluster
    from lib.cluster.orders import ImageReference, Order
    from lib.cluster.security import Access

    cluster = DaskCluster(Access(address), patience_s=60.0)
    while cluster.width != count:
        time.sleep(0.2)
    rounds = ROUNDS if seconds >= 1 else round(2 / seconds)
    orders = (
        Order("sleep", str(number), ImageReference(f"patient{number:06}/ct.nii.gz"), {"seconds": seconds, "size": size})
        for number in range(count * rounds)
    )
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    n_done = sum(1 for _ in cluster.executor().stream(orders))
    elapsed, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    cluster.close()
    report(
        "cluster_simulation",
        workers=count,
        seconds_an_image=seconds,
        answer_bytes=size,
        images=n_done,
        images_a_second=round(n_done / elapsed, 2),
        ideal_images_a_second=round(count / seconds, 2),
        share_of_ideal=round(n_done * seconds / count / elapsed, 3),
        driver_cpu_ms_an_image=round(
            1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / n_done, 2
        ),
        load=round(os.getloadavg()[0], 1),
    )


if __name__ == "__main__":
    main()
