"""One request answered: a volume and clicks in, a label map on the volume's own grid out.

Nothing about a user is kept: every request brings all its clicks, so removing one and asking again is undo. What is
kept is what clicks do not change: the embedding of each patch, in a bounded cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lib.boxes import Box, grown, hull
from lib.errors import WeightsError
from lib.images.volumes import Volume
from lib.interactive.chain import ChainedObjects
from lib.interactive.contract import FARTHEST_SIGHT, honour_clicks
from lib.interactive.growing import GrowingObjects
from lib.interactive.label_maps import NOWHERE, nearest_logit_wins, placed, voxels_inside, within
from lib.interactive.patch_network import NO_LABELS, NO_POINTS, PatchNetwork
from lib.interactive.patches import grids_over, spacings, tapered
from lib.interactive.prompts import ClickRequest
from lib.interactive.report import Report
from lib.network.devices import device_named
from lib.network.fast.choice import for_clicks
from lib.network.sam3d import Sam3D
from lib.network.weights import Card
from lib.settings import Settings
from lib.weights.checkpoints import open_network

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Segmentation:
    """The answer: label_map (I, J, K) uint8, 0 or a label's position in the settings' labels from 1; and how it
    came. Outside of `box` nobody need look: a map of a large volume is hardly ever touched as a whole."""

    label_map: NDArray[np.uint8]
    # The smallest one that holds every labelled voxel.
    box: Box
    report: Report


class Predictor:
    """A network with its card and what it keeps of patches; safe to call from several threads."""

    def __init__(self, network: Sam3D, card: Card, settings: Settings, device: torch.device | None = None) -> None:
        self.card = card
        self.settings = settings
        self._network = PatchNetwork(network, card, settings, device or device_named(settings.device))
        self._objects: ChainedObjects | GrowingObjects = (
            ChainedObjects(self._network)
            if card.network.has_prior
            else GrowingObjects(self._network, settings.clicks.max_patches)
        )

    @property
    def device(self) -> torch.device:
        return self._network.device

    @property
    def is_trained(self) -> bool:
        """Whether adapters and decoder were ever trained; without that the answers mean nothing."""
        return self.card.is_trained

    def segment(self, volume: Volume, request: ClickRequest) -> Segmentation:
        """Answer clicks. Whatever the weights say, the click contract holds (lib.interactive.contract)."""
        self._check_trained()
        report = self._report(volume, request)
        found: list[tuple[int, Box, Floats]] = []
        for value, name in enumerate(self.settings.labels, start=1):
            if name in request.prompts:
                box, margin = self._objects.segment(volume, request.prompts[name], name, report)
                if margin.size:
                    found.append((value, box, margin))
        box = _box_around([box for _, box, _ in found], volume)
        with report.timed("paste"):
            label_map = nearest_logit_wins(found, box)
            if request.roi is not None:
                label_map = within(label_map, box, request.roi)
        with report.timed("contract"):
            clicks = {value: request.prompts[self.settings.labels[value - 1]].foreground for value, _, _ in found}
            corner = np.array([edge.start for edge in box])
            label_map, report.n_corrected_clicks = honour_clicks(
                label_map,
                {value: points - corner for value, points in clicks.items()},
                voxels_inside(request.background, box) - corner,
                volume.array[box],
                volume.spacing,
                self.settings.clicks.correction_radius_mm,
            )
        with report.timed("paste"):
            return Segmentation(*placed(label_map, box, volume.shape), report)

    def segment_automatically(self, volume: Volume) -> Segmentation:
        """The network's own guess for the first label, without any click: every patch of the volume, blended."""
        self._check_trained()
        report = self._report(volume, None)
        total = np.zeros(volume.shape, np.float32)
        # A volume finer than the weights' spacing is seen from as far as its own size asks for.
        spacing_mm = min(self.card.spacing_mm, spacings(volume, self.card)[0])
        for grid in grids_over(volume, self._network.patch_size, spacing_mm):
            report.patches.append(grid)
            embedding = self._network.encode(volume, grid, report, is_kept=False)
            margin = self._network.decode(embedding, grid, NO_POINTS, NO_LABELS, report)
            with report.timed("paste"):
                # Weights are positive, so the blended margin is positive exactly where this sum is.
                box, weighted, _ = tapered(grid, margin, volume)
                total[box] += weighted
        i, j, k = (slice(0, n) for n in volume.shape)
        return Segmentation(*placed((total > 0).astype(np.uint8), (i, j, k), volume.shape), report)

    def warm_up(self) -> None:
        """Answer one click on nothing, so that the first user does not wait for whatever is made at first use."""
        self._network.warm_up()

    def _report(self, volume: Volume, request: ClickRequest | None) -> Report:
        notes = [*volume.notes, *self._network.intensity(volume)[1], *(request.notes if request else ())]
        return Report(notes=notes, n_clicks=request.n_clicks if request else 0, weights_version=self.card.version)

    def _check_trained(self) -> None:
        if not self.is_trained:
            raise WeightsError(
                "these weights are SAM's own, with adapters and decoder that were never trained: train them first "
                "(Update Model), or start the server without sam_checkpoint to use the demo model"
            )


def load_predictor(settings: Settings) -> Predictor:
    """The predictor that the settings describe. Raises WeightsError when its weights cannot be used."""
    network, card = open_network(settings)
    device = device_named(settings.device)
    return Predictor(for_clicks(network.to(device).eval(), settings.precision, device), card, settings, device)


def _box_around(boxes: list[Box], volume: Volume) -> Box:
    """Where labels may be and all that the click contract looks at; without a label nothing at all."""
    if not boxes:
        return NOWHERE
    return grown(hull(boxes), FARTHEST_SIGHT, volume.shape)
