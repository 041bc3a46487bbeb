"""Training over several machines, each of which is a torchrun of one process on this one, with the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.multiprocessing.spawn import ProcessRaisedException

from lib.demo import free_port
from lib.learning import distributed
from lib.learning.distributed import Team, joined, run_together, torchrun_team
from network.test_pretraining import trained

APP = Path(__file__).parents[2] / "apps" / "sam3d"
LIMIT_S = 300


def torchrun(machines: int, processes: int, port: int, folder: Path, out: Path) -> subprocess.Popen[bytes]:
    """One machine's torchrun of a pretraining of two steps; each process on a thread of its own."""
    meeting = ["--nnodes", str(machines), "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}"]
    launcher = ["--nproc-per-node", str(processes), *meeting, "--rdzv-id", "test", "--local-addr", "127.0.0.1"]
    work = ["pretrain", "--synthetic", "--steps", "2", "--batch", "2", "--threads", "1", "--seed", "3"]
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            *launcher,
            APP / "cli.py",
            *work,
            "--folder",
            folder,
            "--out",
            out,
        ],
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def together(machines: int, processes: int, folder: Path) -> dict[str, torch.Tensor]:
    """The weights that so many machines with so many processes each come to."""
    port, out = free_port(0), folder / "weights.safetensors"
    runs = [torchrun(machines, processes, port, folder, out) for _ in range(machines)]
    try:
        said = [run.communicate(timeout=LIMIT_S)[1].decode() for run in runs]
    finally:
        for run in runs:
            run.terminate()  # it ends its processes, and knows nothing of one that has ended
            run.wait(60)
    assert [run.returncode for run in runs] == [0] * machines, said
    return load_file(out)


@pytest.mark.slow
def test_two_machines_come_to_the_weights_of_one(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one, two = together(1, 2, tmp_path / "one"), together(2, 1, tmp_path / "two")
    differing = [name for name, tensor in one.items() if not torch.equal(two[name], tensor)]
    print(f"two machines of one process, one of two: {len(differing)} of {len(one)} tensors differ")
    assert one.keys() == two.keys()
    assert not differing
    assert (tmp_path / "one" / "log.jsonl").read_text().count("\n") == 1


def fake_gpus(monkeypatch, count):
    """So many GPUs, and a process group that forms at once; returns what was chosen."""
    chosen = []

    def choose(index):
        if index >= count:
            raise RuntimeError("CUDA error: invalid device ordinal")
        chosen.append(index)

    monkeypatch.setattr(distributed.torch.cuda, "set_device", choose)
    monkeypatch.setattr(distributed.distributed, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(distributed.distributed, "destroy_process_group", lambda: None)
    return chosen


def test_on_the_second_machine_gpus_are_counted_from_0(monkeypatch):
    chosen = fake_gpus(monkeypatch, 2)
    teams = []
    for rank in range(4):
        for name, value in {"WORLD_SIZE": 4, "RANK": rank, "LOCAL_RANK": rank % 2}.items():
            monkeypatch.setenv(name, str(value))
        with torchrun_team("cuda") as team:
            teams.append(team)
    assert chosen == [0, 1, 0, 1]
    assert teams == [Team(4, 0, 0), Team(4, 1, 1), Team(4, 2, 0), Team(4, 3, 1)]


def test_a_team_of_this_machine_does_not_heed_the_launcher_of_another_one(monkeypatch):
    chosen = fake_gpus(monkeypatch, 2)
    monkeypatch.setenv("LOCAL_RANK", "7")
    with joined(Team(2, 1, 1), "nccl", "file:///meeting"):
        pass
    assert chosen == [1]


def with_folders_of_their_own(team, folder):
    torch.set_num_threads(1)
    trained(folder / str(team.rank), team=team)


@pytest.mark.slow
def test_machines_that_would_not_begin_alike_are_refused(tmp_path):
    trained(tmp_path / "0")  # the leader's folder, which the other does not see
    with pytest.raises(
        ProcessRaisedException, match=r"do not begin alike \(process 0: step 4, .*; process 1: step 0, "
    ):
        run_together(2, "gloo", with_folders_of_their_own, tmp_path)
