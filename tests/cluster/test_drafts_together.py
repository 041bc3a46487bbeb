"""Drafts over two workers: the masks of one process, never over a final label, and none made twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from conftest import N_IMAGES, NAMES, settings_at
from lib.cluster import dask_client, link
from lib.configs.sam3d import Sam3DConfig
from lib.datastore.versioned import VersionedDatastore
from nodes import Node, Nodes
from serving import write_study


class Labelling:
    """A server's drafts without the server, in a folder of studies of its own."""

    def __init__(self, folder: Path, images: Path, weights: Path, address: str = "", wait_s: float = 30.0) -> None:
        self.studies = folder / "studies"
        if not self.studies.exists():
            self.studies.mkdir(parents=True)
            for path in images.glob("*.nii.gz"):
                (self.studies / path.name).write_bytes(path.read_bytes())
        self.config = Sam3DConfig(settings_at(folder, weights, address, wait_s), str(self.studies))
        self.datastore = VersionedDatastore(str(self.studies), extensions=("*.nii.gz",))

    def make(self, meanwhile: Callable[[int, str], object] = lambda count, image: None) -> dict[str, Any]:
        replies = {}
        for image, reply in self.config.drafts().make(NAMES, self.datastore, "original"):
            replies[image] = reply
            meanwhile(len(replies), image)
        return replies

    def masks(self, tag: str = "original") -> dict[str, bytes]:
        files = (self.studies / "labels" / tag).glob("*.nii.gz")
        return {path.name: np.asarray(nibabel.load(path).dataobj).tobytes() for path in files}

    def finish(self, image: str) -> np.ndarray:
        """What an annotator stores meanwhile."""
        label = np.zeros((24, 22, 20), np.uint8)
        label[3:9, 4:8, 5:9] = 1
        path = self.studies.parent / "final.nii.gz"
        write_study(path, label)
        self.datastore.save_label(image, str(path), "final", {"params": {"label_names": {"lesion": 1}}})
        return label

    def close(self) -> None:
        self.config.link.close()
        self.datastore.close()


Make = Callable[..., Labelling]


@pytest.fixture
def labelling(tmp_path: Path, studies: Path, weights: Path) -> Iterator[Make]:
    made = list[Labelling]()

    def make(name: str, address: str = "", wait_s: float = 30.0) -> Labelling:
        made.append(Labelling(tmp_path / name, studies, weights, address, wait_s))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.mark.slow
def test_two_workers_draw_the_masks_of_one_process_and_never_over_a_final_label(
    labelling: Make, scheduler: Node, workers: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    together, early, late = labelling("together", scheduler.address), NAMES[3], NAMES[-1]
    kept, flying, submit = together.finish(early), NAMES[9], dask_client.DaskCluster.submit

    def finished_in_flight(self: Any, order: Any, *rest: Any) -> Any:
        """Its draft is on its way when somebody finishes it."""
        sent = submit(self, order, *rest)
        if order.image.path == f"{flying}.nii.gz":
            together.finish(flying)
        return sent

    monkeypatch.setattr(dask_client.DaskCluster, "submit", finished_in_flight)
    monkeypatch.setattr("lib.infers.sam3d_auto.Sam3DAutoInfer.__call__", _refuse)

    def somebody(count: int, image: str) -> None:
        if count == 2:
            together.finish(late)

    replies = together.make(somebody)
    labelled = (early, flying, late)
    assert {image for image, reply in replies.items() if "error" in reply} == set(labelled)
    assert all("has a final label" in replies[image]["error"] for image in labelled)
    monkeypatch.undo()
    alone = labelling("alone")
    assert set(alone.make()) == set(NAMES)
    masks, others = together.masks(), alone.masks()
    assert len(masks) == N_IMAGES - 3
    assert masks == {name: mask for name, mask in others.items() if name in masks}
    assert any(np.frombuffer(mask, np.uint8).any() for mask in masks.values())
    assert together.masks("final") == {f"{image}.nii.gz": kept.tobytes() for image in labelled}
    print(f"\n{len(masks)} masks equal to one process's, 3 final labels untouched")


def _refuse(*_: object) -> None:
    raise AssertionError("a draft was made here")


@pytest.mark.slow
def test_who_asks_again_goes_on_with_what_is_missing(
    labelling: Make, scheduler: Node, workers: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def die(count: int, image: str) -> None:
        if count == 7:
            raise Killed

    with pytest.raises(Killed):
        labelling("server", scheduler.address).make(die)
    again = labelling("server", scheduler.address)
    done = set(again.masks())
    assert len(done) == 7
    sent, submit = list[str](), dask_client.DaskCluster.submit

    def counted(self: Any, order: Any, *rest: Any) -> Any:
        sent.append(order.image.path)
        return submit(self, order, *rest)

    monkeypatch.setattr(dask_client.DaskCluster, "submit", counted)
    replies = again.make()
    assert len(again.masks()) == N_IMAGES
    assert sorted(sent) == sorted({f"{name}.nii.gz" for name in NAMES} - done)
    assert sum("has this draft already" in reply.get("error", "") for reply in replies.values()) == 7
    versions = [again.datastore.stored_label(name, tag="original")[1].number for name in NAMES]
    assert versions == [1] * N_IMAGES


@pytest.mark.slow
def test_drafts_end_here_when_the_scheduler_dies(
    labelling: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Nodes(tmp_path / "own") as own:
        scheduler = own.scheduler()
        made = labelling("server", scheduler.address, wait_s=1.0)
        assert own.worker(scheduler.address, made.studies).address
        monkeypatch.setattr(link, "RETRY_S", 0.2)
        replies = made.make(lambda count, image: scheduler.kill() if count == 5 else None)
    assert all(reply.get("tag") == "original" for reply in replies.values()), replies
    assert len(made.masks()) == N_IMAGES
    assert not [path for path in made.studies.rglob("*") if path.name.startswith(".") and path.suffix == ".gz"]
