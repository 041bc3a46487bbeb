"""Annotated cases as training samples: opened when needed, skipped by name when they cannot be used.

Every sample is decided by a seed and its own number. Samples use the same road from volume to patch as clicks do.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lib.boxes import Index
from lib.cache import ByteCache
from lib.errors import LabelError, Sam3DError
from lib.geometry import PatchGrid, same_place
from lib.images.preprocess import chosen_intensity, sample_patch
from lib.images.volumes import file_stamp, open_volume
from lib.interactive.clicks import first_click
from lib.interactive.patches import finest_that_holds, spacings
from lib.labels.masks import read_label
from lib.learning.augmentation import Augmentation
from lib.learning.case_cache import FORMAT, CaseCache, PreparedCase, Region
from lib.network.weights import Card
from lib.random_streams import RandomStream, generator

logger = logging.getLogger(__name__)

# How often a patch without the label is looked for before a patch with it is taken instead.
BACKGROUND_TRIES = 16
# How often a patch is drawn at any spacing of a chain, not at the finest that holds the object.
OTHER_SPACING_SHARE = 0.5
# How often a patch has the object's middle in its own, as the patch of a first click mostly has.
CENTRED_SHARE = 0.5
LIGHT = Augmentation()


@dataclass(frozen=True)
class Case:
    """An image, its label file, and names of the label's values where the server knows them."""

    id: str
    image: Path
    label: Path
    value_names: Mapping[int, str] | None = None


@dataclass(frozen=True)
class Draw:
    """Where patches are drawn. A `background_share` of them are empty of the label that they are named after; a
    `centred_share` of the others have their object's middle in their own, and in the rest `jitter`, a share of half a
    patch, is how far the voxel that they were drawn for may lie off it."""

    background_share: float = 0.1
    centred_share: float = CENTRED_SHARE
    jitter: float = 0.8


DRAW = Draw()
# Off the middle, as training's hardest patches are, but never empty: to measure on.
MEASURED = Draw(background_share=0.0, centred_share=0.0, jitter=0.4)


@dataclass(frozen=True, eq=False)
class TrainingSample:
    """Patch and target (P, P, P) float32, axes (d, h, w), the target 0 or 1.

    `voxel` is the native voxel (i, j, k) that the patch was drawn for, and `at` its patch index (d, h, w).
    """

    patch: NDArray[np.float32]
    target: NDArray[np.float32]
    label: str
    case: str
    voxel: Index
    at: Index


