"""The published recipe: what the network is shown of a set, and the points that it is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.losses import DiceLoss
from numpy.typing import NDArray
from torch import Tensor

from lib.boxes import bounding_box
from lib.images.preprocess import normalise
from lib.learning.case_cache import CaseCache, PreparedCase
from lib.learning.dataset_plan import DatasetPlan
from lib.learning.training import dice_of, margin_of, segmentation_loss
from lib.network.sam3d import Sam3D
from lib.published.augmentation import CropRecipe, training_crop
from lib.published.points import Points, training_points, validation_points
from lib.published.volumes import TARGET, ResampledCases, cut
from lib.random_streams import RandomStream, generator

Drawing = Callable[[NDArray[np.bool_], np.random.Generator], Points]

_soft_dice_loss = DiceLoss(sigmoid=True, smooth_nr=1e-5, smooth_dr=1e-5)


@dataclass(frozen=True, eq=False)
class Drawn:
    """A patch and its target (P, P, P) float32, the target 0 or 1."""

    patch: NDArray[np.float32]
    target: NDArray[np.float32]


class PublishedTeaching:
    """The published recipe: crops as `training_crop` draws them, and 10 voxels of the target with 20 of anywhere.

    Networks that read the kind of a click (lib.network.click_maps) are told the truth about each; the published one is
    not told anything.
    """

    def __init__(
        self,
        cases: ResampledCases,
        cache: CaseCache,
        training: Sequence[str],
        validation: Sequence[str],
        plan: DatasetPlan,
        crops: CropRecipe,
    ) -> None:
        self._cases, self._cache, self._training, self._validation = cases, cache, training, validation
        self._plan, self._crops = plan, crops

    @property
    def n_validation(self) -> int:
        return len(self._validation)

    def sample(self, number: int) -> Drawn:
        """Each epoch shows every case once, in an order of its own."""
        epoch, place = divmod(number, len(self._training))
        order = generator(RandomStream.CASE_ORDER, self._plan.seed, epoch).permutation(len(self._training))
        return self._crop(self._training[order[place]], generator(RandomStream.CROP, self._plan.seed, number))

    def validation_sample(self, number: int) -> Drawn:
        """The patch in the middle of a case's target, not augmented; the same each time."""
        case = self._cases.open(self._validation[number], self._cache)
        image, target = _arrays(case)
        box = bounding_box(target)
        assert box is not None, "a prepared case has a target"
        size = self._crops.patch_size
        start = np.array([(part.start + part.stop) // 2 - size // 2 for part in box])
        patch = cut(normalise(image, case.intensity), start, size)
        return Drawn(patch, cut(target.astype(np.float32), start, size))

    def backward(
        self, network: Sam3D, patch: Tensor, target: Tensor, number: int, share: float
    ) -> tuple[float, Tensor]:
        rng = generator(RandomStream.CLICKS, self._plan.seed, number)
        logits = self._answer(network, patch, target, training_points, rng)
        loss = segmentation_loss(logits, target)
        (loss * share).backward()
        return float(loss.detach()), logits.detach()

    @torch.no_grad()
    def validate(self, network: Sam3D, patch: Tensor, target: Tensor, number: int) -> tuple[float, float]:
        rng = generator(RandomStream.VALIDATION, self._plan.seed, number)
        logits = self._answer(network, patch, target, validation_points, rng)
        return float(_soft_dice_loss(margin_of(logits), target)), dice_of(logits, target)

    def _answer(self, network: Sam3D, patch: Tensor, target: Tensor, draw: Drawing, rng: np.random.Generator) -> Tensor:
        is_target = target[0, 0].cpu().numpy() > 0
        points = draw(is_target, rng)
        kinds = is_target[tuple(points.T)] if network.settings.has_click_maps else np.ones(len(points), np.bool_)
        coords = torch.from_numpy(points.astype(np.float32))[None].to(patch.device)
        labels = torch.from_numpy(kinds.astype(np.float32))[None].to(patch.device)
        with torch.autocast(patch.device.type, torch.bfloat16, enabled=self._plan.has_bfloat16):
            logits: Tensor = network(patch, coords, labels)
        return logits.float()

    def _crop(self, name: str, rng: np.random.Generator) -> Drawn:
        case = self._cases.open(name, self._cache)
        image, target = _arrays(case)
        return Drawn(*training_crop(image, target, case.intensity, self._crops, rng))


def _arrays(case: PreparedCase) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Image and target, (D, H, W) both."""
    return np.asarray(case.volume.array, np.float32), case.regions[TARGET].whole(case.volume.shape)
