"""A MONAI Label server with a cluster: scores and drafts by its routes, and clicks when the cluster dies."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from conftest import N_IMAGES, NAMES
from nodes import Nodes, until
from serving import Server

LIMIT_S = 300.0


@pytest.mark.app
@pytest.mark.slow
def test_a_server_shares_out_scores_and_drafts_and_answers_clicks_without_its_cluster(
    tmp_path: Path, studies: Path, weights: Path
) -> None:
    own_studies = tmp_path / "studies"
    shutil.copytree(studies, own_studies)
    with Nodes(tmp_path / "own") as own:
        scheduler = own.scheduler()
        assert own.worker(scheduler.address, own_studies).address
        conf = {
            "labels": "lesion",
            "checkpoint": str(weights),
            "model_folder": str(tmp_path / "model"),
            "cluster": scheduler.address,
            "cluster_wait_s": "1",
            "score_share": "0",  # so that this server scores nothing itself
        }
        with Server(tmp_path / "server", own_studies, conf) as server:
            until(lambda: server.info()["scoring"]["hybrid"]["scored"] == N_IMAGES, LIMIT_S)
            told = server.http.get(f"{server.url}/scoring/progress", timeout=60).json()
            assert (told["scored"], told["total"], told["unscored"]) == (N_IMAGES, N_IMAGES, [])
            assert f"the cluster {scheduler.address} is there" in server.log.read_text()
            url = f"{server.url}/batch/infer/sam3d_auto"
            asked = {"params": {"run_sync": "true"}, "json": {"images": NAMES[:5]}, "timeout": LIMIT_S}
            made = server.http.post(url, **asked).json()
            assert made == {name: {"label": name, "tag": "original"} for name in NAMES[:5]}
            again = server.http.post(url, **asked).json()
            assert all("has this draft already" in reply["error"] for reply in again.values())
            scheduler.kill()
            assert server.infer({"lesion": [[9, 9, 9]]}, image=NAMES[0]).status == 200
            asked["json"] = {"images": NAMES[5:7]}
            assert set(server.http.post(url, **asked).json()[NAMES[5]]) == {"label", "tag"}
            assert "the cluster is given up" in server.log.read_text()
    labels = sorted(path.name for path in (own_studies / "labels" / "original").iterdir())
    assert labels == [f"{name}.nii.gz" for name in NAMES[:7]]
