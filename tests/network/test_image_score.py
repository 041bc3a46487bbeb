"""What a score costs, that it is a function of what it is named after, and what its parts say of visible answers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lib.images.volumes import Volume, make_volume
from lib.interactive.patches import grids_over, spacings
from lib.network.sam3d import Embedding, Sam3D
from lib.scoring.calibration import Calibration
from lib.scoring.disagreement import Found, best_place, disagreement, mirrored
from lib.scoring.image_score import ScoreSettings, cover, score_volume
from network.small_networks import PUBLISHED_SMALL, SMALL, card_of, small_network

CURVE = Calibration((0.0, 1.0), (1.0, 9.0))
SETTINGS = ScoreSettings()
PASS_LIMIT = 1.5


class Counting(nn.Module):
    """A network that counts what it is asked."""

    def __init__(self, network: Sam3D) -> None:
        super().__init__()
        self.network, self.settings, self.asked = network, network.settings, Counter[str]()

    def encode(self, patch: Tensor) -> Embedding:
        self.asked["encode"] += len(patch)
        return self.network.encode(patch)

    def decode(self, embedding: Embedding, point_coords: Tensor, point_labels: Tensor) -> Tensor:
        self.asked["decode"] += 1
        return self.network.decode(embedding, point_coords, point_labels)


class Ball:
    """A decoder that finds one ball without clicks, and for a click a ball about it."""

    def __init__(self, centre: tuple[int, int, int], radius: float, answer_radius: float = 4.0) -> None:
        self.centre, self.radius, self.answer_radius = centre, radius, answer_radius

    def decode(self, embedding: Embedding, point_coords: Tensor, point_labels: Tensor) -> Tensor:
        clicked = point_coords.shape[1] > 0
        centre = point_coords[0, 0].numpy() if clicked else np.array(self.centre)
        where = np.stack(np.meshgrid(*[np.arange(32)] * 3, indexing="ij"), axis=-1)
        margin = (self.answer_radius if clicked else self.radius) - np.linalg.norm(where - centre, axis=-1)
        return torch.from_numpy(np.stack([np.zeros_like(margin), margin]))[None].float()


def volume(shape: tuple[int, int, int] = (60, 50, 40), seed: int = 0) -> Volume:
    array = np.random.default_rng(seed).normal(0, 100, shape).astype(np.int16)
    return make_volume(array, np.eye(4))


def empty() -> Embedding:
    return Embedding(*(torch.zeros(1, 1, 4, 4, 4) for _ in range(3)))


@pytest.mark.parametrize("shape", [(32, 32, 32), (60, 50, 40), (70, 70, 70), (200, 180, 90)])
def test_a_score_costs_no_more_than_one_and_a_half_passes_of_the_encoder(shape: tuple[int, int, int]) -> None:
    """A pass is the encoder once on each patch of the cover at the scale that is scored at: the fewest patches with
    the usual overlap that hold every voxel."""
    network, card, image = Counting(small_network()), card_of(), volume(shape)
    score = score_volume(network, card, image, SETTINGS, CURVE)
    scales = [len(list(grids_over(image, SMALL.patch_size, step))) for step in (1.0, *spacings(image, card)[::-1])]
    one_pass = next((count for count in scales if count <= SETTINGS.max_patches), scales[-1])
    assert network.asked["encode"] == score.n_encoded <= PASS_LIMIT * one_pass
    assert network.asked["decode"] == score.n_decoded == score.n_encoded + 8
    assert score.n_encoded <= SETTINGS.max_patches


def test_the_cover_is_at_the_finest_scale_that_few_patches_suffice_for() -> None:
    assert [grid.spacing_mm for grid in cover(volume((32, 32, 32)), card_of(), 8)] == [1.0]
    assert {grid.spacing_mm for grid in cover(volume((60, 50, 40)), card_of(), 8)} == {60 / 32}
    assert {grid.spacing_mm for grid in cover(volume((300, 300, 300)), card_of(), 8)} == {300 / 32}  # the coarsest
    fine = make_volume(np.zeros((60, 60, 60), np.int16), np.diag([0.05, 0.05, 0.05, 1]))
    assert {round(grid.spacing_mm, 6) for grid in cover(fine, card_of(), 8)} == {round(60 * 0.05 / 32, 6)}
    # A network of one spacing sees some patches of it.
    far = cover(volume((300, 300, 300)), card_of(PUBLISHED_SMALL), 5)
    assert len(far) == 5
    assert {grid.spacing_mm for grid in far} == {1.0}
    assert len({grid.key for grid in far}) == 5


def test_the_same_image_weights_and_settings_give_the_same_score() -> None:
    card = card_of()
    first = score_volume(small_network(), card, volume(), SETTINGS, CURVE)
    assert score_volume(small_network(), card, volume(), SETTINGS, CURVE) == first
    others = [
        score_volume(small_network(1), card, volume(), SETTINGS, CURVE),
        score_volume(small_network(), card, volume(seed=1), SETTINGS, CURVE),
    ]
    assert first.features not in [other.features for other in others]
    assert len(first.features) == 2 * SMALL.neck_dim
    assert first.expected_clicks == pytest.approx(1 + 8 * first.disagreement, abs=1e-3)


def test_the_automatic_prompt_lies_where_the_network_is_surest_and_in_the_image() -> None:
    inside = np.ones((32, 32, 32), bool)
    found = best_place(Ball((20, 10, 5), 3), empty(), inside)
    assert found.place.tolist() == [20, 10, 5]
    assert found.margin == 3
    inside[18:] = False
    assert best_place(Ball((20, 10, 5), 3), empty(), inside).place.tolist() == [17, 10, 5]


def test_answers_that_move_with_the_click_disagree_and_those_that_do_not_agree() -> None:
    class Fixed(Ball):
        """Whatever is clicked, the same ball; in a mirror, the ball in the mirror."""

        def decode(self, embedding: Embedding, point_coords: Tensor, point_labels: Tensor) -> Tensor:
            logits = super().decode(embedding, point_coords[:, :0], point_labels[:, :0])
            for axis in range(3):
                if embedding.feature.amax(dim=[d for d in range(5) if d != (4, 2, 3)[axis]])[-1] > 0:
                    logits = logits.flip(axis + 2)
            return logits

    feature = torch.zeros(1, 1, 4, 4, 4)
    feature[0, 0, 0, 0, 0] = 1  # so that a mirror can be told from none
    seen = Embedding(feature, feature, feature)
    inside = np.ones((32, 32, 32), bool)
    place = np.array([15.0, 15.0, 15.0])
    agreed, count = disagreement(Fixed((15, 15, 15), 6), Found(seen, inside, place, 1.0))
    assert (agreed, count) == (pytest.approx(0, abs=1e-9), 8)
    moving, _ = disagreement(Ball((15, 15, 15), 6), Found(seen, inside, place, 1.0))
    farther, _ = disagreement(Ball((15, 15, 15), 6, answer_radius=1.2), Found(seen, inside, place, 1.0))
    assert 0.1 < moving < farther <= 1


def test_a_mirror_turns_each_axis_of_a_patch() -> None:
    """Axes (d, h, w) of a patch are the last, first and second of an embedding's maps; twice in a mirror is none."""
    maps = torch.arange(64.0).reshape(1, 1, 4, 4, 4)
    seen = Embedding(maps, maps, maps)
    assert torch.equal(mirrored(seen, 0).feature, maps.flip(4))
    assert torch.equal(mirrored(seen, 1).fusion, maps.flip(2))
    assert torch.equal(mirrored(seen, 2).image, maps.flip(3))
    for axis in range(3):
        assert torch.equal(mirrored(mirrored(seen, axis), axis).feature, maps)


