"""The published network's answer: the patch around a click, followed into neighbouring patches.

Such a network sees patches of one spacing and no mask so far. Where the object reaches a patch's border, pseudo-clicks
tell the next patch what to follow; overlapping answers are blended.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from lib.boxes import Box
from lib.cache import ByteCache
from lib.geometry import PatchGrid
from lib.images.volumes import Volume
from lib.interactive.label_maps import NOWHERE
from lib.interactive.local_update import locally_updated
from lib.interactive.many_clicks import counted_together
from lib.interactive.patch_network import NO_POINTS, PatchNetwork
from lib.interactive.patches import blend, is_covered, neighbours, opens_patch
from lib.interactive.prompts import Prompt
from lib.interactive.report import Report

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]

# Answers to the first so many clicks of a patch are kept, so that one more click is decoded once.
ANSWERS_MIB = 128


class GrowingObjects:
    """Objects that grow over patches of one spacing."""

    def __init__(self, network: PatchNetwork, max_patches: int) -> None:
        self._network, self._card, self._max_patches = network, network.card, max_patches
        self._answers: ByteCache[Floats] = ByteCache(ANSWERS_MIB * 2**20, lambda margin: margin.nbytes)

    def segment(self, volume: Volume, prompt: Prompt, name: str, report: Report) -> tuple[Box, Floats]:
        """The object's margin over the background on a native box: the clicked patches, and on from those to
        neighbouring ones as long as the object reaches a border and `max_patches` allows."""
        if prompt.drawn is not None:
            report.notes.append(f"these weights read clicks alone: what was drawn of {name} was left out")
        if not len(prompt.foreground):
            return NOWHERE, np.zeros((0, 0, 0), np.float32)
        seeds: list[PatchGrid] = []
        for click in prompt.foreground:
            if opens_patch(click, seeds):
                seeds.append(PatchGrid.around(volume.affine, click, self._network.patch_size, self._card.spacing_mm))
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
        report.patches += [grid for grid, _ in parts]
        with report.timed("paste"):
            return blend(parts, volume, prompt.foreground)

    def _follow(
        self, volume: Volume, prompt: Prompt, seed: PatchGrid, opened: list[PatchGrid], report: Report
    ) -> tuple[list[tuple[PatchGrid, Floats]], bool]:
        """Follow the object from one clicked patch to its end, before the next one is looked at: so a later click far
        away changes nothing here. Adds to `opened`; returns the patches' margins and whether the end was reached."""
        parts = []
        has_ended = True
        opened.append(seed)
        queue = deque([(seed, NO_POINTS)])
        while queue:
            grid, pseudo_clicks = queue.popleft()
            margin = self._answer(volume, grid, prompt, pseudo_clicks, report)
            parts.append((grid, margin))
            near_by = neighbours(grid, margin, volume)
            news = [(near, clicks) for near, clicks in near_by if not is_covered(near, opened)]
            room = max(0, self._max_patches - len(opened))
            has_ended &= len(news) <= room
            opened += [near for near, _ in news[:room]]
            queue += news[:room]
        return parts, has_ended

    def _answer(self, volume: Volume, grid: PatchGrid, prompt: Prompt, pseudo_clicks: Floats, report: Report) -> Floats:
        """The object's margin (P, P, P) in one patch after all its clicks."""
        points, labels, n_pseudo = self._points(grid, prompt, pseudo_clicks)
        # Weights that were never trained to correct an answer get all clicks at once, as they were published.
        n_together = (
            max(1, n_pseudo, counted_together(len(points))) if self._card.has_background_clicks else len(points)
        )

        def answer(count: int) -> Floats:
            clicked = points[:count].tobytes(), labels[:count].tobytes(), min(count, n_together)
            return self._answers.get((volume.key, grid.key, *clicked), lambda: make(count))

        def make(count: int) -> Floats:
            embedding = self._network.encode(volume, grid, report)
            margin = self._network.decode(embedding, grid, points[:count], labels[:count], report)
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
        if not self._card.has_background_clicks:
            inside &= prompt.point_labels == 1
        points = prompt.point_coords[inside].astype(np.float32)
        labels = prompt.point_labels[inside]
        if (labels == 1).any():
            return points, labels, 0
        labels = np.concatenate([np.ones(len(pseudo_clicks), np.int64), labels])
        return np.concatenate([pseudo_clicks, points]), labels, len(pseudo_clicks)
