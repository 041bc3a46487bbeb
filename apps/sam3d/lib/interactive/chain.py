"""One click on anything: a chain of patches around it, coarse to fine, each starting from the mask of the one before.

The coarsest patch covers the volume, up to 512 mm; each next one has half its spacing, down to the volume's own voxels.
Nothing is chosen and no absolute size matters. A later click is answered by one patch as wide as its error, with the
mask so far as what it starts from (docs/decisions/0022).
"""

from __future__ import annotations

from math import log2

import numpy as np
from numpy.typing import NDArray

from lib.boxes import Box, bounding_box
from lib.cache import ByteCache
from lib.geometry import PatchGrid
from lib.images.volumes import Volume
from lib.interactive.answers import Answer
from lib.interactive.drawn import MOST_STROKES, middle_voxel
from lib.interactive.label_maps import NOWHERE
from lib.interactive.many_clicks import counted_together
from lib.interactive.patch_network import PatchNetwork
from lib.interactive.patches import reaches_border, spacings
from lib.interactive.priors import (
    FADE,
    FULL_DEPTHS,
    LEAST_DEPTH,
    WIDTH_DEPTHS,
    Layer,
    as_prior,
    ball_weights,
    composed,
    rim_weights,
)
from lib.interactive.prompts import Prompt
from lib.interactive.report import Report

Floats = NDArray[np.float32]
Points = NDArray[np.int64]

ANSWERS_MIB = 256
# An object of fewer samples along its longest side is looked at from nearer than its voxels, and from there again.
SMALL_SAMPLES = 20
# The finest patches have samples this share of the finest voxels apart.
FINEST = 0.25
# A patch for a correction has one of so many spacings an octave, so that most are met again.
STEPS_PER_OCTAVE = 2
# Of a patch's side: so far beyond its border an object does not go on for long.
NEXT_TO_NOTHING = 0.1
# Where the mask so far is at least this sure all over a patch, the patch has nothing to say.
SURE = 1.0


