"""Folders of studies as people have them, and labels as viewers save them: a bright ball in noise, on any grid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from serving import Server

SHAPE, CENTRE, SPACING = (64, 56, 40), (40, 20, 14), (1.0, 1.0, 1.5)
RADIUS_MM = 8.0
LIMIT_S = 60.0


def ball(shape: tuple[int, ...] = SHAPE, centre: tuple[int, ...] = CENTRE, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Voxels (I, J, K) int16, and the ball in them."""
    steps = [(axis - at) * size for axis, at, size in zip(np.indices(shape), centre, SPACING, strict=True)]
    truth = np.sqrt(sum(step**2 for step in steps)) < RADIUS_MM
    noise = np.random.default_rng(seed).normal(0, 10, shape)
    return (np.where(truth, 150, -50) + noise).astype(np.int16), truth


def placed(array: np.ndarray) -> Any:
    """An ITK image of an array (I, J, K), in a place of its own."""
    image = sitk.GetImageFromArray(array.T)
    image.SetSpacing(SPACING)
    image.SetOrigin((-30.0, -25.0, -20.0))
    return image


def write_image(path: Path, shape: tuple[int, ...] = SHAPE, centre: tuple[int, ...] = CENTRE, seed: int = 0) -> None:
    """An image in the format of its ending, which may be in capitals."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name.lower())
    sitk.WriteImage(placed(ball(shape, centre, seed)[0]), str(unfinished), useCompression=unfinished.suffix == ".mha")
    unfinished.rename(path)


def write_label(path: Path, shape: tuple[int, ...] = SHAPE, centre: tuple[int, ...] = CENTRE) -> Path:
    """The ball as a label on its image's grid; .seg.nrrd with the names that 3D Slicer writes."""
    image = placed(ball(shape, centre)[1].astype(np.uint8))
    if path.name.endswith(".seg.nrrd"):
        for key, value in (("Name", "lesion"), ("LabelValue", "1"), ("Layer", "0"), ("ID", "Segment_1")):
            image.SetMetaData(f"Segment0_{key}", value)
    sitk.WriteImage(image, str(path))
    return path


def submit(server: Server, image: str, label: Path, tag: str = "final", client: str = "ann") -> Any:
    """PUT a label as a viewer does; the response."""
    params = {"client_id": client, "label_info": [{"name": "lesion", "idx": 1}]}
    return server.http.put(
        f"{server.url}/datastore/label",
        params={"image": image, "tag": tag},
        files={"params": (None, json.dumps(params)), "label": (label.name, label.read_bytes())},
        timeout=LIMIT_S,
    )


def listed(server: Server) -> dict[str, Any]:
    """What the server lists, by id."""
    objects: dict[str, Any] = get(server, "/datastore/", output="all")["objects"]
    return objects


def trained_on(server: Server) -> dict[str, bytes]:
    """Content of the labels that training uses, by the names of the images below the studies' folder."""
    root = Path(server.studies).resolve()
    cases = get(server, "/datastore/", output="train")
    return {Path(each["image"]).relative_to(root).as_posix(): Path(each["label"]).read_bytes() for each in cases}


def next_sample(server: Server, client: str = "ann") -> Any:
    """The answer of Next Sample, as it came."""
    return server.http.post(f"{server.url}/activelearning/random", json={"client_id": client}, timeout=LIMIT_S)


def get(server: Server, path: str, **query: str) -> Any:
    """The JSON of an answer."""
    return server.http.get(f"{server.url}{path}", params=query, timeout=LIMIT_S).json()
