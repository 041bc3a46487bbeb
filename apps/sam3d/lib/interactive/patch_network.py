"""A network as clicks use it: a patch of a volume and clicks in native voxels in, margins out; embeddings are kept."""

from __future__ import annotations

import json

import numpy as np
import torch
from numpy.typing import NDArray

from lib.cache import ByteCache
from lib.geometry import PatchGrid
from lib.images.preprocess import chosen_intensity, sample_patch
from lib.images.volumes import Volume
from lib.interactive.embedding_folder import EmbeddingFolder
from lib.interactive.report import Report
from lib.network.precision import operand_type
from lib.network.sam3d import Embedding, Sam3D
from lib.network.weights import Card
from lib.settings import Intensity, Settings

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]

NO_POINTS = np.zeros((0, 3), np.float32)
NO_LABELS = np.zeros(0, np.int64)


class PatchNetwork:
    """Safe to call from several threads; nothing about a user is kept."""

    def __init__(self, network: Sam3D, card: Card, settings: Settings, device: torch.device) -> None:
        self.card, self.device = card, device
        self._settings = settings
        self._network = network.to(device).eval()
        self._embeddings: ByteCache[Embedding] = ByteCache(settings.embedding_cache_mib * 2**20, lambda e: e.nbytes)
        self._folder = self._embedding_folder()
        self._intensities: ByteCache[tuple[Intensity, tuple[str, ...]]] = ByteCache(1024, lambda _: 1)

    @property
    def patch_size(self) -> int:
        return self._network.settings.patch_size

    def intensity(self, volume: Volume) -> tuple[Intensity, tuple[str, ...]]:
        """The numbers to normalise the volume with, and a note where they are not those that the weights' card says."""
        is_named = self._settings.intensity is not None
        return self._intensities.get(volume.key, lambda: chosen_intensity(volume, self.card.intensity, is_named))

    def encode(self, volume: Volume, grid: PatchGrid, report: Report, is_kept: bool = True) -> Embedding:
        """The patch's embedding, from memory or disk if it is there."""

        def make() -> Embedding:
            with report.timed("sample"):
                patch = sample_patch(volume, grid, self.intensity(volume)[0], self.card.has_antialiasing)
            report.n_encoded += 1
            with report.timed("encode"), torch.inference_mode():
                return self._network.encode(torch.from_numpy(patch).to(self.device)[None, None])

        if not is_kept:
            return make()
        key, folder = (volume.key, grid.key), self._folder
        return self._embeddings.get(key, (lambda: folder.get(key, make)) if folder else make)

    @torch.inference_mode()
    def decode(
        self,
        embedding: Embedding,
        grid: PatchGrid,
        points: Floats,
        labels: Labels,
        report: Report,
        prior: Floats | None = None,
    ) -> Floats:
        """How much the object's logit exceeds the background's, (P, P, P), after clicks at native voxels (N, 3) with
        labels (N,). `prior` (P, P, P) is the mask so far, for networks that read one."""
        report.n_decoded += 1
        with report.timed("decode"):
            coords = torch.from_numpy(grid.indices(points).astype(np.float32)).to(self.device)[None]
            kinds = torch.from_numpy(labels.astype(np.float32)).to(self.device)[None]
            known = () if prior is None else (torch.from_numpy(prior).to(self.device)[None, None],)
            logits = self._network.decode(embedding, coords, kinds, *known)[0].float()
            margin: Floats = (logits[1] - logits[0]).cpu().numpy()
        return margin

    def warm_up(self) -> None:
        """Answer one click on nothing, so that the first user does not wait for whatever is made at first use."""
        size = self.patch_size
        middle = torch.full((1, 1, 3), size // 2, dtype=torch.float32, device=self.device)
        with torch.inference_mode():
            embedding = self._network.encode(torch.zeros(1, 1, size, size, size, device=self.device))
            self._network.decode(embedding, middle, torch.ones(1, 1, device=self.device))

    def _embedding_folder(self) -> EmbeddingFolder | None:
        """On disk, where the settings allow: whatever changes an embedding is part of its owner's name."""
        settings = self._settings
        if not settings.embedding_disk_mib:
            return None
        precision = operand_type(settings.precision, self.device)
        owner = json.dumps([self.card.as_json(), settings.intensity is not None, str(precision), self.device.type])
        return EmbeddingFolder(settings.model_folder / "embeddings", settings.embedding_disk_mib * 2**20, owner)