def test_a_mirrored_embedding_is_answered_in_the_mirror() -> None:
    """With a decoder that looks at the image alone, the mirrored question has the mirrored answer: so the click's own
    mirror and the axes are right."""

    class Nearest(nn.Module):
        """An object where the image is like the clicked cell."""

        def decode(self, embedding: Embedding, point_coords: Tensor, point_labels: Tensor) -> Tensor:
            image = embedding.image[0, 0].permute(2, 0, 1)  # (h, w, d) to (d, h, w)
            d, h, w = (int(value) for value in point_coords[0, 0])
            margin = 0.5 - (image - image[d, h, w]).abs()
            return torch.stack([torch.zeros_like(margin), margin])[None]

    torch.manual_seed(0)
    image = torch.randint(0, 4, (1, 1, 6, 6, 6)).float()
    seen = Embedding(image, image, image)

    class Still(Nearest):
        """The same, but only for the place itself: prompts beside it get its answer."""

        def decode(self, embedding: Embedding, point_coords: Tensor, point_labels: Tensor) -> Tensor:
            place = torch.tensor([[[1.0, 2.0, 4.0]]])
            for axis in range(3):
                if torch.equal(embedding.image, mirrored(seen, axis).image):
                    place[0, 0, axis] = 5 - place[0, 0, axis]
                    assert torch.equal(place, point_coords.round())
            return super().decode(embedding, place, point_labels)

    spread, _ = disagreement(Still(), Found(seen, np.ones((6, 6, 6), bool), np.array([1.0, 2.0, 4.0]), 0.0))
    assert spread == pytest.approx(0, abs=1e-9)
