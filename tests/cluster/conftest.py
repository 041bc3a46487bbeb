"""A cluster for these tests, started once: a scheduler, and two workers that see the studies under two paths."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from lib.cluster.security import INSTALL
from lib.network.weights import save_weights
from lib.settings import ClusterSettings, Settings
from network.small_networks import card_of, small_network
from nodes import Node, Nodes
from serving import write_study

N_IMAGES = 20
NAMES = [f"case{number:02}" for number in range(N_IMAGES)]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.cluster)
            if find_spec("distributed") is None and item.get_closest_marker("without_the_extra") is None:
                item.add_marker(pytest.mark.skip(reason=f"work over several machines is not installed: {INSTALL}"))


@pytest.fixture(scope="session")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty small images, one of them in a folder of its own."""
    folder = tmp_path_factory.mktemp("shared") / "studies"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        array = np.random.default_rng(number).normal(0, 200, (24, 22, 20)).astype(np.int16)
        write_study(folder / f"{name}.nii.gz", array)
    return folder


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_weights(small_network(), card_of(version="1", has_automatic_mode=True), path)
    return path


@pytest.fixture(scope="session")
def mounted_elsewhere(studies: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same studies as another machine has them: at another path."""
    folder = tmp_path_factory.mktemp("elsewhere") / "mnt"
    shutil.copytree(studies, folder)
    return folder


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Ended with each file: what comes after may need the memory."""
    with Nodes(tmp_path_factory.mktemp("nodes")) as running:
        yield running


@pytest.fixture(scope="module")
def scheduler(nodes: Nodes) -> Node:
    return nodes.scheduler()


@pytest.fixture(scope="module")
def workers(nodes: Nodes, scheduler: Node, studies: Path, mounted_elsewhere: Path) -> list[Node]:
    """Two that nobody kills."""
    started = [nodes.worker(scheduler.address, root) for root in (studies, mounted_elsewhere)]
    assert all(node.address.startswith("tcp://127.0.0.1:") for node in started)
    return started


def settings_at(folder: Path, weights: Path, address: str = "", wait_s: float = 30.0) -> Settings:
    """A server's settings, with a cluster or without."""
    return Settings(
        checkpoint=weights,
        model_folder=folder / "model",
        labels=("lesion",),
        precision="fp32",
        cluster=ClusterSettings(cluster=address, cluster_wait_s=wait_s),
    )