class CaseStore:
    """Training samples of a list of cases; for one thread, but any number of processes may share the cache folder.

    A case that cannot be used is left out, and `skipped` says why. Prepared cases take at most `limit_bytes`, on disk
    where a `cache_folder` is given and in memory where not. `is_named_intensity` is that of `chosen_intensity`.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        labels: Sequence[str],
        card: Card,
        cache_folder: Path | None,
        limit_bytes: int,
        augmentation: Augmentation | None = LIGHT,
        is_named_intensity: bool = False,
    ) -> None:
        self.skipped: dict[str, str] = {}
        self.notes: dict[str, tuple[str, ...]] = {}
        self._cases = {case.id: case for case in cases}
        self._labels = tuple(labels)
        self._card = card
        self._augmentation = augmentation
        self._is_named_intensity = is_named_intensity
        self._cache: CaseCache | ByteCache[PreparedCase] = (
            ByteCache(limit_bytes, lambda case: case.nbytes)
            if cache_folder is None
            else CaseCache(cache_folder, limit_bytes)
        )
        self._keys: dict[str, str] = {}

    def usable(self) -> list[str]:
        """Ids of the cases that open, in the order given; opens each of them."""
        return [case for case in self._cases if self.open(case) is not None]

    def open(self, case_id: str) -> PreparedCase | None:
        """A case ready for sampling, or None for one that is skipped."""
        if case_id in self.skipped:
            return None
        case = self._cases[case_id]
        try:
            if case_id not in self._keys:
                self._keys[case_id] = self._key(case)
            prepared = self._cache.get(self._keys[case_id], lambda: self._prepared(case))
        except (Sam3DError, OSError) as error:
            self.skipped[case_id] = str(error)
            logger.warning("case %s is skipped: %s", case_id, error)
            return None
        self.notes[case_id] = prepared.notes
        return prepared

    def samples(self, seed: int, start: int, count: int, draw: Draw = DRAW) -> Iterator[TrainingSample]:
        """Samples number `start` to `start + count`, each decided by the seed and its number alone."""
        for number in range(start, start + count):
            yield self.sample(generator(RandomStream.CASE_PATCH, seed, number), draw)

    def sample(self, rng: np.random.Generator, draw: Draw = DRAW) -> TrainingSample:
        """A patch of a random label of a random case; LabelError if there is no case to draw from."""
        case_id, prepared = self.draw_case(rng)
        name, voxel, grid = self._drawn_patch(prepared, rng, draw)
        patch, target = self._patch(prepared, grid), prepared.regions[name].target(grid)
        at = _index(grid, voxel)
        if self._augmentation is not None:
            patch, target, at = self._augmentation(patch, target, at, rng)
        return TrainingSample(patch, target, name, case_id, voxel, at)

    def exchanged(self, cases: Sequence[str], rng: np.random.Generator, draw: Draw) -> Iterator[list[TrainingSample]]:
        """For each of the cases, which are usable, a sample of it with the image of each of them in turn, its own among
        them: what is in another image as far along its extent. So it would look had the label files been mixed up."""
        opened = {case_id: self.open(case_id) for case_id in cases}
        volumes = {case_id: prepared for case_id, prepared in opened.items() if prepared is not None}
        for case_id, prepared in volumes.items():
            name, voxel, grid = self._drawn_patch(prepared, rng, draw)
            target, at, own = prepared.regions[name].target(grid), _index(grid, voxel), prepared.volume
            yield [
                TrainingSample(
                    self._patch(
                        other, same_place(grid, own.affine, own.shape, other.volume.affine, other.volume.shape)
                    ),
                    target,
                    name,
                    case_id,
                    voxel,
                    at,
                )
                for other in volumes.values()
            ]

    def _drawn_patch(
        self, prepared: PreparedCase, rng: np.random.Generator, draw: Draw
    ) -> tuple[str, Index, PatchGrid]:
        """A random label of a case, a voxel that a patch is drawn for, and the patch."""
        names = sorted(prepared.regions)
        name = names[int(rng.integers(len(names)))]
        region = prepared.regions[name]
        if rng.random() < draw.background_share:
            placed = self._background(prepared, region, draw.jitter, rng)
            if placed is not None:
                return name, *placed
        drawn = region.draw(rng)
        if draw.centred_share and rng.random() < draw.centred_share:
            return name, *self._placed(prepared, region, self._middle(prepared, region, drawn), 0.0, rng)
        return name, *self._placed(prepared, region, drawn, draw.jitter, rng)

    def draw_case(self, rng: np.random.Generator) -> tuple[str, PreparedCase]:
        """A random case that opens; LabelError if there is none."""
        # In a drawn order rather than from those left over, so that a sample does not depend on which bad cases have
        # been met before.
        ids = list(self._cases)
        for index in rng.permutation(len(ids)):
            prepared = self.open(ids[index])
            if prepared is not None:
                return ids[index], prepared
        reasons = "; ".join(list(self.skipped.values())[:3]) or "none is annotated"
        raise LabelError(f"none of {len(ids)} cases can be trained on: {reasons}")

    def _placed(
        self, prepared: PreparedCase, region: Region, voxel: Index, jitter: float, rng: np.random.Generator
    ) -> tuple[Index, PatchGrid]:
        """A patch somewhere around a voxel, which lies on one of its samples exactly."""
        grid = self._around(prepared, region, voxel, rng)
        reach = int(jitter * ((grid.size - 1) // 2))
        return voxel, grid.shifted(rng.integers(-reach, reach + 1, size=3))

    def _around(self, prepared: PreparedCase, region: Region, voxel: Index, rng: np.random.Generator) -> PatchGrid:
        """The patch around a voxel at the finest spacing that holds the object, or at any."""
        grids = self._grids(prepared, voxel)
        if len(grids) > 1 and rng.random() < OTHER_SPACING_SHARE:
            return grids[int(rng.integers(len(grids)))]
        return self._fitting(prepared, region, grids)

    def _middle(self, prepared: PreparedCase, region: Region, voxel: Index) -> Index:
        """A voxel in the middle of the object that another one belongs to, as far as the patch of a click there shows
        it; that one itself where a voxel beside the object is nearest to its middle."""
        grid = self._fitting(prepared, region, self._grids(prepared, voxel))
        place = first_click(_clicked(region, grid) > 0, (1.0, 1.0, 1.0))
        i, j, k = np.rint(grid.to_volume[:3, :3] @ place + grid.to_volume[:3, 3]).astype(int).tolist()
        return (i, j, k) if region.holds((i, j, k)) else voxel

    def _grids(self, prepared: PreparedCase, voxel: Index) -> list[PatchGrid]:
        size, affine = self._card.network.patch_size, prepared.volume.affine
        finest_first = reversed(spacings(prepared.volume, self._card))
        return [PatchGrid.around(affine, voxel, size, spacing_mm) for spacing_mm in finest_first]

    def _fitting(self, prepared: PreparedCase, region: Region, grids: Sequence[PatchGrid]) -> PatchGrid:
        return grids[finest_that_holds(((grid, _clicked(region, grid)) for grid in grids), prepared.volume)]

    def _background(
        self, prepared: PreparedCase, region: Region, jitter: float, rng: np.random.Generator
    ) -> tuple[Index, PatchGrid] | None:
        """A patch without the label that is not flat all over, as air is; None where none was found."""
        for _ in range(BACKGROUND_TRIES):
            i, j, k = (int(place) for place in rng.integers(prepared.volume.shape))
            voxel, grid = self._placed(prepared, region, (i, j, k), jitter, rng)
            if not region.target(grid).any() and np.ptp(self._patch(prepared, grid)) > 0:
                return voxel, grid
        return None

    def _patch(self, prepared: PreparedCase, grid: PatchGrid) -> NDArray[np.float32]:
        return sample_patch(prepared.volume, grid, prepared.intensity, self._card.has_antialiasing)

    def _prepared(self, case: Case) -> PreparedCase:
        volume = open_volume(case.image)
        found = read_label(case.label, volume, self._labels, case.value_names)
        regions = {name: Region.around(mask) for name, mask in found.masks.items()}
        intensity, remarks = chosen_intensity(volume, self._card.intensity, self._is_named_intensity)
        return PreparedCase(volume, intensity, regions, (*volume.notes, *remarks, *found.notes))

    def _key(self, case: Case) -> str:
        """Changes with the files and with whatever decides how they are prepared; patch size and spacing do not."""
        names = sorted((case.value_names or {}).items())
        parts = [FORMAT, file_stamp(case.image), file_stamp(case.label), names, self._labels, self._is_named_intensity]
        content = json.dumps([*parts, asdict(self._card.intensity)], default=str)
        return sha256(content.encode(errors="surrogatepass")).hexdigest()[:32]


def _index(grid: PatchGrid, voxel: Index) -> Index:
    """The patch index (d, h, w) nearest to a voxel (i, j, k)."""
    d, h, w = (int(place) for place in np.rint(grid.indices([voxel])[0]))
    return d, h, w


def _clicked(region: Region, grid: PatchGrid) -> NDArray[np.float32]:
    """1 where a patch shows the object that its middle sample belongs to, of several lesions the one that is clicked
    on, and -1 elsewhere; everywhere where the middle lies beside them."""
    parts, _ = ndimage.label(region.target(grid))
    number = parts[(grid.size // 2,) * 3]
    return np.where((parts == number) & (number > 0), 1, -1).astype(np.float32)
