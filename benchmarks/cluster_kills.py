"""Kill what works together, at random moments, while drafts are stored: nothing is lost, doubled or half-written.

`cli.py draft` stores, as a server does, and is killed most often; a scheduler and two workers are killed, too. What
died is started again. In the end every image has exactly one draft, equal to the one that a single process makes.

Processes are forked from this one once everything is loaded, so that a kill costs no half a minute of loading; what
they run is `cli.py`'s own main.

    python benchmarks/cluster_kills.py --kills 20
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
from support.cluster_farm import is_installed
from support.report import report

Process = multiprocessing.context.ForkProcess

SHARES = {"draft": 0.5, "worker": 0.3, "scheduler": 0.2}
# New images for each kill, so that there is always something to do.
NEW_IMAGES = 6
PATIENCE_S = 600.0


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--kills", type=int, default=20)
    options.add_argument("--seed", type=int, default=0)
    args = options.parse_args()
    if not is_installed():
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    _load()
    with tempfile.TemporaryDirectory() as name:
        trial = Trial(Path(name), random.Random(args.seed))
        try:
            killed = [trial.kill_one(kind) for kind in _kinds(args.kills, trial.rng)]
            trial.finish()
            report("cluster_kills", kills=len(killed), killed={k: killed.count(k) for k in SHARES}, **trial.verdict())
        finally:
            trial.end()


def _kinds(count: int, rng: random.Random) -> list[str]:
    kinds = [kind for kind, share in SHARES.items() for _ in range(round(share * count))]
    rng.shuffle(kinds)
    return kinds


class Trial:
    """The processes, and the studies that they work on."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self.rng, self._folder, self._n_images = rng, folder, 0
        self.studies = folder / "studies"
        self.studies.mkdir()
        self._weights = _write_weights(folder / "small.safetensors")
        self._running: dict[str, Process] = {}
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.address, self._scheduler = f"tcp://127.0.0.1:{port}", ["scheduler", "--port", str(port)]

    def kill_one(self, kind: str) -> str:
        """Wait until drafts are being stored, and end one of the processes as a crash does."""
        self._add_images()
        self._revive()
        before, limit = self._n_stored(), time.monotonic() + PATIENCE_S
        while self._n_stored() < before + 2:
            assert time.monotonic() < limit, "no draft was stored"
            self._revive()
            time.sleep(0.02)
        time.sleep(self.rng.uniform(0.0, 0.4))
        name = self.rng.choice(["worker0", "worker1"]) if kind == "worker" else kind
        os.kill(self._running[name].pid, signal.SIGKILL)
        self._running[name].join()
        print(f"killed {name} at {self._n_stored()} of {self._n_images} drafts", file=sys.stderr, flush=True)
        return kind

    def finish(self) -> None:
        """Make what is missing."""
        self._revive()
        self._running["draft"].join(PATIENCE_S)
        self._start("draft", self._draft(self.studies)).join(PATIENCE_S)

    def verdict(self) -> dict[str, object]:
        """What there is in the end, beside what one process makes."""
        alone = self._folder / "alone"
        alone.mkdir()
        for path in self.studies.glob("*.nii.gz"):
            (alone / path.name).write_bytes(path.read_bytes())
        self._start("alone", self._draft(alone)[: -len(self._cluster)]).join(PATIENCE_S)
        masks, expected = _masks(self.studies), _masks(alone)
        versions = list((self.studies / "label_versions").rglob("*.nii.gz"))
        hidden = [path.name for path in self.studies.rglob(".*.nii.gz*")]
        assert len(expected) == self._n_images, "the reference is not complete"
        assert masks == expected, "drafts are lost or differ"
        assert len(versions) == self._n_images, f"{len(versions)} versions of {self._n_images} images"
        assert hidden == [], f"left behind: {hidden}"
        return {"images": self._n_images, "drafts": len(masks), "versions": len(versions), "half_written": len(hidden)}

    def end(self) -> None:
        for process in self._running.values():
            process.kill()
            process.join()

    @property
    def _cluster(self) -> list[str]:
        return ["--cluster", self.address, "--cluster-wait-s", "2"]

    def _draft(self, studies: Path) -> list[str]:
        told = ["draft", "--studies", str(studies), "--labels", "lesion", "--checkpoint", str(self._weights)]
        own = ["--model-folder", str(self._folder / "model"), "--precision", "fp32", "--device", "cpu"]
        return [*told, *own, *self._cluster]

    def _revive(self) -> None:
        """Start what is not there, or has nothing left to do."""
        worker = ["worker", self.address, "--root", str(self.studies), "--device", "cpu"]
        wanted = {
            "scheduler": self._scheduler,
            "worker0": worker,
            "worker1": worker,
            "draft": self._draft(self.studies),
        }
        for name, arguments in wanted.items():
            if name not in self._running or not self._running[name].is_alive():
                self._start(name, arguments)

    def _start(self, name: str, arguments: list[str]) -> Process:
        log = self._folder / f"{name}.log"
        self._running[name] = multiprocessing.get_context("fork").Process(target=_run, args=(arguments, log))
        self._running[name].start()
        return self._running[name]

    def _add_images(self) -> None:
        for _ in range(NEW_IMAGES):
            rng = np.random.default_rng(self._n_images)
            image = nibabel.Nifti1Image(rng.normal(0, 200, (24, 22, 20)).astype(np.int16), np.eye(4))
            hidden = self._folder / "new.nii.gz"
            nibabel.save(image, hidden)
            hidden.rename(self.studies / f"case{self._n_images:04}.nii.gz")
            self._n_images += 1

    def _n_stored(self) -> int:
        return len(list((self.studies / "labels" / "original").glob("[!.]*.nii.gz")))


def _run(arguments: list[str], log: Path) -> None:
    """`cli.py` with these arguments, in a process of its own."""
    import cli

    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(written, 1)
    os.dup2(written, 2)
    sys.exit(cli.main(arguments))


def _load() -> None:
    """Everything that the processes need, which starts no thread."""
    import lib.cluster.carrying
    import lib.cluster.dask_client
    import lib.cluster.dask_nodes
    import lib.configs.sam3d
    import lib.works.draft
    import lib.works.evaluate
    import lib.works.score  # noqa: F401


def _write_weights(path: Path) -> Path:
    """A network that is quick: what is tried is who writes, and not what."""
    from dataclasses import replace

    from lib.network.build import build_sam3d
    from lib.network.weights import Card, save_weights
    from lib.settings import PRESETS, VARIANTS

    small = replace(
        VARIANTS["tiny"], patch_size=32, embed_dim=16, sam_grid_size=8, adapter_dim=8, neck_dim=8, head_dim=8,
        prompt_mlp_dim=16, prompt_heads=2, click_unet=(8, 8, 12),
    )  # fmt: skip
    card = Card("small", small, PRESETS["ct"], 1.0, is_trained=True, has_automatic_mode=True)
    save_weights(build_sam3d(small, 0), card, path)
    return path


def _masks(studies: Path) -> dict[str, bytes]:
    files = (studies / "labels" / "original").glob("[!.]*.nii.gz")
    return {path.name: np.asarray(nibabel.load(path).dataobj).tobytes() for path in files}


if __name__ == "__main__":
    main()
