"""Who may join a cluster, and where its processes listen."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from lib.cluster import certificates
from lib.cluster.certificates import certificate_file, key_file, make_certificates
from lib.cluster.security import Access
from lib.errors import ClusterError
from nodes import Node, Nodes, until
from serving import APP

# A worker as another machine would start it, but for one thing.
OTHER_TORCH = [
    "-c",
    f"import sys, importlib.metadata as of; sys.path.insert(0, {str(APP)!r}); known = of.version\n"
    "of.version = lambda name: '9.9.9' if name == 'torch' else known(name)\n"
    "import cli; sys.exit(cli.main())",
]


def test_all_processes_listen_on_loopback_alone(scheduler: Node, workers: list[Node]) -> None:
    told = subprocess.run(["ss", "-ltnp"], capture_output=True, text=True, check=True).stdout
    pids = [node.pid for node in (scheduler, *workers)]
    lines = {pid: [line for line in told.splitlines() if f"pid={pid}," in line] for pid in pids}
    places = {pid: [re.split(r"\s+", line)[3].rpartition(":")[0] for line in found] for pid, found in lines.items()}
    assert {pid: set(found) for pid, found in places.items()} == {pid: {"127.0.0.1"} for pid in pids}, told
    print(f"\n{sum(map(len, places.values()))} sockets, all on 127.0.0.1")


def test_a_worker_of_another_torch_is_refused_in_one_sentence(nodes: Nodes, scheduler: Node) -> None:
    stranger = nodes.worker(scheduler.address, None, program=OTHER_TORCH)
    assert stranger.process.wait(180) == 2
    assert "may not join" in stranger.told()
    assert "torch 9.9.9 here and" in stranger.told()
    assert "Traceback" not in stranger.told()


def test_a_worker_that_does_not_say_what_it_runs_is_sent_away(
    nodes: Nodes, scheduler: Node, workers: list[Node]
) -> None:
    from lib.cluster.dask_client import DaskCluster

    cluster = DaskCluster(Access(scheduler.address), 1.0)
    try:
        until(lambda: cluster.width == len(workers))
        command = [
            sys.executable,
            "-m",
            "distributed.cli.dask_worker",
            scheduler.address,
            "--no-nanny",
            "--nthreads",
            "1",
        ]
        local = ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0", "--local-directory", str(nodes.folder)]
        stock = subprocess.Popen([*command, *local], stderr=subprocess.PIPE, text=True)
        try:
            until(lambda: "is not taken" in scheduler.told())
            stock.wait(120)
        finally:
            stock.kill()
            stock.communicate()
        assert cluster.width == len(workers)
    finally:
        cluster.close()


def test_what_answers_as_another_program_is_no_cluster(tmp_path: Path) -> None:
    import socket

    from lib.cluster.dask_client import DaskCluster

    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(ClusterError, match="does not answer"):
        DaskCluster(Access(f"tcp://127.0.0.1:{other.getsockname()[1]}"), 1.0)


@pytest.mark.slow
def test_over_tls_only_who_has_a_good_certificate_of_the_authority_comes_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, studies: Path
) -> None:
    from lib.cluster.dask_client import DaskCluster

    make_certificates(tmp_path / "pki", ["server", "worker"], days=30)
    make_certificates(tmp_path / "others", ["server"], days=30)
    monkeypatch.setattr(certificates, "EARLIER", timedelta(days=60))
    make_certificates(tmp_path / "pki", ["expired"], days=-30)
    good, wrong = (files_of(tmp_path / folder, "server") for folder in ("pki", "others"))
    refused = {
        "of another authority": wrong,
        "of another authority, that trusts ours": {**wrong, "ca": good["ca"]},
        "expired": files_of(tmp_path / "pki", "expired"),
    }
    with Nodes(tmp_path / "own", good) as own:
        scheduler = own.scheduler()
        address = scheduler.address
        assert address.startswith("tls://127.0.0.1:")
        for name, files in refused.items():
            with pytest.raises(ClusterError, match="does not answer"):
                DaskCluster(Access(address, **files), 1.0)
            print(f"\n{name}: refused")
        with pytest.raises(ClusterError, match="does not answer"):
            DaskCluster(Access(address.replace("tls", "tcp")), 1.0)
        print("none: refused")
        with Nodes(tmp_path / "strangers", refused["expired"]) as strangers:
            stranger = strangers.worker(address, studies)
            until(lambda: "waiting for the scheduler" in stranger.told())
            worker = own.worker(address, studies)
            assert worker.address.startswith("tls://")
            cluster = DaskCluster(Access(address, **files_of(tmp_path / "pki", "worker")), 1.0)
            try:
                assert cluster.width == 1
            finally:
                cluster.close()
            assert stranger.lines == []


def files_of(folder: Path, name: str) -> dict[str, Path]:
    return {"ca": certificate_file(folder, "ca"), "cert": certificate_file(folder, name), "key": key_file(folder, name)}
