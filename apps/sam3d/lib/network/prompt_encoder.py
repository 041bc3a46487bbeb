"""The visual sampler: what the image looks like at the clicks, told to every token of the deepest features."""

from __future__ import annotations

import torch
from einops import rearrange
from segment_anything.modeling.common import MLPBlock
from segment_anything.modeling.transformer import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from lib.network import click_maps
from lib.settings import NetworkSettings


class PromptLayer(nn.Module):
    """Learned global queries listen to the points; every image token then listens to the queries.

    arXiv 2306.13465, section 3.3; the order of norms and residuals is the published code's behaviour.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        dim, heads = settings.neck_dim, settings.prompt_heads
        self.global_query = nn.Parameter(0.1 * torch.randn(1, settings.num_queries, dim))
        self.self_attn = Attention(dim, heads)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLPBlock(dim, settings.prompt_mlp_dim, act=nn.ReLU)
        self.norm3 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = Attention(dim, heads, downsample_rate=2)
        self.norm4 = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """tokens (B, T, C) of the image, points (B, N, C); returns both, updated."""
        queries, points = self.listen(points)
        tokens = self.norm4(tokens + self.cross_attn_image_to_token(tokens, queries, queries))
        return tokens, points

    def listen(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """What the global queries (B, num_queries, C) heard from the points (B, N, C), and the points, updated."""
        count = self.global_query.shape[1]
        queries = torch.cat([self.global_query.expand(len(points), -1, -1), points], dim=1)
        # The first norm sees the attention alone; the residual joins before the second.
        queries = self.norm2(queries + self.norm1(self.self_attn(queries, queries, queries)))
        points = queries[:, count:]
        queries = queries[:, :count]
        return self.norm3(queries + self.mlp(queries)), points


class Transformer(nn.Module):
    """The prompt layers, one after another (a module of its own so that names match published checkpoints)."""

    def __init__(self, settings: NetworkSettings, depth: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(PromptLayer(settings) for _ in range(depth))

    def forward(self, tokens: Tensor, points: Tensor) -> Tensor:
        for layer in self.layers:
            tokens, points = layer(tokens, points)
        return tokens


class PromptEncoder(nn.Module):
    """Deepest features and clicks in, features that know the clicks out."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.settings = settings
        self.transformer = Transformer(settings)
        # Zero for a fresh network, so that a published checkpoint keeps its answers; foreground has none by design.
        self.background_embedding = nn.Parameter(torch.zeros(settings.neck_dim))
        self.click_proj = (
            nn.Linear(click_maps.COUNT, settings.neck_dim, bias=False) if settings.has_click_maps else None
        )

    def forward(
        self, feature: Tensor, point_coords: Tensor, point_labels: Tensor, maps: Tensor | None = None
    ) -> Tensor:
        """feature (B, C, h, w, d); point_coords (B, N, 3) in patch voxels (d, h, w); point_labels (B, N); click maps
        (B, COUNT, h, w, d) where the network has them. Returns (B, C, h, w, d)."""
        points = self.points(feature, point_coords, point_labels)
        tokens = rearrange(feature, "b c h w d -> b (h w d) c")
        if self.click_proj is not None and maps is not None:
            tokens = tokens + self.click_proj(rearrange(maps, "b c h w d -> b (h w d) c"))
        tokens = self.transformer(tokens, points)
        grid = self.settings.grid_size
        prompted: Tensor = rearrange(tokens, "b (h w d) c -> b c h w d", h=grid, w=grid, d=grid)
        return prompted

    def points(self, feature: Tensor, point_coords: Tensor, point_labels: Tensor) -> Tensor:
        """What the image looks like at the points, (B, N, C), those of the background marked."""
        points = self.sample(feature, point_coords)
        return points + (point_labels == 0).to(points.dtype)[..., None] * self.background_embedding

    def sample(self, feature: Tensor, point_coords: Tensor) -> Tensor:
        """Features (B, N, C) at the points, trilinear; zero outside of the patch."""
        if point_coords.shape[1] == 0:
            return feature.new_zeros(len(feature), 0, feature.shape[1])
        # grid_sample counts from voxel edges, clicks from voxel centres: hence the half voxel, here and nowhere else.
        # Its x is the last axis of (h, w, d), so (d, w, h) is the order it wants.
        grid = ((point_coords.to(feature.dtype) + 0.5) * 2 / self.settings.patch_size - 1)[..., [0, 2, 1]]
        sampled = F.grid_sample(feature, grid[:, None, None], padding_mode="zeros", align_corners=False)
        return rearrange(sampled, "b c 1 1 n -> b n c")
