"""A worker's side: an order comes in as text, and plain values go out. Work is one of a few names that are known here.

An error that a user can understand is a `Failure` with its sentence; anything else is a fault of ours, and reaches the
one who sent the order as what it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lib.cluster.orders import Failure, ImageReference, Order, Outcome
from lib.cluster.travelling import Networks
from lib.errors import ClusterError, GeometryError, LabelError, PromptError, Sam3DError, VolumeError
from lib.images.volumes import Volume, open_volume
from lib.interactive.predictor import Predictor
from lib.network.sam3d import Sam3D
from lib.network.weights import Card
from lib.settings import Settings

logger = logging.getLogger(__name__)

# The fault of the image, which is the same on every machine.
LASTING = (VolumeError, GeometryError, LabelError, PromptError)


@dataclass
class Place:
    """What a worker has: a device, a folder of studies or none, a way to read series of archives, and the server's
    model folder, if it may train for it."""

    device: str = "cpu"
    root: Path | None = None
    open_series: Callable[[ImageReference, int], Volume] | None = None
    model_folder: Path | None = None
    networks: Networks = field(default_factory=Networks)

    def open(self, image: ImageReference, limit_bytes: int) -> Volume:
        """The volume that a reference names, of at most `limit_bytes`. ClusterError where this worker cannot have it,
        VolumeError where nobody can."""
        if image.series:
            if self.open_series is None:
                raise ClusterError(f"this worker knows no way to archives, and cannot open {image}")
            return self.open_series(image, limit_bytes)
        return open_volume(self.path_of(image.path), limit_bytes)

    def path_of(self, below_root: str) -> Path:
        """A file or folder that an order names below the folder of studies; ClusterError where it is not there."""
        if self.root is None:
            raise ClusterError(f"this worker has no folder of studies, and cannot open {below_root}: give it --root")
        path = self.root / ImageReference(path=below_root).path
        if not path.exists():
            raise ClusterError(f"there is no {below_root} below this worker's --root: name the folder that is served")
        return path


@dataclass(frozen=True)
class Task:
    """An order as its work gets it: with what the worker has, and the weights that came along."""

    order: Order
    place: Place
    digest: str
    data: bytes

    def volume(self) -> Volume:
        """The order's image; its settings bound its memory (`limit_mib`)."""
        assert self.order.image is not None, "this work is about an image"
        return self.place.open(self.order.image, int(self.order.settings["limit_mib"]) * 2**20)

    def network(self) -> tuple[Sam3D, Card]:
        """The network of the weights, in the order's `precision`."""
        precision = str(self.order.settings["precision"])
        return self.place.networks.get(self.digest, self.data, precision, self.place.device)

    def predictor(self, settings: Settings) -> Predictor:
        """One that keeps no patches, for none is asked about twice."""
        network, card = self.network()
        return Predictor(network, card, settings, torch.device(self.place.device))


Work = Callable[[Task], Outcome]

_works: Mapping[str, Work] = {}
_place = Place()


def take_orders(works: Mapping[str, Work], place: Place) -> None:
    """What this process can be asked for from now on, and what it has."""
    global _works, _place
    _works, _place = works, place


def done(text: str, digest: str = "", data: bytes = b"") -> Outcome:
    """What an order comes to, with the weights of that digest."""
    order = Order.from_text(text)
    work = _works.get(order.work)
    if work is None:
        return Failure(f"there is no work {order.work[:80]!r} here: it is one of {sorted(_works)}")
    try:
        return work(Task(order, _place, digest, data))
    except Sam3DError as error:
        logger.warning("%s of %s: %s", order.work, order.image, error)
        return Failure(str(error), isinstance(error, LASTING))
    except (OSError, MemoryError, torch.OutOfMemoryError) as error:
        logger.warning("%s of %s: %s", order.work, order.image, type(error).__name__)
        return Failure(f"a worker ended {order.work} of {order.image} with {type(error).__name__}: {error}"[:300])
