"""Next Sample, scores and drafts, asked of a running server as clients ask."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import nibabel
import numpy as np
import pytest

from serving import Server, write_study

pytestmark = [pytest.mark.app, pytest.mark.slow]

NAMES = ["case_a", "case_b", "case_c"]
SHAPE = (40, 36, 32)
LIMIT_S = 240.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("studies")
    where = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), axis=-1)
    for seed, name in enumerate(NAMES):
        array = np.random.default_rng(seed).normal(40, 12, SHAPE)
        array[np.linalg.norm(where - (18, 17, 15), axis=-1) < 6 + seed] += 120
        array[0] = -1000
        write_study(folder / f"{name}.nii.gz", array.astype(np.int16), np.diag([1.5, 1.5, 1.5, 1]))
    conf = {"labels": "lesion", "score_share": "1.0", "model_folder": str(folder.with_name("model"))}
    with Server(tmp_path_factory.mktemp("server"), folder, conf) as running:
        yield running


def post(server: Server, path: str, body: Any = None, **query: str) -> Any:
    return server.http.post(f"{server.url}{path}", json=body or {}, params=query, timeout=LIMIT_S)


def info_once(server: Server, holds: Any) -> dict[str, Any]:
    """/info/ as soon as something holds of it."""
    limit = time.monotonic() + LIMIT_S
    while not holds(info := server.info()):
        assert time.monotonic() < limit, info["scoring"]
        time.sleep(0.1)
    return info


def test_all_images_are_scored_unasked_and_the_name_random_answers_by_their_scores(server: Server) -> None:
    info = info_once(server, lambda info: info["scoring"]["hybrid"]["scored"] == 3)
    assert info["scoring"]["hybrid"]["version"] == "base"
    assert len(list(server.studies.with_name("model").glob("scores/*/*/*.json"))) == 3
    sample = post(server, "/activelearning/random", {"client_id": "anna"}).json()
    assert sample["id"] in NAMES
    assert sample["reason"].startswith("expected ")
    again = post(server, "/activelearning/hybrid", {"client_id": "bert"}).json()
    assert again["id"] in set(NAMES) - {sample["id"]}
    assert server.info()["datastore"]["skipped"] == 0
    post(server, "/activelearning/hybrid", {"client_id": "bert"})
    assert server.info()["datastore"]["skipped"] == 1


def test_scores_that_are_asked_for_are_those_that_are_there(server: Server) -> None:
    info_once(server, lambda info: info["scoring"]["hybrid"]["scored"] == 3)
    result = post(server, "/scoring/uncertainty", run_sync="true").json()
    assert (result["scored"], result["total"], result["message"]) == (3, 3, "scored: 3 of 3 images by base")
    assert result["next"] in NAMES
    assert post(server, "/scoring/").json()["diversity"]["result"]["request"] == {"method": "diversity"}


def test_a_batch_makes_drafts_of_what_has_no_final_label(server: Server) -> None:
    label = np.zeros(SHAPE, np.uint8)
    label[16:21, 15:20, 13:18] = 1
    affine = nibabel.load(server.studies / "case_a.nii.gz").affine
    path = server.folder / "label.nii.gz"
    nibabel.save(nibabel.Nifti1Image(label, affine), path)
    stored = server.http.put(
        f"{server.url}/datastore/label",
        params={"image": "case_a", "tag": "final"},
        data={"params": json.dumps({"label_info": [{"name": "lesion", "idx": 1}]})},
        files={"label": (path.name, path.read_bytes())},
        timeout=LIMIT_S,
    )
    assert stored.ok
    refused = post(server, "/batch/infer/sam3d_auto", {"label_tag": "final"}, run_sync="true")
    assert refused.status_code == 422
    assert "'original'" in refused.json()["detail"]

    made = post(server, "/batch/infer/sam3d_auto", {"max_workers": 1}, images="all", run_sync="true").json()
    assert "has a final label" in made["case_a"]["error"]
    assert made["case_b"]["tag"] == made["case_c"]["tag"] == "original"
    labels = {tag: sorted(p.name for p in (server.studies / "labels" / tag).iterdir()) for tag in ("final", "original")}
    assert labels == {"final": ["case_a.nii.gz"], "original": ["case_b.nii.gz", "case_c.nii.gz"]}
    kept = nibabel.load(server.studies / "labels" / "final" / "case_a.nii.gz")
    assert np.array_equal(np.asarray(kept.dataobj), label)
    counts = server.info()["datastore"]
    assert (counts["labeled"], counts["pre-annotated"]) == (1, 2)
    assert counts["completed"] == 1