class ChainedObjects:
    """Objects by chains of patches, for networks that read the mask so far."""

    def __init__(self, network: PatchNetwork) -> None:
        self._network = network
        self._answers: ByteCache[Answer] = ByteCache(ANSWERS_MIB * 2**20, lambda answer: answer.nbytes)

    def segment(self, volume: Volume, prompt: Prompt, name: str, report: Report) -> tuple[Box, Floats]:
        """The object's margin over the background on a native box."""
        answer = self._clicked(volume, prompt, report)
        if prompt.drawn is not None:
            answer = self._stroked(volume, answer, prompt, report)
        if answer is None:  # only background clicks and erasures: there is nothing to take away from
            return NOWHERE, np.zeros((0, 0, 0), np.float32)
        return answer.box, answer.margin

    def _clicked(self, volume: Volume, prompt: Prompt, report: Report) -> Answer | None:
        """Clicks count in their order, the object's first, then what is none of it; from the mask so far where one was
        drawn. None without a mask and a foreground click."""
        points, labels, drawn = prompt.point_coords, prompt.point_labels, prompt.drawn
        start = Answer.of_mask(drawn.box, drawn.mask) if drawn is not None and drawn.mask.any() else None
        if start is None and not (labels == 1).any():
            return None
        n_together = max(1, counted_together(len(points)))
        source = drawn.key if drawn is not None and start is not None else ""

        def answer(count: int) -> Answer:
            key = volume.key, source, points[:count].tobytes(), labels[:count].tobytes(), min(count, n_together)
            return self._answers.get(key, lambda: make(count))

        def make(count: int) -> Answer:
            clicks = _Clicks(points[:count], labels[:count])
            if start is None:
                first = count <= n_together
                return (
                    self._first(volume, clicks, report)
                    if first
                    else self._corrected(volume, answer(count - 1), clicks, report)
                )
            return self._corrected(volume, answer(count - 1), clicks, report) if count else start

        return answer(len(points))

    def _stroked(self, volume: Volume, answer: Answer | None, prompt: Prompt, report: Report) -> Answer | None:
        """Each stroke is a prompt: what lies about it is answered anew, and it stays itself as it is painted."""
        assert prompt.drawn is not None
        clicks = _Clicks(prompt.point_coords, prompt.point_labels)
        for number, (voxels, is_object) in enumerate(prompt.drawn.separate_strokes()):
            if answer is None and not is_object:
                continue  # there is nothing to take away from
            if number < MOST_STROKES:
                answer = self._answer_stroke(volume, answer, clicks, voxels, is_object, report)
            if answer is not None:
                answer = answer.painted(voxels, is_object)
        return answer

    def _answer_stroke(
        self,
        volume: Volume,
        before: Answer | None,
        clicks: _Clicks,
        voxels: Points,
        is_object: bool,
        report: Report,
    ) -> Answer:
        told = clicks.first(middle_voxel(voxels, volume.spacing)[None], is_object)
        if before is None or not (before.margin > 0).any():
            return self._first(volume, told, report)
        wrong = np.array([(before.at(voxel) > 0) != is_object for voxel in voxels])
        if not wrong.any():
            return before
        middle = middle_voxel(voxels[wrong], volume.spacing)
        depth_mm = before.depth_mm(middle, is_object, volume.spacing)
        reach_mm = float(np.linalg.norm((voxels[wrong] - middle) * volume.spacing, axis=1).max())
        return self._answer_near(volume, before, middle, max(depth_mm, reach_mm / 4), told, report)

    def _first(self, volume: Volume, clicks: _Clicks, report: Report) -> Answer:
        """Down the whole chain around the first of the clicks, which is one on the object."""
        size, click = self._network.patch_size, clicks.points[0]
        coarsest_mm, *steps = spacings(volume, self._network.card)
        layers = self._begin(volume, coarsest_mm, clicks, report)
        while steps or _is_nearer_better(layers[-1], volume):
            spacing_mm = steps.pop(0) if steps else layers[-1].grid.spacing_mm / 2
            grid = PatchGrid.around(volume.affine, click, size, spacing_mm)
            before = composed(layers, grid)
            if before.min() > SURE:
                break
            layers.append(Layer(grid, self._ask(volume, grid, clicks, before, report), rim_weights(size)))
        with report.timed("paste"):
            return Answer.of_layers(layers, volume.shape, clicks.points[:1])

    def _begin(self, volume: Volume, spacing_mm: float, clicks: _Clicks, report: Report) -> list[Layer]:
        """What a chain begins with: a patch of that spacing, and below it a wider one where the object goes on."""
        size, click = self._network.patch_size, clicks.points[0]
        nothing, everywhere = np.zeros((size,) * 3, np.float32), np.ones((size,) * 3, np.float32)
        grid, wider = (PatchGrid.around(volume.affine, click, size, mm) for mm in (spacing_mm, 2 * spacing_mm))
        margin = self._ask(volume, grid, clicks, nothing, report)
        if _holds_volume(grid, volume) or not reaches_border(grid, margin, volume):
            return [Layer(grid, margin, everywhere)]
        beyond = self._ask(volume, wider, clicks, nothing, report)
        return [Layer(wider, beyond, everywhere), Layer(grid, margin, rim_weights(size))]

    def _corrected(self, volume: Volume, before: Answer, clicks: _Clicks, report: Report) -> Answer:
        """The last click counts near itself, as far as what it corrects is deep."""
        click, is_object = clicks.points[-1], bool(clicks.labels[-1])
        if (before.at(click) > 0) == is_object:
            return before
        depth_mm = before.depth_mm(click, is_object, volume.spacing)
        if is_object and before.is_far_from(click, volume.spacing):
            # A part of its own, such as another of many lesions with one label: clicks on the others would mislead.
            return before.joined(self._first(volume, clicks.background().first(click[None], is_object=True), report))
        return self._answer_near(volume, before, click, depth_mm, clicks, report)

    def _answer_near(
        self, volume: Volume, before: Answer, centre: Points, depth_mm: float, clicks: _Clicks, report: Report
    ) -> Answer:
        """One patch as wide as an error that is so deep; it counts near its centre (3,)."""
        size, chain = self._network.patch_size, spacings(volume, self._network.card)
        wanted = _stepped(WIDTH_DEPTHS * depth_mm / size)
        spacing_mm = float(np.clip(wanted, FINEST * chain[-1], chain[0]))
        grid = PatchGrid.around(volume.affine, centre, size, spacing_mm)
        margin = self._ask(volume, grid, clicks, before.sampled(grid), report)
        radius = FULL_DEPTHS * max(depth_mm / spacing_mm, LEAST_DEPTH)
        weight = ball_weights(size, np.full(3, size // 2), min(radius, size / 2 / FADE)) * rim_weights(size)
        with report.timed("paste"):
            return before.with_layer(Layer(grid, margin, weight), volume.shape)

    def _ask(self, volume: Volume, grid: PatchGrid, clicks: _Clicks, before: Floats, report: Report) -> Floats:
        """The network's margin (P, P, P) in a patch, with the clicks inside it and the margin so far."""
        inside = grid.contains(clicks.points)
        embedding = self._network.encode(volume, grid, report)
        report.patches.append(grid)
        points = clicks.points[inside].astype(np.float32)
        return self._network.decode(embedding, grid, points, clicks.labels[inside], report, as_prior(before))


class _Clicks:
    """Native voxels (N, 3) and what they are, (N,): 1 object, 0 background."""

    def __init__(self, points: Points, labels: Points) -> None:
        self.points, self.labels = points, labels

    def background(self) -> _Clicks:
        """Those of the background alone."""
        return _Clicks(self.points[self.labels == 0], self.labels[self.labels == 0])

    def first(self, points: Points, is_object: bool) -> _Clicks:
        """These points before the others."""
        labels = np.full(len(points), int(is_object))
        return _Clicks(np.concatenate([points, self.points]), np.concatenate([labels, self.labels]))


def _holds_volume(grid: PatchGrid, volume: Volume) -> bool:
    """Whether next to nothing of the volume lies beyond the patch."""
    far_mm = [max(at, n - 1 - at) * mm for at, n, mm in zip(grid.centre, volume.shape, volume.spacing, strict=True)]
    return bool(max(far_mm) < (0.5 + NEXT_TO_NOTHING) * grid.size * grid.spacing_mm)


def _is_nearer_better(layer: Layer, volume: Volume) -> bool:
    """Whether the object is so small that a patch of half the spacing, finer than the voxels, shows it better."""
    box = bounding_box(layer.margin > 0)
    is_small = box is None or max(edge.stop - edge.start for edge in box) < SMALL_SAMPLES
    return is_small and layer.grid.spacing_mm > 1.5 * FINEST * float(volume.spacing.min())


def _stepped(spacing_mm: float) -> float:
    """The nearest of a few spacings an octave."""
    return float(2 ** (round(log2(spacing_mm) * STEPS_PER_OCTAVE) / STEPS_PER_OCTAVE))
