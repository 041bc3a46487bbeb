"""How long Next Sample takes with ten thousand images, by the clock of a client: after a restart, with a new study, and
while a new model version makes all scores old ones.

Every image is a link to one small volume, and its stored score is made up: what is measured is choosing, not scoring.
The server scores in the background all the while, as it does by default.

    python benchmarks/next_sample.py --images 10000 --requests 60
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
from support.report import report
from support.server import Client, serving

from lib.activelearning.background import image_reference, scores_folder
from lib.datastore.versioned import VersionedDatastore
from lib.scoring.image_score import ScoreSettings
from lib.scoring.store import ScoreStore, StoredScore, score_key
from lib.settings import Settings
from lib.weights.versions import open_served

KINDS, FEATURES = 12, 64
LABELLED = 40
LIMIT_MS = 100.0


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--images", type=int, default=10_000)
    options.add_argument("--requests", type=int, default=60)
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        studies = _studies(folder / "studies", args.images)
        settings = Settings(labels=("lesion",), model_folder=folder / "model")
        seconds = _scores(settings, studies, LABELLED)
        with serving(folder, studies, {}) as client:
            found = {"restart": _asked(client, args.requests, "a")}
            (studies / "new.nii.gz").hardlink_to(studies / "case_00000.nii.gz")
            while client.get("/info/")["datastore"]["total"] <= args.images:
                time.sleep(0.2)
            found["new study"] = _asked(client, args.requests, "b")
            _publish(settings)
            found["new version"] = _asked(client, args.requests, "c")
            reason = client.post("/activelearning/random", {"client_id": "last"})["reason"]
    p95 = max(values["p95_ms"] for values in found.values())
    report(
        "next_sample",
        **{"images": args.images, "labelled": LABELLED, "made_s": seconds, "p95_ms": p95, "limit_ms": LIMIT_MS},
        **{"is_within": p95 < LIMIT_MS, "after": found, "example": reason},
    )


def _studies(folder: Path, count: int) -> Path:
    """So many links to one volume, some of them with a final label."""
    (folder / "labels" / "final").mkdir(parents=True)
    first = folder / "case_00000.nii.gz"
    array = np.random.default_rng(0).normal(0, 100, (32, 32, 32)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), first)
    for number in range(1, count):
        (folder / f"case_{number:05}.nii.gz").hardlink_to(first)
    label = folder / "labels" / "final" / "case_00000.nii.gz"
    nibabel.save(nibabel.Nifti1Image((array > 150).astype(np.uint8), np.eye(4)), label)
    for number in range(1, LABELLED):
        (folder / "labels" / "final" / f"case_{number * 7:05}.nii.gz").hardlink_to(label)
    return folder


def _scores(settings: Settings, studies: Path, seed: int) -> float:
    """A stored score of the served version for every image, of one of some kinds; how long that took."""
    start, rng = time.perf_counter(), np.random.default_rng(seed)
    datastore = VersionedDatastore(str(studies), extensions=("*.nii.gz",))
    card, store = open_served(settings).card, ScoreStore(scores_folder(settings.model_folder, str(studies)))
    centres = rng.normal(0, 1, (KINDS, FEATURES))
    for image in datastore.list_images():
        kind = int(min(rng.integers(KINDS, size=2)))
        features = tuple(round(float(value), 5) for value in centres[kind] + rng.normal(0, 0.3, FEATURES))
        key = score_key(image_reference(image, datastore), card, ScoreSettings())
        clicks = float(np.clip(rng.normal(1 + kind / 2, 1), 1, 9))
        store.put(StoredScore(image, key, "base", features, 0.5, round(clicks, 3)))
    return round(time.perf_counter() - start, 1)


def _asked(client: Client, count: int, who: str) -> dict[str, float]:
    """The times of so many requests of different annotators, in ms."""
    times = []
    for number in range(count):
        start = time.perf_counter()
        client.post("/activelearning/random", {"client_id": f"{who}{number}"})
        times.append(1000 * (time.perf_counter() - start))
    return {
        "first_ms": round(times[0], 1),
        "p50_ms": round(float(np.percentile(times, 50)), 1),
        "p95_ms": round(float(np.percentile(times, 95)), 1),
        "most_ms": round(max(times), 1),
    }


def _publish(settings: Settings) -> None:
    served = open_served(settings)
    for name, parameter in served.network.named_parameters():
        if "mask_decoder" in name:
            parameter.data += 0.001
    served.store.publish(served.network, served.card, 5)


if __name__ == "__main__":
    main()
