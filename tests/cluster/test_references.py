"""Images by reference: a series of an archive, on a worker that has no folder of studies."""

from __future__ import annotations

from pathlib import Path

import pytest

from archives import DemoArchive
from conftest import settings_at
from lib.activelearning.background import BackgroundScoring, known_pool
from lib.cluster.link import Link
from lib.demo import free_port
from lib.images.dicom_writing import SeriesInfo
from lib.infers.model import SharedPredictor
from lib.scoring.store import ScoreStore
from nodes import Nodes
from studies_in_archive import datastore_at, write_image
from unit.test_dicom_writing import affine_of


@pytest.mark.slow
def test_a_series_is_scored_by_a_worker_without_a_folder_as_it_is_here(
    tmp_path: Path, nodes: Nodes, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    infos = [SeriesInfo(f"P-{number}", f"Doe^{number}") for number in range(3)]
    for number, info in enumerate(infos):
        write_image(tmp_path / "files", info, affine_of("LPS"), (24, 22, 20), number)
    found = {}
    with DemoArchive(tmp_path / "files", free_port(0)) as archive, Nodes(tmp_path / "own") as own:
        scheduler = own.scheduler()
        for place, address in {"there": scheduler.address, "here": ""}.items():
            if address:
                assert own.worker(address).address  # without --root
            datastore = datastore_at(archive.url, tmp_path / place / "cache", monkeypatch)
            settings = settings_at(tmp_path / place, weights, address)
            store, link = ScoreStore(tmp_path / place / "scores"), Link(settings.cluster)
            try:
                scoring = BackgroundScoring(SharedPredictor(settings), store, known_pool(store), link)
                progress = scoring.run(datastore)
                assert (progress.scored, progress.total, progress.problems) == (3, 3, {})
                # The server fetched a series for itself only where it scored itself.
                assert len(datastore.at_hand()) == (0 if address else 3)
            finally:
                link.close()
                datastore.close()
            found[place] = {image: replaced(score) for image, score in store.all().items()}
    assert found["there"] == found["here"]
    assert len(found["there"]) == 3


def replaced(score: object) -> tuple[object, ...]:
    return (score.key, score.version, score.features, score.disagreement, score.expected_clicks)
