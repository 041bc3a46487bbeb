"""What a look at the stored scores costs when nobody changed any, and when somebody wrote one: beside asking every file
for its state, as the store did while all files lay in one folder.

The scores are made up and written without waiting for the disk. States are counted, for seconds are this machine's.

    python benchmarks/score_store.py --scores 100000
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
from support.report import report

from lib.scoring.store import COARSE_S, FORMAT, ScoreStore, StoredScore

FEATURES, REPEATS = 64, 5


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--scores", type=int, default=100_000)
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = ScoreStore(folder)
        for number in range(args.scores):
            _write(store, number)
        time.sleep(COARSE_S)
        start = time.perf_counter()
        store = ScoreStore(folder)
        opened_s = time.perf_counter() - start
        assert len(store.all()) == args.scores
        store.refresh()
        every_file = _cost(lambda: _ask_every_file(folder))
        unchanged = _cost(store.refresh)
        other = ScoreStore(folder)
        numbers = iter(range(args.scores))
        one_written = _cost(store.refresh, lambda: other.put(_score(next(numbers), "v2")))
        assert sum(score.version == "v2" for score in store.all().values()) == next(numbers)
    report(
        "score_store",
        **{"scores": args.scores, "opened_s": round(opened_s, 2), "every_file": every_file, "unchanged": unchanged},
        one_written=one_written,
        times_fewer_states=round(every_file["states"] / unchanged["states"]),
        times_sooner=round(every_file["ms"] / unchanged["ms"]),
    )


def _score(number: int, version: str) -> StoredScore:
    features = np.random.default_rng(number).normal(0, 1, FEATURES).round(5)
    return StoredScore(f"case {number}", "key", version, tuple(map(float, features)), 0.5, 3.5)


def _write(store: ScoreStore, number: int) -> None:
    score = _score(number, "v1")
    path = store._path(score.image)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"format": FORMAT, **asdict(score)}))


def _ask_every_file(folder: Path) -> None:
    for path in sorted(folder.glob("*/[!.]*.json")):
        path.stat()


def _cost(look: Callable[[], object], before: Callable[[], object] = lambda: None) -> dict[str, float]:
    """States that one look asks for, and the median of its milliseconds; `before` each look something happens."""
    asked, stat = 0, Path.stat

    def counted(self: Path, **values: bool) -> os.stat_result:
        nonlocal asked
        asked += 1
        return stat(self, **values)

    times = []
    for _ in range(REPEATS):
        before()
        start = time.perf_counter()
        look()
        times.append(1000 * (time.perf_counter() - start))
    before()
    Path.stat = counted  # type: ignore[method-assign]
    try:
        look()
    finally:
        Path.stat = stat  # type: ignore[method-assign]
    return {"states": asked, "ms": round(float(np.median(times)), 2)}


if __name__ == "__main__":
    main()
