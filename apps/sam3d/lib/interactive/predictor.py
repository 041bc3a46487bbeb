"""One request answered: a volume and clicks in, a label map on the volume's own grid out.

Nothing about a user is kept: every request brings all its clicks, so removing one and asking again is undo. What is
kept is what clicks do not change: the embedding of each patch, in a bounded cache.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lib.boxes import Box, grown, hull
from lib.cache import ByteCache
from lib.errors import WeightsError
from lib.geometry import PatchGrid
from lib.images.preprocess import chosen_intensity, sample_patch
from lib.images.volumes import Volume
from lib.interactive.contract import FARTHEST_SIGHT, honour_clicks
from lib.interactive.embedding_folder import EmbeddingFolder
from lib.interactive.label_maps import NOWHERE, nearest_logit_wins, placed, voxels_inside, within
from lib.interactive.local_update import locally_updated
from lib.interactive.patches import blend, finest_that_holds, grids_over, is_covered, neighbours, opens_patch, tapered
from lib.interactive.prompts import ClickRequest, Prompt
from lib.interactive.zooms import most_agreed
from lib.network.devices import device_named
from lib.network.fast.choice import for_clicks
from lib.network.precision import operand_type
from lib.network.sam3d import Embedding, Sam3D
from lib.network.weights import Card
from lib.settings import Intensity, Settings
from lib.weights.checkpoints import open_network

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]

# Answers to the first so many clicks of a patch are kept, so that one more click is decoded once.
ANSWERS_MIB = 128
# Corrections are taken one after another. Of more than this many in a patch the first ones count together, half as many
# at a time, so that which ones they are does not change with every click.
LONGEST_CHAIN = 64
NO_POINTS = np.zeros((0, 3), np.float32)
NO_LABELS = np.zeros(0, np.int64)


@dataclass
class Report:
    """What was done for one request, for the reply and the log."""

    latencies_ms: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    n_clicks: int = 0
    n_patches: int = 0
    n_encoded: int = 0
    n_decoded: int = 0
    n_corrected_clicks: int = 0
    weights_version: str = ""

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Add the time of the enclosed lines to a step."""
        start = time.perf_counter()
        try:
            yield
        finally:
            elapsed = 1000 * (time.perf_counter() - start)
            self.latencies_ms[step] = round(self.latencies_ms.get(step, 0.0) + elapsed, 3)

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class Segmentation:
    """The answer: label_map (I, J, K) uint8, 0 or a label's position in the settings' labels from 1; and how it
    came. Outside of `box` nobody need look: a map of a large volume is hardly ever touched as a whole."""

    label_map: NDArray[np.uint8]
    # The smallest one that holds every labelled voxel.
    box: Box
    report: Report


class Predictor:
    """A network with its papers and its cache of embeddings; safe to call from several threads."""

    def __init__(self, network: Sam3D, card: Card, settings: Settings, device: torch.device | None = None) -> None:
        self.card = card
        self.settings = settings
        self.device = device or device_named(settings.device)
        self._network = network.to(self.device).eval()
        self._embeddings: ByteCache[Embedding] = ByteCache(settings.embedding_cache_mib * 2**20, lambda e: e.nbytes)
        self._answers: ByteCache[Floats] = ByteCache(ANSWERS_MIB * 2**20, lambda margin: margin.nbytes)
        self._zooms: ByteCache[int] = ByteCache(4096, lambda _: 1)
        self._folder = self._embedding_folder()
        self._intensities: ByteCache[tuple[Intensity, tuple[str, ...]]] = ByteCache(1024, lambda _: 1)

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
                box, margin = self._grown(volume, request.prompts[name], name, report)
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
        for grid in grids_over(volume, self._network.settings.patch_size, self.card.spacing_mm):
            embedding = self._embedding(volume, grid, report, is_kept=False)
            with report.timed("decode"):
                margin = self._decode(embedding, grid, NO_POINTS, NO_LABELS)
            with report.timed("paste"):
                # Weights are positive, so the blended margin is positive exactly where this sum is.
                box, weighted, _ = tapered(grid, margin, volume)
                total[box] += weighted
        report.n_patches = report.n_encoded
        i, j, k = (slice(0, n) for n in volume.shape)
        return Segmentation(*placed((total > 0).astype(np.uint8), (i, j, k), volume.shape), report)

    def warm_up(self) -> None:
        """Answer one click on nothing, so that the first user does not wait for whatever is made at first use."""
        size = self._network.settings.patch_size
        middle = torch.full((1, 1, 3), size // 2, dtype=torch.float32, device=self.device)
        with torch.inference_mode():
            embedding = self._network.encode(torch.zeros(1, 1, size, size, size, device=self.device))
            self._network.decode(embedding, middle, torch.ones(1, 1, device=self.device))

    def _report(self, volume: Volume, request: ClickRequest | None) -> Report:
        notes = [*volume.notes, *self._intensity(volume)[1], *(request.notes if request else ())]
        return Report(notes=notes, n_clicks=request.n_clicks if request else 0, weights_version=self.card.version)

    def _check_trained(self) -> None:
        if not self.is_trained:
            raise WeightsError(
                "these weights are SAM's own, with adapters and decoder that were never trained: train them first "
                "(Update Model), or start the server without sam_checkpoint to use the demo model"
            )

    def _grown(self, volume: Volume, prompt: Prompt, name: str, report: Report) -> tuple[Box, Floats]:
        """The object's margin over the background on a native box: the clicked patches, and on from those at the
        coarsest zoom to neighbouring ones as long as the object reaches a border and the settings allow."""
        seeds: list[PatchGrid] = []
        for click in prompt.foreground:
            if opens_patch(click, seeds):
                seeds.append(self._fitting(volume, click, report))
        opened: list[PatchGrid] = []
        parts: list[tuple[PatchGrid, Floats]] = []
        is_whole = True
        for seed in seeds:
            followed, has_ended = self._follow(volume, prompt, seed, opened, report)
            parts += followed
            is_whole &= has_ended
        if not is_whole:
            report.notes.append(
                f"{name} was followed over {len(parts)} patches and may go on: raise max_patches for more"
            )
        report.n_patches += len(parts)
        with report.timed("paste"):
            return blend(parts, volume, prompt.foreground)

    def _fitting(self, volume: Volume, click: NDArray[np.int64], report: Report) -> PatchGrid:
        """The patch around a click at the zoom that suits the object there: the one whose answer others agree with; of
        several such, the finest that the object ends in, or the coarsest. Corrections do not change it, for they would
        change the mask everywhere."""
        size = self._network.settings.patch_size
        grids = [PatchGrid.around(volume.affine, click, size, self.card.spacing_mm * zoom) for zoom in self.card.zooms]
        if len(grids) == 1:
            return grids[0]

        def choose() -> int:
            alone = Prompt(click[None], np.ones(1, np.int64))
            margins = [self._answer(volume, grid, alone, NO_POINTS, report) for grid in grids]
            agreed = most_agreed(margins, self.card.zooms)
            return agreed[finest_that_holds(((grids[number], margins[number]) for number in agreed), volume)]

        # A later click brings the first one along, and comparing zooms takes longer than all else around the network.
        return grids[self._zooms.get((volume.key, click.tobytes()), choose)]

    def _follow(
        self, volume: Volume, prompt: Prompt, seed: PatchGrid, opened: list[PatchGrid], report: Report
    ) -> tuple[list[tuple[PatchGrid, Floats]], bool]:
        """Follow the object from one clicked patch to its end, before the next one is looked at: so a later click far
        away changes nothing here. Adds to `opened`; returns the patches' margins and whether the end was reached.

        At a finer zoom than the coarsest, what reaches a border is not followed: more of the object could have been
        seen from farther away, and was agreed with less, so it is a leak more often than not.
        """
        parts = []
        has_ended = True
        may_go_on = seed.spacing_mm >= self.card.spacing_mm * self.card.zooms[-1]
        opened.append(seed)
        queue = deque([(seed, NO_POINTS)])
        while queue:
            grid, pseudo_clicks = queue.popleft()
            margin = self._answer(volume, grid, prompt, pseudo_clicks, report)
            parts.append((grid, margin))
            near_by = neighbours(grid, margin, volume) if may_go_on else []
            news = [(near, clicks) for near, clicks in near_by if not is_covered(near, opened)]
            room = max(0, self.settings.clicks.max_patches - len(opened))
            has_ended &= len(news) <= room
            opened += [near for near, _ in news[:room]]
            queue += news[:room]
        return parts, has_ended

    def _answer(self, volume: Volume, grid: PatchGrid, prompt: Prompt, pseudo_clicks: Floats, report: Report) -> Floats:
        """The object's margin (P, P, P) in one patch after all its clicks."""
        points, labels, n_pseudo = self._points(grid, prompt, pseudo_clicks)
        # Weights that were never trained to correct an answer get all clicks at once, as they were published.
        n_together = (
            max(1, n_pseudo, _counted_together(len(points))) if self.card.has_background_clicks else len(points)
        )

        def answer(count: int) -> Floats:
            clicked = points[:count].tobytes(), labels[:count].tobytes(), min(count, n_together)
            return self._answers.get((volume.key, grid.key, *clicked), lambda: make(count))

        def make(count: int) -> Floats:
            embedding = self._embedding(volume, grid, report)
            report.n_decoded += 1
            with report.timed("decode"):
                margin = self._decode(embedding, grid, points[:count], labels[:count])
            if count <= n_together:
                return margin
            before = answer(count - 1)
            click = grid.indices(points[count - 1 : count])[0]
            return locally_updated(before, margin, click, bool(labels[count - 1]))

        return answer(len(points))

    def _points(self, grid: PatchGrid, prompt: Prompt, pseudo_clicks: Floats) -> tuple[Floats, Labels, int]:
        """The user's clicks inside the patch, native (N, 3), with their labels; where none is foreground, pseudo-clicks
        before them, and how many."""
        inside = grid.contains(prompt.point_coords)
        if not self.card.has_background_clicks:
            inside &= prompt.point_labels == 1
        points = prompt.point_coords[inside].astype(np.float32)
        labels = prompt.point_labels[inside]
        if (labels == 1).any():
            return points, labels, 0
        labels = np.concatenate([np.ones(len(pseudo_clicks), np.int64), labels])
        return np.concatenate([pseudo_clicks, points]), labels, len(pseudo_clicks)

    def _embedding(self, volume: Volume, grid: PatchGrid, report: Report, is_kept: bool = True) -> Embedding:
        def make() -> Embedding:
            with report.timed("sample"):
                patch = sample_patch(volume, grid, self._intensity(volume)[0], self.card.has_antialiasing)
            report.n_encoded += 1
            with report.timed("encode"), torch.inference_mode():
                return self._network.encode(torch.from_numpy(patch).to(self.device)[None, None])

        if not is_kept:
            return make()
        key, folder = (volume.key, grid.key), self._folder
        return self._embeddings.get(key, (lambda: folder.get(key, make)) if folder else make)

    def _embedding_folder(self) -> EmbeddingFolder | None:
        """On disk, where the settings allow: whatever changes an embedding is part of its owner's name."""
        if not self.settings.embedding_disk_mib:
            return None
        precision = operand_type(self.settings.precision, self.device)
        owner = json.dumps([self.card.as_json(), self.settings.intensity is not None, str(precision), self.device.type])
        folder = self.settings.model_folder / "embeddings"
        return EmbeddingFolder(folder, self.settings.embedding_disk_mib * 2**20, owner)

    def _intensity(self, volume: Volume) -> tuple[Intensity, tuple[str, ...]]:
        """The numbers to normalise the volume with, and a note where they are not those that the weights' card says."""

        is_named = self.settings.intensity is not None
        return self._intensities.get(volume.key, lambda: chosen_intensity(volume, self.card.intensity, is_named))

    @torch.inference_mode()
    def _decode(self, embedding: Embedding, grid: PatchGrid, points: Floats, labels: Labels) -> Floats:
        """How much the object's logit exceeds the background's, (P, P, P)."""
        coords = torch.from_numpy(grid.indices(points).astype(np.float32)).to(self.device)[None]
        kinds = torch.from_numpy(labels.astype(np.float32)).to(self.device)[None]
        logits = self._network.decode(embedding, coords, kinds)[0].float()
        margin: Floats = (logits[1] - logits[0]).cpu().numpy()
        return margin


def _counted_together(n_clicks: int) -> int:
    """How many of the first clicks in a patch count together, so that no more than LONGEST_CHAIN follow one by one."""
    block = LONGEST_CHAIN // 2
    return block * ceil(max(0, n_clicks - LONGEST_CHAIN) / block)


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
